"""Picture files on the disk: found, described by what they say, moved without loss."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError
from core.gallery.picture import Picture, of_request

if TYPE_CHECKING:
    from core.registry import Registry

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def described(path: Path, stat: os.stat_result, registry: Registry, owner: str) -> Picture:
    """A file on the disk as a row, from what it says of its making.

    Raises:
        FileError: it is no picture, or damaged.
    """
    from core.images.capsule import read_picture

    found = read_picture(path)
    values: dict[str, Any] = {}
    with contextlib.suppress(RequestError):
        if (made := found.request(registry)) is not None:
            values = of_request(made[0]) | {"checkpoint": made[0].checkpoint or ""}
    return Picture(
        id=0,
        path=path,
        made=stat.st_mtime,
        width=found.width,
        height=found.height,
        owner=owner,
        **values,
    )


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every picture file below, with its size and time; what can't be listed is left out."""
    waiting = [folder]
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False) and _is_picture(entry.name):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _is_picture(name: str) -> bool:
    # Names that are no UTF-8 can't be kept in the index.
    return name.lower().endswith(ENDINGS) and not any("\ud800" <= c <= "\udfff" for c in name)


def moved(source: Path, target: Path) -> Path:
    """Moves a file without ever replacing one: a name that is taken gets a number.

    Raises:
        OSError: it is where it was.
    """
    for number in count():
        free = target if not number else target.with_stem(f"{target.stem}-{number}")
        with contextlib.suppress(FileExistsError):
            _place(source, free)
            return free
    raise AssertionError("numbers do not end")


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        # Some file systems know no second names (exFAT).
        if target.exists():
            raise FileExistsError(target) from None
        source.rename(target)
    else:
        source.unlink()
