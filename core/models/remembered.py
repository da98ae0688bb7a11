"""What was found out about files, kept on disk: facts from headers, and hashes.

A cache: every entry belongs to a file as it was, and whatever can't be read is found out again.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from core.errors import FileError
from core.models.files import tensors_begin

HashKind = Literal["file", "tensors"]
"""The whole file, or what follows a safetensors file's header."""
CHUNK = 4 * 2**20
FORMAT = 1
"""Raised when facts are read differently than before."""


class Remembered:
    """Facts and hashes by path, size and time. Thread-safe; several processes may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def facts(self, path: Path, stamp: str) -> str | None:
        """What was remembered of a file with that stamp, as it was handed in."""
        return self._value("facts", path, stamp)

    def remember_facts(self, path: Path, stamp: str, facts: str) -> None:
        self._remember("facts", path, stamp, facts)

    def hash(self, path: Path, kind: HashKind = "file") -> str | None:
        """SHA-256, hexadecimal, where it is known of the file as it is now."""
        try:
            return self._value(kind, path, _version(path))
        except OSError:
            return None

    def hashed(
        self,
        path: Path,
        kind: HashKind = "file",
        goes_on: Callable[[int], bool] = lambda done: True,
    ) -> str | None:
        """SHA-256, computed if it is not known; None where `goes_on` (bytes done) said no.

        Raises:
            FileError: the file can't be read.
        """
        if (known := self.hash(path, kind)) is not None:
            return known
        try:
            version = _version(path)
            digest = _sha256(path, tensors_begin(path) if kind == "tensors" else 0, goes_on)
        except OSError as error:
            raise FileError(f"{path.name} can't be read: {error.strerror or error}") from error
        if digest is not None:
            self._remember(kind, path, version, digest)
        return digest

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _value(self, kind: str, path: Path, stamp: str) -> str | None:
        query = "SELECT value FROM remembered WHERE kind = ? AND path = ? AND stamp = ?"
        row = self._row(query, (kind, str(path), f"{FORMAT} {stamp}"))
        return None if row is None else str(row[0])

    def _remember(self, kind: str, path: Path, stamp: str, value: str) -> None:
        query = "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?)"
        self._row(query, (kind, str(path), f"{FORMAT} {stamp}", value))

    def _row(self, query: str, values: tuple[str, ...]) -> tuple[str, ...] | None:
        """The first row of an answer. A damaged file is begun anew, and nothing is known then."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _connected(self._path)
                return self._connection.execute(query, values).fetchone()
            except sqlite3.OperationalError:  # locked, or its folder can't be written
                return None
            except (sqlite3.DatabaseError, OSError):
                self._disconnect()
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)
                return None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connected(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS remembered "
        "(kind TEXT, path TEXT, stamp TEXT, value TEXT, PRIMARY KEY (kind, path))"
    )
    return connection


def _version(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _sha256(path: Path, start: int, goes_on: Callable[[int], bool]) -> str | None:
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    done = 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            done += count
            if not goes_on(done):
                return None
    return digest.hexdigest()
