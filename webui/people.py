"""What each person prefers: small values by owner and name, in SQLite, whole at any time.

Matters of taste only; nothing kept here changes what another person sees or what a machine does.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from core.errors import FileError
from core.images.save import SaveOptions
from core.request import Json

MOST_OWNERS = 2000
"""Those seen longest ago are forgotten first."""


class People:
    """Preferences by owner. Thread-safe."""

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
                "CREATE TABLE IF NOT EXISTS preferences (owner TEXT PRIMARY KEY, "
                "seen REAL NOT NULL, said TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise FileError(f"{path} can't be written ({error})") from error

    def of(self, owner: str) -> dict[str, Json]:
        """What this owner has said; empty for a stranger."""
        with self._lock:
            row = self._base.execute(
                "SELECT said FROM preferences WHERE owner = ?", (owner,)
            ).fetchone()
        return json.loads(row[0]) if row else {}

    def change(self, owner: str, values: Mapping[str, Json]) -> dict[str, Json]:
        """Sets these, keeps the rest; None takes a value away. All at once or not at all.

        Raises:
            FileError: the disk refuses.
        """
        said = {**self.of(owner), **values}
        said = {name: value for name, value in said.items() if value is not None}
        try:
            with self._lock:
                self._base.execute(
                    "INSERT INTO preferences (owner, seen, said) VALUES (?, ?, ?) "
                    "ON CONFLICT(owner) DO UPDATE SET seen = excluded.seen, said = excluded.said",
                    (owner, time.time(), json.dumps(said)),
                )
                self._base.execute(
                    "DELETE FROM preferences WHERE owner NOT IN "
                    "(SELECT owner FROM preferences ORDER BY seen DESC LIMIT ?)",
                    (MOST_OWNERS,),
                )
        except sqlite3.Error as error:
            raise FileError(f"what you prefer could not be kept ({error})") from error
        return said

    def close(self) -> None:
        with self._lock:
            self._base.close()


def save_options(said: Mapping[str, Json]) -> SaveOptions:
    """How somebody with these preferences wants pictures saved.

    Raises:
        RequestError: a format or a quality there is not.
    """
    names = ("format", "quality", "pattern", "folders")
    return SaveOptions(**{name: said[name] for name in names if said.get(name) is not None})  # type: ignore[arg-type]
