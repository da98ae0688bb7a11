"""The queue on disk: whichever write fails, a row is the old one or the new one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.engine.job import JobState
from core.engine.queue import Queue, Row
from core.request import GenerationRequest

ASKED = GenerationRequest(prompt="an apple", seed=1)


class Failing:
    """A connection whose n-th statement that changes anything fails."""

    def __init__(self, base: sqlite3.Connection, at: int) -> None:
        self._base, self._at, self.changes = base, at, 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            self.changes += 1
            if self.changes == self._at:
                raise sqlite3.OperationalError("database or disk is full")
        return self._base.execute(statement, *values)

    def __enter__(self) -> Any:
        return self._base.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._base.__exit__(*error)

    def close(self) -> None:
        self._base.close()


def row(id: str) -> Row:
    return Row(id, "me", ASKED, time.time(), JobState.WAITING, 0, None)


def state(path: Path) -> list[tuple[Any, ...]]:
    queue = Queue(path)
    found = [(r.id, r.state, r.attempts, r.saves) for r in queue.unfinished()]
    paused = queue.paused()
    queue.close()
    return [*found, tuple(sorted(paused))]


CHANGES: dict[str, Callable[[Queue], None]] = {
    "add": lambda queue: queue.add(row("c")),
    "begin": lambda queue: queue.begin("a"),
    "end": lambda queue: queue.end("a", JobState.FINISHED),
    "put back": lambda queue: queue.put_back("a"),
    "arrange": lambda queue: queue.arrange(["b", "a"]),
    "pause": lambda queue: queue.pause("me", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whichever_write_fails_the_queue_is_the_old_or_the_new_one(
    name: str, tmp_path: Path
) -> None:
    change = CHANGES[name]
    for at in range(1, 4):
        path = tmp_path / f"{at}.sqlite3"
        queue = Queue(path)
        for id in "ab":
            queue.add(row(id))
        queue.close()
        before = state(path)
        queue = Queue(path)
        failing = Failing(queue._base, at)
        queue._base = failing  # type: ignore[assignment]
        if at <= changes_of(name):
            with pytest.raises(sqlite3.OperationalError):
                change(queue)
            queue.close()
            assert state(path) == before
        else:
            change(queue)
            queue.close()
            assert failing.changes == changes_of(name)
            assert state(path) != before


def changes_of(name: str) -> int:
    return 2 if name == "arrange" else 1


def test_a_queue_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    base = sqlite3.connect(path)
    base.execute(
        "CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, "
        "owner TEXT NOT NULL, request TEXT NOT NULL, created REAL NOT NULL, state TEXT NOT NULL, "
        "attempts INTEGER NOT NULL DEFAULT 0, error TEXT)"
    )
    base.execute(
        "INSERT INTO jobs (id, owner, request, created, state) VALUES (?, ?, ?, 1.0, 'waiting')",
        ("old", "me", '{"prompt": "a cat"}'),
    )
    base.commit()
    base.close()
    queue = Queue(path)
    (found,) = queue.unfinished()
    assert found.saves and found.request.prompt == "a cat"
    queue.close()
