"""The gallery's tables, in SQL."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.gallery.picture import Picture

WRITTEN = (
    "path, made, width, height, prompt, negative, checkpoint, seed, job, image, owner, parent, "
    "changed, size"
)
COLUMNS = (
    "id, path, made, width, height, prompt, negative, checkpoint, seed, job, image, owner, "
    "starred, deleted, parent"
)

_TABLES = (
    "CREATE TABLE IF NOT EXISTS pictures (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "path TEXT NOT NULL, made REAL NOT NULL, width INTEGER NOT NULL, "
    "height INTEGER NOT NULL, prompt TEXT NOT NULL, negative TEXT NOT NULL, "
    "checkpoint TEXT NOT NULL, seed INTEGER, job TEXT NOT NULL, image INTEGER NOT NULL, "
    "owner TEXT NOT NULL, starred INTEGER NOT NULL DEFAULT 0, deleted REAL, "
    "parent TEXT NOT NULL, changed INTEGER NOT NULL, size INTEGER NOT NULL)",
    # A name in the bin may be given again.
    "CREATE UNIQUE INDEX IF NOT EXISTS by_path ON pictures (path) WHERE deleted IS NULL",
    "CREATE INDEX IF NOT EXISTS by_owner ON pictures (owner, made DESC, id DESC)",
    "CREATE INDEX IF NOT EXISTS by_time ON pictures (made DESC, id DESC)",
)

_WORDS = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5("
    "prompt, content='pictures', content_rowid='id', tokenize='unicode61')",
    "CREATE TRIGGER IF NOT EXISTS words_added AFTER INSERT ON pictures BEGIN "
    "INSERT INTO words(rowid, prompt) VALUES (new.id, new.prompt); END",
    "CREATE TRIGGER IF NOT EXISTS words_removed AFTER DELETE ON pictures BEGIN "
    "INSERT INTO words(words, rowid, prompt) VALUES ('delete', old.id, old.prompt); END",
    "CREATE TRIGGER IF NOT EXISTS words_changed AFTER UPDATE OF prompt ON pictures BEGIN "
    "INSERT INTO words(words, rowid, prompt) VALUES ('delete', old.id, old.prompt); "
    "INSERT INTO words(rowid, prompt) VALUES (new.id, new.prompt); END",
)

_CONFLICT = "ON CONFLICT(path) WHERE deleted IS NULL DO "
_READ_AGAIN = ("width", "height", "prompt", "negative", "checkpoint", "seed", "changed", "size")
_OWN = ("made", "job", "image", "owner", "parent")

KEEP = _CONFLICT + "NOTHING"
REFRESH = _CONFLICT + "UPDATE SET " + ", ".join(f"{n} = excluded.{n}" for n in _READ_AGAIN)
"""What a file says now, where its row was there before."""
REPLACE = REFRESH + "".join(f", {n} = excluded.{n}" for n in _OWN)


def prepare(base: sqlite3.Connection) -> bool:
    """Makes what is not there yet; whether words have an index, which needs FTS5."""
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    for statement in _TABLES:
        base.execute(statement)
    try:
        for statement in _WORDS:
            base.execute(statement)
    except sqlite3.OperationalError:
        return False
    # Rows that a SQLite without FTS5 wrote are not in it.
    counts = "SELECT (SELECT COUNT(*) FROM words_docsize), (SELECT COUNT(*) FROM pictures)"
    indexed, there = base.execute(counts).fetchone()
    if indexed != there:
        base.execute("INSERT INTO words(words) VALUES ('rebuild')")
    return True


def as_picture(row: tuple[Any, ...]) -> Picture:
    values = dict(zip(COLUMNS.split(", "), row, strict=True))
    values["path"] = Path(values["path"])
    values["starred"] = bool(values["starred"])
    values["negative_prompt"] = values.pop("negative")
    return Picture(**values)


_CURSOR = re.compile(r"(-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?)_([0-9]{1,18})")


def cursor(text: str) -> tuple[float, int]:
    """The place behind which a page begins: time and number of a picture."""
    found = re.fullmatch(
        r"(-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?)_([0-9]{1,18})", text
    )
    if found is None:
        raise RequestError(f"{text[:40]!r} is no place in the gallery", "before")
    return float(found[1]), int(found[2])


def literal(text: str) -> str:
    """For LIKE with its escape."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
