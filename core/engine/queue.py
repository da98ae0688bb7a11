"""The durable list of jobs: a request is JSON, so a queue is a table.

A job that was waiting or running when the process died is there after the restart. SQLite commits
every change before it is acted on.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from core.engine.job import JobState
from core.errors import FileError, RequestError
from core.request import GenerationRequest

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
                "error TEXT)"
            )
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileError(
                f"the data folder {path.parent} can't be written ({reason}); choose another one"
            ) from error

    def add(self, row: Row) -> None:
        self._run(
            "INSERT INTO jobs (id, owner, request, created, state, attempts, error) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                row.id,
                row.owner,
                json.dumps(row.request.to_json()),
                row.created,
                row.state.value,
                row.attempts,
                row.error,
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

    def unfinished(self) -> list[Row]:
        """What was waiting or running, oldest first.

        A row that this version can't read is set aside as failed, with the reason.
        """
        return self._read("state IN ('waiting', 'running') ORDER BY number")

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
        columns = "id, owner, request, created, state, attempts, error"
        with self._lock:
            found = self._base.execute(
                f"SELECT {columns} FROM jobs WHERE {where}", values
            ).fetchall()
        rows = []
        for id, owner, request, created, state, attempts, error in found:
            try:
                value = GenerationRequest.from_json(json.loads(request))
            except (RequestError, ValueError) as problem:
                self.end(id, JobState.FAILED, f"this version can't read the request: {problem}")
                continue
            rows.append(Row(id, owner, value, created, JobState(state), attempts, error))
        return rows

    def _run(self, statement: str, values: tuple[object, ...]) -> None:
        with self._lock:
            self._base.execute(statement, values)
