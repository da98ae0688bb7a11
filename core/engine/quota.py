"""Folders of files that may go, held within a number of bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path


def keep_within(
    folder: Path,
    pattern: str,
    quota: int,
    most: int = 100_000,
    spared: Collection[str] = (),
) -> None:
    """Deletes the oldest files until the rest fits into `quota` bytes and is `most` at most.

    Files whose stems are `spared` stay, and count.
    """
    files = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    left = len(files)
    for _, size, path in sorted(files):
        if total <= quota and left <= most:
            return
        if path.stem in spared:
            continue
        path.unlink(missing_ok=True)
        total, left = total - size, left - 1
