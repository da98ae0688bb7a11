"""The durable list of jobs: a request is JSON, so a queue is a table.

A job that was waiting or running when the process died is there after the restart. SQLite commits
every change before it is acted on.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.engine.job import JobState
from core.errors import FileError, RequestError
from core.request import GenerationRequest

EVERYBODY = "*"
"""Stands for all owners where the whole queue is paused."""
LATER = {"saves": "INTEGER NOT NULL DEFAULT 1", "position": "REAL"}
"""Columns that the first tables lack."""
MAX_ATTEMPTS = 2
"""A job that took the process down twice is not begun a third time."""


@dataclass(frozen=True)
class Row:
    """One job as the table knows it."""

    id: str
    owner: str
    request: GenerationRequest
    created: float
    """Seconds since 1970."""
    state: JobState
    attempts: int
    """How often it was begun."""
    error: str | None
    saves: bool = True
    """Whether its pictures go to disk."""


class Queue:
    """Jobs in the order they came. Thread-safe; one connection behind one lock."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileError: the file can't be opened or written.
        """
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, "
                "id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, request TEXT NOT NULL, "
                "created REAL NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, "
                "error TEXT, saves INTEGER NOT NULL DEFAULT 1, position REAL)"
            )
            there = {row[1] for row in self._base.execute("PRAGMA table_info(jobs)")}
            for name, kind in LATER.items():
                if name not in there:
                    self._base.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
            self._base.execute("CREATE TABLE IF NOT EXISTS paused (owner TEXT PRIMARY KEY)")
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileError(
                f"the data folder {path.parent} can't be written ({reason}); choose another one"
            ) from error

    def add(self, row: Row) -> None:
        self._run(
            "INSERT INTO jobs (id, owner, request, created, state, attempts, error, saves) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.id,
                row.owner,
                json.dumps(row.request.to_json()),
                row.created,
                row.state.value,
                row.attempts,
                row.error,
                row.saves,
            ),
        )

    def begin(self, id: str) -> None:
        """The job is running from now on, for one more time."""
        self._run(
            "UPDATE jobs SET state = ?, attempts = attempts + 1 WHERE id = ?",
            (JobState.RUNNING.value, id),
        )

    def end(self, id: str, state: JobState, error: str | None = None) -> None:
        self._run("UPDATE jobs SET state = ?, error = ? WHERE id = ?", (state.value, error, id))

    def put_back(self, id: str) -> None:
        """A running job that was stopped in good order waits again; that attempt is forgotten."""
        self._run(
            "UPDATE jobs SET state = ?, attempts = attempts - 1 WHERE id = ?",
            (JobState.WAITING.value, id),
        )

    def arrange(self, ids: Sequence[str]) -> None:
        """These waiting jobs trade places, so that they stand in this order. All, or none."""
        marks = ", ".join("?" * len(ids))
        with self._lock, self._base:
            self._base.execute("BEGIN")
            found = self._base.execute(
                f"SELECT COALESCE(position, number) FROM jobs WHERE id IN ({marks})", tuple(ids)
            )
            places = sorted(place for (place,) in found)
            for id, place in zip(ids, places, strict=True):
                self._base.execute("UPDATE jobs SET position = ? WHERE id = ?", (place, id))

    def pause(self, owner: str, paused: bool) -> None:
        """Whether this owner's jobs wait until further notice; see `EVERYBODY`."""
        if paused:
            self._run("INSERT OR IGNORE INTO paused (owner) VALUES (?)", (owner,))
        else:
            self._run("DELETE FROM paused WHERE owner = ?", (owner,))

    def paused(self) -> set[str]:
        with self._lock:
            return {owner for (owner,) in self._base.execute("SELECT owner FROM paused")}

    def unfinished(self) -> list[Row]:
        """What was waiting or running: that which ran first, then in its owners' order.

        A row that this version can't read is set aside as failed, with the reason.
        """
        return self._read(
            "state IN ('waiting', 'running') ORDER BY state, COALESCE(position, number)"
        )

    def row(self, id: str) -> Row | None:
        rows = self._read("id = ?", (id,))
        return rows[0] if rows else None

    def recent(self, owner: str, count: int) -> list[Row]:
        """The owner's last jobs, oldest first."""
        return self._read("owner = ? ORDER BY number DESC LIMIT ?", (owner, count))[::-1]

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def _read(self, where: str, values: tuple[object, ...] = ()) -> list[Row]:
        columns = "id, owner, request, created, state, attempts, error, saves"
        with self._lock:
            found = self._base.execute(
                f"SELECT {columns} FROM jobs WHERE {where}", values
            ).fetchall()
        rows = []
        for id, owner, request, created, state, attempts, error, saves in found:
            try:
                value = GenerationRequest.from_json(json.loads(request))
            except (RequestError, ValueError) as problem:
                self.end(id, JobState.FAILED, f"this version can't read the request: {problem}")
                continue
            known = JobState(state)
            rows.append(Row(id, owner, value, created, known, attempts, error, bool(saves)))
        return rows

    def _run(self, statement: str, values: tuple[object, ...]) -> None:
        with self._lock:
            self._base.execute(statement, values)
