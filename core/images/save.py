"""Pictures to disk, each as it is finished, whole or not at all.

A reader of events that passes them on; it knows nothing of how a picture came to be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import VitrineError
from core.events import Event, ImageDone, Loaded, Note, Step
from core.images import infotext
from core.images.capsule import Capsule, encoded

if TYPE_CHECKING:
    from core.registry import Registry

FOLDER = "txt2img-images"

NOT_SAVED = "not saved"
"""Kind of the Note that follows a picture which could not be saved."""


class Disk:
    """The few steps of a save, one system call or two each, so that a test can fail any of them."""

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def write(self, path: Path, data: bytes) -> None:
        """A new file, on the disk when this returns."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def place(self, temporary: Path, path: Path) -> None:
        """Gives a file its name, which no other may have. Raises FileExistsError."""
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:
            # Some file systems know no second names (exFAT). There, renaming may replace a file
            # that another program made between these two lines.
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            temporary.rename(path)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def saved(
    events: Iterator[Event],
    folder: Path,
    registry: Registry,
    *,
    disk: Disk | None = None,
    today: Callable[[], date] = date.today,
) -> Iterator[Event]:
    """The same events; each ImageDone was saved as a PNG first and says where.

    `folder/txt2img-images/2026-07-09/00012-1234567.png`: the next number in that folder, the seed.
    A picture that can't be saved is passed on without a path, and a Note says why. Closing this
    closes `events`.
    """
    disk = disk or Disk()
    loaded: Loaded | None = None
    sigmas: dict[int, tuple[float, ...]] = {}
    try:
        for event in events:
            if not isinstance(event, ImageDone):
                if isinstance(event, Loaded):
                    loaded = event
                if isinstance(event, Step):
                    sigmas |= dict.fromkeys(event.images, event.sigmas)
                yield event
                continue
            into = folder / FOLDER / today().isoformat()
            try:
                data = png(event, loaded, sigmas.pop(event.index, ()), registry)
                path = write_new(into, str(event.request.seed), data, disk)
            except (OSError, VitrineError) as error:
                yield event
                yield Note(NOT_SAVED, f"The picture could not be saved: {_reason(error, into)}")
            else:
                yield replace(event, path=path)
    finally:
        if (close := getattr(events, "close", None)) is not None:
            close()


def png(
    event: ImageDone, loaded: Loaded | None, sigmas: tuple[float, ...], registry: Registry
) -> bytes:
    """The picture as a PNG file with A1111's text, and the capsule if the model is known."""
    name = loaded.checkpoint if loaded else event.request.checkpoint or "unknown"
    fingerprint = loaded.fingerprint if loaded else ""
    text = infotext.written(event.request, registry, name, fingerprint, not event.finished)
    if loaded is None:
        return encoded(event.image, "PNG", text)
    capsule = Capsule(
        request=event.request,
        checkpoint=loaded.checkpoint,
        fingerprint=loaded.fingerprint,
        family=loaded.family,
        device=loaded.device,
        dtype=loaded.dtype,
        finished=event.finished,
        sigmas=sigmas,
        versions={"program": infotext.VERSION} | {n: version(n) for n in ("torch", "pillow")},
    )
    return encoded(event.image, "PNG", text, capsule)


def write_new(folder: Path, ending: str, data: bytes, disk: Disk) -> Path:
    """Writes `data` under the folder's next free number: all of it, or nothing.

    Raises:
        OSError: the folder is as it was.
    """
    disk.make_folder(folder)
    first = _next_number(disk.names(folder))
    temporary = folder / f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
    try:
        disk.write(temporary, data)
        for number in count(first):
            path = folder / f"{number:05}-{ending}.png"
            with contextlib.suppress(FileExistsError):
                disk.place(temporary, path)
                break
    finally:
        # Where even this fails a hidden file stays behind; the picture's own fate is decided.
        with contextlib.suppress(OSError):
            disk.remove(temporary)
    # The picture is whole and in its place; only whether it outlives a power cut is open.
    with contextlib.suppress(OSError):
        disk.sync_folder(folder)
    return path


def _next_number(names: list[str]) -> int:
    """One more than the highest number a name begins with."""
    numbers = (re.match("([0-9]{1,9})-", name) for name in names)
    return max((int(found[1]) for found in numbers if found), default=-1) + 1


def _reason(error: OSError | VitrineError, folder: Path) -> str:
    if isinstance(error, VitrineError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {folder} is full."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"there is no permission to write in {folder}."
    return f"{error.strerror or error} ({folder})."
