"""Pictures that people put in, kept by the SHA-256 of their file: what a request names them by.

Each is stored once, as a PNG that holds pixels alone: turned upright, in RGB or RGBA, without the
metadata it came with. Which requests refer to it is not known here, and torch is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from core.errors import FileError, RequestError
from core.images.pixels import check_size, open_with_alpha, upright

MAX_BYTES = 64 * 2**20
"""Of a file that is put in."""

SPARED_SECONDS = 24 * 3600
"""A picture that no request names yet may be one that somebody is about to use."""


class Inputs:
    """The folder of pictures put in. Any number of threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, data: bytes | Image.Image) -> str:
        """Stores a picture, whole or not at all; its name, 64 hexadecimal digits.

        The same pixels have the same name, also when what was stored is put in again.

        Raises:
            FileError: it is no PNG, JPEG or WebP picture, damaged, too large, or the disk refuses.
        """
        stored = _as_png(data)
        name = hashlib.sha256(stored).hexdigest()
        try:
            self._place(self.path(name), stored)
        except OSError as error:
            raise FileError(
                f"the picture could not be stored in {self._folder}: {error.strerror or error}"
            ) from error
        return name

    def open(self, name: str) -> Image.Image:
        """The picture of that name, RGB or RGBA.

        Raises:
            RequestError: it is no name of a picture, or there is none of that name.
            FileError: the stored file was damaged.
        """
        path = self.path(name)
        if not path.is_file():
            raise RequestError(
                f"the picture {name[:8]}… is not among those that were put in; "
                "put it in again to use it"
            )
        return open_with_alpha(path)

    def path(self, name: str) -> Path:
        """Where the picture of that name lies, or would lie.

        Raises:
            RequestError: it is no name of a picture.
        """
        if not re.fullmatch("[0-9a-f]{64}", name):
            raise RequestError(
                f"{name[:80]!r} names no picture: a name is the 64 hexadecimal digits of a SHA-256"
            )
        return self._folder / f"{name}.png"

    def collect(self, in_use: Iterable[str]) -> int:
        """Deletes what is not in use and was put in more than a day ago; how many that were."""
        kept = {f"{name}.png" for name in in_use}
        limit = time.time() - SPARED_SECONDS
        deleted = 0
        for path in self._folder.glob("*"):
            ours = re.fullmatch(r"[0-9a-f]{64}\.png|\..+\.tmp", path.name)
            if not ours or path.name in kept:
                continue
            # Another process may collect the same folder.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    deleted += 1
        return deleted

    def _place(self, path: Path, data: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # put in again: spared for another day
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{os.getpid()}-{os.urandom(8).hex()}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        # The picture is whole and in its place; only whether it outlives a power cut is open.
        with contextlib.suppress(OSError):
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _as_png(data: bytes | Image.Image) -> bytes:
    """The pixels alone as a PNG file."""
    if isinstance(data, bytes):
        if len(data) > MAX_BYTES:
            limit = MAX_BYTES // 2**20
            raise FileError(f"the picture has {len(data) / 2**20:.0f} MB; {limit} MB is the limit")
        picture = open_with_alpha(data)
    else:
        if not all(data.size):
            raise FileError("the picture has no pixels")
        check_size(data.size, "the picture")
        picture = upright(data)
    picture.info = {}  # what else the file said is nobody's business
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
