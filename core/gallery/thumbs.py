"""Small pictures of pictures, kept in a folder of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from pathlib import Path

from core.errors import FileError, RequestError

EDGES = (16, 2048)
QUALITY = 80
QUOTA = 256 * 2**20
"""Bytes of the whole folder; 10,000 thumbnails of 256 pixels are about 100 MB."""
CHECKED_EVERY = 256
"""Thumbnails made between two looks at the folder's size."""


class Thumbs:
    """Thumbnails by what they show. Thread-safe; the same one made twice is the same file."""

    def __init__(self, folder: Path, quota: int = QUOTA) -> None:
        self._folder = folder
        self._quota = quota
        self._lock = threading.Lock()
        self._made = 0

    def of(self, path: Path, edge: int) -> bytes:
        """A WebP of the picture, its longer side at most `edge` pixels; smaller ones as they are.

        Raises:
            FileError: there is no such picture, or it is damaged.
            RequestError: an edge out of bounds.
        """
        if not EDGES[0] <= edge <= EDGES[1]:
            raise RequestError(f"a thumbnail has {EDGES[0]} to {EDGES[1]} pixels, not {edge}")
        try:
            stat = path.stat()
        except OSError as error:
            raise FileError(f"the picture {path.name} is no longer there") from error
        key = f"{path.resolve()}\0{stat.st_mtime_ns}\0{stat.st_size}\0{edge}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self._folder / name[:2] / f"{name}.webp"
        with contextlib.suppress(OSError):
            data = kept.read_bytes()
            os.utime(kept)  # the least lately seen are deleted first
            return data
        data = _small(path, edge)
        # A cache that can't be written is slow, and nothing worse.
        with contextlib.suppress(OSError):
            self._keep(kept, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}-{os.urandom(8).hex()}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        with self._lock:
            self._made += 1
            is_due = self._made % CHECKED_EVERY == 1
        if is_due:
            self.tidy()

    def tidy(self) -> None:
        """Deletes the least lately seen until the rest fits."""
        files = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._quota:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                total -= size


def _small(path: Path, edge: int) -> bytes:
    from core.images.pixels import open_picture

    picture = open_picture(path)
    picture.thumbnail((edge, edge))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY)
    return stream.getvalue()
