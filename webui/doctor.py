"""What only the installed house can tell of a set-up: `python -m webui.doctor`, a finding a line.

`launch.py doctor` prints it below its own. Nothing is changed, and no model is loaded.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from core.errors import VitrineError
from core.models.catalog import Catalog, Kind
from core.settings import Settings, default_settings, read_settings
from webui.__main__ import ROOT, arguments
from webui.settings_file import NAME

Finding = tuple[bool, str]
"""Whether it is well, and a sentence."""


def findings(settings: Settings) -> Iterator[Finding]:
    yield from _models(settings)
    yield from _queue(settings.data_dir / "queue.sqlite3")
    yield from _memory()


def settings_finding(root: Path) -> tuple[Settings, Finding]:
    try:
        settings = read_settings(root)
    except VitrineError as error:
        sentence = f"{error}; the next start moves the file aside and goes on without it"
        return default_settings(root), (False, sentence)
    there = (root / NAME).exists()
    return settings, (True, f"{NAME} can be read" if there else f"No {NAME}: the defaults hold")


def _models(settings: Settings) -> Iterator[Finding]:
    catalog = Catalog(settings)
    counts = {kind: len(catalog.files(kind)) for kind in Kind}
    told = ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count)
    yield bool(counts[Kind.CHECKPOINT]), f"Models that can be used: {told or 'none'}"
    for kind in Kind:
        for name, reason in catalog.unreadable(kind).items():
            yield False, f"{kind.value} {name}: {reason}"
    try:
        default = catalog.default()
        yield True, f"The model to begin with is {default.title}"
    except VitrineError as error:
        yield False, f"No model to begin with: {error}"


def _queue(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield True, "No jobs yet"
        return
    try:
        base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        problem = base.execute("PRAGMA quick_check").fetchone()[0]
        rows = base.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        died = base.execute("SELECT COUNT(*) FROM jobs WHERE error LIKE '%never ended'").fetchone()
        base.close()
    except sqlite3.Error as error:
        yield False, f"The queue {path} can't be read ({error}); move it away to begin a new one"
        return
    if problem != "ok":
        yield False, f"The queue {path} is damaged ({problem}); move it away to begin a new one"
    told = ", ".join(f"{count} {state}" for state, count in rows)
    yield True, f"Jobs: {told or 'none'}"
    if died[0]:
        yield (
            False,
            f"{died[0]} jobs took the program down twice and were set aside; the log says more",
        )


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    yield free >= 2, f"{free:.1f} GB of memory free; a full-size model takes 2 to 8"


def main(words: list[str] | None = None) -> int:
    """Exit status 1 where something is not well."""
    given = arguments(words)
    settings, first = settings_finding(ROOT)
    if given.models_dir is not None:
        from dataclasses import replace

        settings = replace(settings, models_dir=given.models_dir)
    is_well = True
    for well, sentence in (first, *findings(settings)):
        print(f"{'  ok ' if well else 'LOOK '} {sentence}")
        is_well = is_well and well
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
