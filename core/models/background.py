"""A thread of low priority that finds things out while nobody waits for them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from core.errors import FileError
from core.models.remembered import HashKind

log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two looks for new files."""
NICENESS = 15


class Background:
    """Reads what is unread, then hashes what has no hash, then waits for a while, and again."""

    def __init__(
        self,
        read: Callable[[], Iterable[object]],
        unhashed: Callable[[], list[tuple[Path, HashKind]]],
        hashed: Callable[[Path, HashKind], bool],
        every: float = EVERY,
    ) -> None:
        """
        Args:
            read: reads one thing after another; is left where it is when the end has come.
            hashed: computes one hash; False where it was interrupted.
        """
        self._read, self._unhashed, self._hashed = read, unhashed, hashed
        self._every = every
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self.version = 0

    def begin(self) -> None:
        if self._thread is None:
            self._ending.clear()
            self._thread = threading.Thread(target=self._work, name="catalog", daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None

    def goes_on(self) -> bool:
        return not self._ending.is_set()

    def _work(self) -> None:
        if sys.platform == "linux":  # elsewhere priority belongs to the whole process
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        given_up: set[tuple[Path, HashKind]] = set()
        while self.goes_on():
            try:
                self._look(given_up)
            except Exception:  # its findings are a comfort; the next look may succeed
                log.exception("the catalog could not be brought up to date")
            self._ending.wait(self._every)

    def _look(self, given_up: set[tuple[Path, HashKind]]) -> None:
        for _ in self._read():
            self.version += 1
            if not self.goes_on():
                return
        for path, kind in self._unhashed():
            if (path, kind) in given_up:
                continue
            try:
                if not self._hashed(path, kind):
                    return
                self.version += 1
            except FileError:
                given_up.add((path, kind))
