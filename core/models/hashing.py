"""The hashes of one run's checkpoints, computed beside it: nobody waits for them before they are
to be written down."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from core.errors import FileError, VitrineError
from core.events import Identified, Loading
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint

EVERY = 0.1
"""Seconds between two looks at how far a hash is, while it is waited for."""


class Hashing:
    """Knows or finds out what a checkpoint's file is. Leaving it ends what is not done."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pool = ThreadPoolExecutor(1, "fingerprint")
        self._left = threading.Event()
        self._begun: dict[str, _Begun] = {}

    def __enter__(self) -> Hashing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._pool.shutdown(cancel_futures=True)

    def of(self, model: Checkpoint) -> str:
        """SHA-256, hexadecimal, if it is known; else empty, and it is being computed from now."""
        if model.name in self._begun:
            return ""
        path, size, _ = model.version
        known = self._catalog.hash_of(path)
        if known is not None and self._is_as_it_was(model):
            return known
        begun = _Begun(model, size)
        begun.future = self._pool.submit(self._hashed, begun)
        self._begun[model.name] = begun
        return ""

    def rest(self) -> Generator[Loading | Identified, None, None]:
        """Waits for all that were begun, and tells each once.

        Raises:
            FileError: a file can't be read any more, or is another one by now.
        """
        for name, begun in list(self._begun.items()):
            assert begun.future is not None
            while not begun.future.done():
                yield Loading("fingerprint", begun.done, begun.size)
                concurrent.futures.wait([begun.future], timeout=EVERY)
            digest = begun.future.result()
            del self._begun[name]
            yield Identified(name, digest)

    def _hashed(self, begun: _Begun) -> str:
        """On the pool's thread."""
        model = begun.model
        path = model.version[0]

        def goes_on(done: int) -> bool:
            begun.done = done
            return not self._left.is_set()

        digest = self._catalog.hashed(path, "file", goes_on)
        if not self._is_as_it_was(model):
            raise FileError(
                f"{path.name} was changed or taken away while it was in use, so what a picture was "
                "made with could not be written into it; ask again"
            )
        return digest

    def _is_as_it_was(self, model: Checkpoint) -> bool:
        try:
            return self._catalog.checkpoint(model.name).version == model.version
        except VitrineError:
            return False


@dataclass
class _Begun:
    """A hash under way."""

    model: Checkpoint
    size: int
    """Bytes."""
    done: int = 0
    future: Future[str] | None = None
