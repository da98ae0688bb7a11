"""One device, one thread: everything that touches torch happens on it, start to finish.

torch and the networks are imported on that thread, so whoever makes an engine is up before them.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.engine.engine import EngineInfo, Query
from core.engine.job import Job, JobState
from core.engine.queue import MAX_ATTEMPTS, Queue, Row
from core.errors import Cancelled, FileError, RequestError, VitrineError
from core.events import Event, Started, Step
from core.gallery import Gallery
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.registry import Registry
from core.request import Branch, GenerationRequest, Record
from core.resolve import resolve
from core.settings import Settings

if TYPE_CHECKING:
    from core.generate import House, Progress
    from core.images.infotext import Hashes

log = logging.getLogger(__name__)

KEPT_JOBS = 16
"""Finished jobs whose events stay in memory; older ones are read from their recordings."""
RECALLED_JOBS = 12
"""Jobs of an earlier process that an owner finds again at the first look."""
SMALL_MODEL = 500 * 2**20
"""Bytes; a default checkpoint up to this is loaded before anybody asks."""


class LocalEngine:
    """Runs jobs one after another on the device of `settings`. Thread-safe."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Begins at once with what an earlier process left in the queue.

        Raises:
            FileError: the data folder can't be written.
        """
        self.settings = settings
        self.registry = registry
        self.catalog = Catalog(settings)
        self.inputs = Inputs(settings.data_dir / "inputs")
        self.gallery = Gallery(settings.data_dir / "gallery.sqlite3", settings.data_dir / "thumbs")
        self._queue = Queue(settings.data_dir / "queue.sqlite3")
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._recalled: set[str] = set()
        self._errands: queue.SimpleQueue[tuple[Query, Future[Any]]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._closing = False
        self._house: House | None = None
        self._broken: Exception | None = None
        self._adopt()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # What anyone may ask

    def describe(self) -> EngineInfo:
        with self._lock:
            waiting, running = len(self._waiting), self._running is not None
        house = self._house
        return EngineInfo(
            ready=house is not None,
            device=str(house.store.device) if house else "",
            precision=str(house.store.dtype).removeprefix("torch.") if house else "",
            waiting=waiting,
            running=int(running),
            problem="" if self._broken is None else f"the engine can't start: {self._broken}",
        )

    def submit(self, request: GenerationRequest, owner: str = "local") -> Job:
        resolved = resolve(request, self.catalog, self.registry)
        if resolved.branch is not None and self.job(resolved.branch.job).owner != owner:
            raise RequestError(f"there is no job {resolved.branch.job[:40]!r}", "branch")
        job = Job(resolved, owner)
        self._queue.add(Row(job.id, owner, resolved, job.created, JobState.WAITING, 0, None))
        self._line_up(job)
        return job

    def job(self, id: str) -> Job:
        with self._lock:
            if id in self._jobs:
                return self._jobs[id]
        row = self._queue.row(id)
        if row is None:
            raise RequestError(f"there is no job {id[:40]!r}", "job")
        return self._past(row)

    def jobs(self, owner: str | None = None) -> list[Job]:
        if owner is not None:
            self._recall(owner)
        with self._lock:
            found = [job for job in self._jobs.values() if owner in (None, job.owner)]
        return sorted(found, key=lambda job: job.created)

    def place(self, job: Job) -> int:
        with self._lock:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None)

    def inspect(self, query: Query, owner: str = "local") -> Future[Any]:
        answer: Future[Any] = Future()
        self._errands.put((query, answer))
        self._wake.set()
        return answer

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=30)
        self._strike_out_cancelled()
        self._queue.close()

    # On the engine's thread

    def _work(self) -> None:
        try:
            self._house = self._opened()
        except Exception as error:
            log.exception("the engine can't start")
            self._broken = error
        self._warm_up()
        while not self._closing:
            self._wake.wait(timeout=1.0)
            self._wake.clear()
            self._run_errands()
            while (job := self._next()) is not None and not self._closing:
                self._run(job)
                self._run_errands()

    def _opened(self) -> House:
        from core.generate import House
        from core.models.store import Store

        store = Store(self.settings, self.catalog)
        return House(self.registry, self.catalog, store, self.inputs, self._stored)

    def _stored(self, branch: Branch) -> Step:
        """The step that a branch begins at.

        Raises:
            RequestError: its run was not recorded, or is no longer there.
        """
        from core.trace import step_at

        path = self._recording(branch.job)
        try:
            return step_at(path, self.registry, branch.image, branch.index, branch.pass_index)
        except FileError as error:
            raise RequestError(f"a branch needs the recorded run: {error}", "branch") from error

    def _warm_up(self) -> None:
        """Loads the default model while nobody waits, if it is small: the first picture is soon."""
        if self._house is None or self._waiting:
            return
        from core.engine.answers import exhausted

        try:
            default = self.catalog.default()
            if default.path.is_file() and default.path.stat().st_size <= SMALL_MODEL:
                loading = self._house.store.loaded(default.name)
                self._house.store.preview(exhausted(loading))
        except (VitrineError, OSError):
            log.exception("the default checkpoint can't be loaded ahead of time")

    def _next(self) -> Job | None:
        self._strike_out_cancelled()
        with self._lock:
            self._running = self._waiting.pop(0) if self._waiting else None
            return self._running

    def _strike_out_cancelled(self) -> None:
        """Jobs cancelled while they waited leave the queue: no restart brings them back."""
        with self._lock:
            over = [job for job in self._waiting if job.state.is_over]
            self._waiting = [job for job in self._waiting if job not in over]
        for job in over:
            self._queue.end(job.id, JobState.CANCELLED)

    def _run(self, job: Job) -> None:
        """The job from begin to end, whatever happens in it."""
        state = JobState.FINISHED
        error: Exception | None = None
        if job.begin():
            self._queue.begin(job.id)
            try:
                self._follow(job)
            except Cancelled as cancelled:
                state, error = JobState.CANCELLED, cancelled
            except VitrineError as problem:
                state, error = JobState.FAILED, problem
            except Exception as problem:
                log.exception("job %s failed", job.id)
                state, error = JobState.FAILED, _as_sentence(problem)
            if state is JobState.CANCELLED and not job.is_cancelled:
                self._queue.put_back(job.id)  # the house closes; it goes on after the next start
                return
        else:
            state, error = JobState.CANCELLED, Cancelled()
        self._queue.end(job.id, state, None if error is None else str(error))
        with self._lock:
            self._running = None
        job.end(state, error)
        self._forget()

    def _follow(self, job: Job) -> None:
        """Publishes the run's events; raises Cancelled when it is to be given up."""
        if self._broken is not None:
            raise VitrineError(f"the engine could not start: {self._broken}") from self._broken
        earlier = self._trace_path(job)
        progress = self._progress(earlier)
        resumed = earlier.exists()
        if resumed:
            self._publish_recording(job, earlier)
        with contextlib.closing(self._events(job, progress)) as events:
            for event in events:
                if resumed and isinstance(event, Started):
                    continue
                job.publish(event)
                self._run_errands()
                if job.is_cancelled or self._closing:
                    raise Cancelled

    def _publish_recording(self, job: Job, trace: Path) -> None:
        from core.trace import replayed

        for event in replayed(trace, self.registry):
            job.publish(event)

    def _events(self, job: Job, progress: Progress) -> Any:
        """The stream of one job: generated, saved, recorded."""
        from core.gallery import indexed
        from core.generate import generate
        from core.images.save import saved
        from core.trace import recorded

        assert self._house is not None
        events: Iterator[Event] = generate(job.request, self._house, job.wish, progress)
        into = self.settings.outputs_dir
        events = saved(events, into, self.registry, hashes=self._hashes_of, user=job.owner)
        events = indexed(events, self.gallery, job=job.id, owner=job.owner)
        if job.request.record is not Record.NOTHING:
            job.trace = self._trace_path(job)
            events = recorded(events, job.trace)
        return events

    def _hashes_of(self, request: GenerationRequest) -> Hashes:
        from core.engine.hashes import hashes_of

        assert self._house is not None
        return hashes_of(request, self._house)

    def _progress(self, trace: Path) -> Progress:
        """Where an earlier attempt left off; nowhere, if its recording can't be read."""
        from core.generate import Progress
        from core.trace import progress_of

        if not trace.exists():
            return Progress()
        try:
            return progress_of(trace, self.registry)
        except VitrineError:
            log.exception("the recording %s can't be resumed; beginning anew", trace)
            trace.rename(trace.with_suffix(".unreadable"))
            return Progress()

    def _run_errands(self) -> None:
        self._strike_out_cancelled()
        while True:
            try:
                query, answer = self._errands.get_nowait()
            except queue.Empty:
                return
            if answer.set_running_or_notify_cancel():
                _settle(answer, lambda query=query: self._answered(query))  # type: ignore[misc]

    def _answered(self, query: Query) -> Any:
        from core.engine.answers import answered

        if self._house is None:
            raise VitrineError(f"the engine could not start: {self._broken}")
        return answered(query, self.job, self._house)

    # Jobs of earlier times

    def _adopt(self) -> None:
        """Lines up what an earlier process left; what took it down twice is set aside."""
        for row in self._queue.unfinished():
            job = Job(row.request, row.owner, row.id, row.created)
            if row.attempts >= MAX_ATTEMPTS:
                error = VitrineError(f"this job was begun {row.attempts} times and never ended")
                self._queue.end(row.id, JobState.FAILED, str(error))
                job.end(JobState.FAILED, error)
                self._jobs[job.id] = job
            else:
                self._line_up(job)

    def _line_up(self, job: Job) -> None:
        with self._lock:
            self._jobs[job.id] = job
            self._waiting.append(job)
        self._wake.set()

    def _forget(self) -> None:
        """Drops the events of all but the last finished jobs."""
        with self._lock:
            over = [id for id, job in self._jobs.items() if job.state.is_over]
            for id in over[:-KEPT_JOBS]:
                del self._jobs[id]
        _keep_within(self.settings.traces_dir, self.settings.trace_quota_mb * 2**20)

    def _past(self, row: Row) -> Job:
        """A job that is no longer in memory, from its row and its recording."""
        job = Job(row.request, row.owner, row.id, row.created)
        trace = self._trace_path(job)
        if trace.exists():
            job.trace = trace
            self._publish_recording(job, trace)
        error = None if row.error is None else VitrineError(row.error)
        job.end(row.state, Cancelled() if row.state is JobState.CANCELLED else error)
        return job

    def _recall(self, owner: str) -> None:
        """The owner's last jobs of an earlier process, brought back into memory once."""
        with self._lock:
            if owner in self._recalled:
                return
            self._recalled.add(owner)
        for row in self._queue.recent(owner, RECALLED_JOBS):
            if row.id not in self._jobs and row.state.is_over:
                job = self._past(row)
                with self._lock:
                    self._jobs.setdefault(job.id, job)

    def _trace_path(self, job: Job) -> Path:
        return self._recording(job.id)

    def _recording(self, job: str) -> Path:
        """Where the run of that job is or would be recorded.

        Raises:
            RequestError: no job is named so.
        """
        if not re.fullmatch(r"[\w-]{1,64}", job):
            raise RequestError(f"there is no job {job[:40]!r}", "job")
        return self.settings.traces_dir / f"{job}.trace"


def _settle(answer: Future[Any], work: Callable[[], Any]) -> None:
    try:
        answer.set_result(work())
    except Exception as error:
        answer.set_exception(error)


def _as_sentence(error: Exception) -> VitrineError:
    """An error nobody foresaw, for a person; the log has its traceback."""
    return VitrineError(f"something went wrong inside ({type(error).__name__}); the log says more")


def _keep_within(folder: Path, quota: int) -> None:
    """Deletes the oldest recordings until the rest fits into `quota` bytes."""
    files = []
    for path in folder.glob("*.trace"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= quota:
            return
        path.unlink(missing_ok=True)
        total -= size
