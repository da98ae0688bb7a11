"""Pictures to disk, each as it is finished, whole or not at all.

A reader of events that passes them on; it knows nothing of how a picture came to be.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from core.errors import FileError, RequestError, VitrineError
from core.events import Event, ImageDone, Loaded, Note, Started, Step, loaded_in
from core.images import infotext, patterns
from core.images.capsule import Capsule, encoded
from core.images.formats import Kind
from core.images.infotext import Hashes
from core.request import GenerationRequest

if TYPE_CHECKING:
    from core.registry import Registry

FOLDER = "txt2img-images"
FOLDER_OF_STARTED = "img2img-images"
"""For pictures made from a picture."""

NOT_SAVED = "not saved"
"""Kind of the Note that follows a picture which could not be saved."""
SAVED_AS_PNG = "saved as png"
"""Kind of the Note that follows one whose text did not fit into the format asked for."""

FileFormat = Literal["png", "jpeg", "webp"]
ENDINGS: dict[str, tuple[Kind, str]] = {
    "png": ("PNG", ".png"),
    "jpeg": ("JPEG", ".jpg"),
    "webp": ("WEBP", ".webp"),
}


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """How pictures are written and named; patterns are those of `core.images.patterns`."""

    format: FileFormat = "png"
    quality: int = 90
    """1 to 100, of JPEG and WebP."""
    lossless: bool = False
    """Of WebP alone."""
    pattern: str = "[seed]"
    folders: str = "[date]"
    """Below `txt2img-images` or `img2img-images`."""
    numbered: bool = True
    """Whether names begin with the folder's next number, as A1111's do."""

    def __post_init__(self) -> None:
        """Raises RequestError for a format or a quality there is not."""
        if self.format not in get_args(FileFormat):
            there = ", ".join(get_args(FileFormat))
            raise RequestError(f"no picture format {self.format!r}; there are: {there}", "format")
        if not 1 <= self.quality <= 100:
            raise RequestError(f"quality must be 1 to 100, not {self.quality}", "quality")


@dataclass(frozen=True)
class Encoded:
    """A picture as the bytes of a file."""

    data: bytes
    ending: str
    note: Note | None = None


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


@dataclass
class Run:
    """What was heard of a run so far."""

    registry: Registry
    options: SaveOptions
    hashes: Callable[[GenerationRequest], Hashes]
    user: str
    started: datetime
    request: GenerationRequest | None = None
    """All of it, before it was one image's."""
    loaded: Loaded | None = None
    sigmas: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Of the images under way."""

    def hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self.request = event.request
        known: tuple[Event, ...] = () if self.loaded is None else (self.loaded,)
        self.loaded = loaded_in((*known, event))
        if isinstance(event, Step):
            self.sigmas |= dict.fromkeys(event.images, event.sigmas)


def no_hashes(request: GenerationRequest) -> Hashes:
    return Hashes()


def saved(
    events: Iterator[Event],
    folder: Path,
    registry: Registry,
    *,
    options: SaveOptions | None = None,
    hashes: Callable[[GenerationRequest], Hashes] = no_hashes,
    user: str = "",
    disk: Disk | None = None,
    now: Callable[[], datetime] = datetime.now,
) -> Iterator[Event]:
    """The same events; each ImageDone was saved first and says where.

    By default `folder/txt2img-images/2026-07-09/00012-1234567.png`: the next number in that
    folder, the seed. A picture that can't be saved is passed on without a path, and a Note says
    why. Closing this closes `events`.

    Args:
        hashes: of the files beside the checkpoint that an image's request uses.
        user: for the pattern's [user].
    """
    disk = disk or Disk()
    run = Run(registry, options or SaveOptions(), hashes, user, now())
    try:
        for event in events:
            run.hear(event)
            if not isinstance(event, ImageDone):
                yield event
                continue
            into = folder
            try:
                facts = _facts(event, run, now())
                into = _folder(folder, run.options, facts)
                written = _encoded(event, run)
                name = patterns.file_name(run.options.pattern, facts)
                path = write_new(
                    into, name, written.ending, written.data, disk, run.options.numbered
                )
            except (OSError, VitrineError) as error:
                yield event
                yield Note(NOT_SAVED, f"The picture could not be saved: {_reason(error, into)}")
                continue
            yield replace(event, path=path)
            if written.note is not None:
                yield written.note
    finally:
        if (close := getattr(events, "close", None)) is not None:
            close()


def _folder(outputs: Path, options: SaveOptions, facts: patterns.Facts) -> Path:
    top = FOLDER if facts.request.start is None else FOLDER_OF_STARTED
    return outputs.joinpath(top, *patterns.folders(options.folders, facts))


def _facts(event: ImageDone, run: Run, now: datetime) -> patterns.Facts:
    request = event.request
    sampler = run.registry.sampler(request.sampler)
    width, height = event.image.size
    return patterns.Facts(
        request=request,
        now=now,
        started=run.started,
        width=width,
        height=height,
        sampler=sampler.title,
        scheduler=infotext.schedule_title(request, sampler, run.registry),
        model_name=_model_name(event, run.loaded),
        model_hash=run.loaded.fingerprint if run.loaded else "",
        index=event.index,
        images=max(event.index + 1, 1 if run.request is None else run.request.images),
        first_seed=None if run.request is None else run.request.seed,
        user=run.user,
        image=event.image,
    )


def _model_name(event: ImageDone, loaded: Loaded | None) -> str:
    return loaded.checkpoint if loaded else event.request.checkpoint or "unknown"


@functools.cache
def _version(library: str) -> str:
    return version(library)


def _encoded(event: ImageDone, run: Run) -> Encoded:
    """The picture as a file with A1111's text, and the capsule if the model is known."""
    loaded = run.loaded
    hashes = run.hashes(event.request)
    text = infotext.written(
        event.request,
        run.registry,
        _model_name(event, loaded),
        loaded.fingerprint if loaded else "",
        not event.finished,
        hashes,
    )
    capsule = None
    if loaded is not None:
        capsule = Capsule(
            request=event.request,
            checkpoint=loaded.checkpoint,
            fingerprint=loaded.fingerprint,
            family=loaded.family,
            device=loaded.device,
            dtype=loaded.dtype,
            finished=event.finished,
            sigmas=run.sigmas.pop(event.index, ()),
            versions={"program": infotext.VERSION}
            | {n: _version(n) for n in ("torch", "pillow")}
            | ({"kernels": loaded.kernels} if loaded.kernels else {}),
            hashes=hashes.named(event.request),
        )
    kind, ending = ENDINGS[run.options.format]
    quality, lossless = run.options.quality, run.options.lossless
    try:
        return Encoded(encoded(event.image, kind, text, capsule, quality, lossless), ending)
    except FileError as error:
        if kind == "PNG":
            raise
        note = Note(SAVED_AS_PNG, f"The picture was saved as PNG instead: {error}.")
        return Encoded(encoded(event.image, "PNG", text, capsule), ".png", note)


def write_new(
    folder: Path, name: str, ending: str, data: bytes, disk: Disk, numbered: bool = True
) -> Path:
    """Writes `data` under a name that no other file has: all of it, or nothing.

    The folder's next number comes first; without numbers one is put behind a name that is taken.

    Raises:
        OSError: the folder is as it was.
    """
    disk.make_folder(folder)
    names = _names(name, _next_number(disk.names(folder)) if numbered else None)
    temporary = folder / f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
    try:
        disk.write(temporary, data)
        for free in names:
            path = folder / f"{free}{ending}"
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


def _names(name: str, first: int | None) -> Iterator[str]:
    """Names to try, without end."""
    if first is not None:
        yield from (f"{number:05}-{name}" if name else f"{number:05}" for number in count(first))
    if name:
        yield name
    yield from (f"{name}-{number}" if name else f"{number:05}" for number in count(1))


def _next_number(names: list[str]) -> int:
    """One more than the highest number a name begins with."""
    numbers = (re.match(r"([0-9]{1,9})[-.]", name) for name in names)
    return max((int(found[1]) for found in numbers if found), default=-1) + 1


def _reason(error: OSError | VitrineError, folder: Path) -> str:
    if isinstance(error, VitrineError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {folder} is full."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"there is no permission to write in {folder}."
    return f"{error.strerror or error} ({folder})."
