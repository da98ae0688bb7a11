"""Folders within their quota: the oldest go first, and what is spared stays."""

from __future__ import annotations

import os
from pathlib import Path

from core.engine.quota import keep_within


def written(folder: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = folder / f"{name}.trace"
        path.write_bytes(b"x" * 10)
        os.utime(path, (1000 - age, 1000 - age))


def left(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_the_oldest_go_first(tmp_path: Path) -> None:
    written(tmp_path)
    keep_within(tmp_path, "*.trace", 20)
    assert left(tmp_path) == {"new", "middle"}
    keep_within(tmp_path, "*.trace", 100, most=1)
    assert left(tmp_path) == {"new"}


def test_what_is_spared_stays_and_counts(tmp_path: Path) -> None:
    written(tmp_path)
    keep_within(tmp_path, "*.trace", 20, spared={"old"})
    assert left(tmp_path) == {"new", "old"}
    keep_within(tmp_path, "*.trace", 0, spared={"old", "new"})
    assert left(tmp_path) == {"new", "old"}
