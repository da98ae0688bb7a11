"""The line of jobs that wait: in whose turn it is, how long it takes, and who is paused.

It knows jobs and numbers, and neither files nor devices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from core.engine.job import Job
from core.engine.queue import EVERYBODY
from core.engine.turns import Pace, Turns
from core.errors import RequestError


class Changes:
    """Who wants to hear that the line is another one than before. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], None]] = set()

    def listen(self, heard: Callable[[], None]) -> None:
        """`heard` is called, from any thread, whenever a job comes, goes, begins or is moved."""
        with self._lock:
            self._listeners.add(heard)

    def forget(self, heard: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.discard(heard)

    def tell(self) -> None:
        with self._lock:
            listeners = [*self._listeners]
        for heard in listeners:
            heard()


class Line:
    """Thread-safe. One job is out of it at a time: the running one."""

    def __init__(
        self, paused: Iterable[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._waiting: list[Job] = []
        """Each owner's jobs in the order that the owner wants."""
        self._resuming: list[Job] = []
        """What a run of an earlier process left half done goes before everything."""
        self._paused = set(paused)
        self._turns, self._pace = Turns(), Pace()
        self._running: Job | None = None
        self._began = 0.0
        self._loaded: str | None = None
        self.changes = Changes()
        """Told by the line of what is done to it, and by the engine of how jobs begin and end."""

    def add(self, job: Job, resuming: bool = False) -> None:
        with self._lock:
            (self._resuming if resuming else self._waiting).append(job)
        self.changes.tell()

    def take(self) -> Job | None:
        """The next job to run; it is out of the line now. None: nobody waits."""
        with self._lock:
            line = self._ordered()
            if not line:
                self._running = None
                if not self._waiting and not self._resuming:
                    self._turns.rest()
                return None
            job = line[0]
            self._without([job])
            self._running, self._began = job, self._clock()
            self._turns.begun(job.owner)
            return job

    def ended(self) -> None:
        """The running job is over."""
        with self._lock:
            self._running = None

    def took(self, job: Job, seconds: float) -> None:
        """All of the job's steps took so long."""
        with self._lock:
            self._pace.took(job.request, seconds)

    def loaded(self, checkpoint: str | None) -> None:
        """That one is in memory now."""
        with self._lock:
            self._loaded = checkpoint

    def is_loaded(self, checkpoint: str) -> bool:
        with self._lock:
            return self._loaded == checkpoint

    def struck_out(self) -> list[Job]:
        """Jobs that were cancelled while they waited; they are out of the line now."""
        with self._lock:
            over = [job for job in (*self._resuming, *self._waiting) if job.state.is_over]
            self._without(over)
            return over

    def counts(self) -> tuple[int, int]:
        """(waiting, running)."""
        with self._lock:
            waiting = sum(not job.state.is_over for job in (*self._resuming, *self._waiting))
            return waiting, int(self._running is not None)

    def place(self, job: Job) -> int:
        """Jobs before this one; 0 if it does not wait. Paused ones stand at the end."""
        with self._lock:
            line = self._ordered(with_paused=True)
            return line.index(job) + (self._running is not None) if job in line else 0

    def expected(self, job: Job) -> float | None:
        """Seconds until it begins; None where no run has told, or the job is paused."""
        with self._lock:
            line = self._ordered()
            if job not in line:
                return None
            before = [self._pace.seconds(other.request) for other in line[: line.index(job)]]
            if self._running is not None:
                whole = self._pace.seconds(self._running.request)
                spent = self._clock() - self._began
                before.append(None if whole is None else max(0.0, whole - spent))
            known = [seconds for seconds in before if seconds is not None]
            return sum(known) if len(known) == len(before) else None

    def arrange(self, ids: Sequence[str], owner: str) -> None:
        """The owner's jobs of these ids trade places, so that they stand in this order.

        Raises:
            RequestError: one does not wait, is somebody else's, or is named twice.
        """
        with self._lock:
            mine = {job.id: i for i, job in enumerate(self._waiting) if job.owner == owner}
            if strange := [id for id in ids if id not in mine]:
                raise RequestError(f"no job {strange[0][:40]!r} of yours is waiting", "jobs")
            if len(set(ids)) < len(ids):
                raise RequestError("a job is named twice", "jobs")
            places = sorted(mine[id] for id in ids)
            jobs = [self._waiting[mine[id]] for id in ids]
            for place, job in zip(places, jobs, strict=True):
                self._waiting[place] = job
        self.changes.tell()

    def pause(self, owner: str | None, paused: bool) -> None:
        with self._lock:
            name = EVERYBODY if owner is None else owner
            (self._paused.add if paused else self._paused.discard)(name)
        self.changes.tell()

    def is_paused(self, owner: str | None) -> bool:
        with self._lock:
            return (EVERYBODY if owner is None else owner) in self._paused

    def _ordered(self, with_paused: bool = False) -> list[Job]:
        there = [job for job in self._waiting if not job.state.is_over]
        waiting = [*self._resuming, *self._turns.ordered(there, self._loaded)]
        held = EVERYBODY in self._paused
        free = [job for job in waiting if not held and job.owner not in self._paused]
        return [*free, *(job for job in waiting if job not in free)] if with_paused else free

    def _without(self, gone: list[Job]) -> None:
        self._waiting = [job for job in self._waiting if job not in gone]
        self._resuming = [job for job in self._resuming if job not in gone]
