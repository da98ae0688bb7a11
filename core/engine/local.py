"""One device, one thread: everything that touches torch happens on it, start to finish.

torch and the networks are imported on that thread, so whoever makes an engine is up before them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.engine.engine import EngineInfo, Load, Query, Unload
from core.engine.job import Job, JobState
from core.engine.line import Line
from core.engine.queue import EVERYBODY, MAX_ATTEMPTS, Queue, Row
from core.engine.quota import keep_within
from core.errors import Cancelled, FileError, OutOfMemory, RequestError, VitrineError
from core.events import Event, Finished, ImageDone, Loaded, Note, Started, Step
from core.gallery import Gallery
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.registry import Registry
from core.request import Branch, GenerationRequest, Record
from core.resolve import submitted
from core.settings import Settings

if TYPE_CHECKING:
    from core.generate import House, Progress
    from core.images.save import SaveOptions

log = logging.getLogger(__name__)

KEPT_JOBS = 16
"""Finished jobs whose events stay in memory; older ones are read from their recordings."""
RECALLED_JOBS = 12
"""Jobs of an earlier process that an owner finds again at the first look."""
UNSAVED, UNSAVED_FILES = 256 * 2**20, 500
"""Bytes and number of pictures that were not to be kept, and are there for a while."""
SMALL_MODEL = 500 * 2**20
"""Bytes; a default checkpoint up to this is loaded before anybody asks."""


class LocalEngine:
    """Runs jobs one after another on the device of `settings`. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        save_options: Callable[[str], SaveOptions] | None = None,
    ) -> None:
        """Begins at once with what an earlier process left in the queue.

        Args:
            save_options: how the pictures of an owner are saved; None: as by default.

        Raises:
            FileError: the data folder can't be written.
        """
        self.settings = settings
        self._save_options = save_options
        self.registry = registry
        self.catalog = Catalog(settings, families=registry.recognising())
        self.inputs = Inputs(settings.data_dir / "inputs")
        self._queue = Queue(settings.data_dir / "queue.sqlite3")
        self.gallery = Gallery(settings.data_dir / "gallery.sqlite3", settings.data_dir / "thumbs")
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._line = Line(self._queue.paused())
        self.changes = self._line.changes
        self._unsaved = settings.data_dir / "unsaved"
        """Pictures that nobody wanted kept, for as long as somebody may ask for them."""
        shutil.rmtree(self._unsaved, ignore_errors=True)
        self._recalled: set[str] = set()
        self._errands: queue.SimpleQueue[tuple[Query, Future[Any]]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._closing = False
        self._house: House | None = None
        self._broken: Exception | None = None
        self._adopt()
        self._scan = self.gallery.scan_in_background(
            settings.outputs_dir, registry, stop=lambda: self._closing
        )
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # What anyone may ask

    def describe(self) -> EngineInfo:
        waiting, running = self._line.counts()
        house = self._house
        return EngineInfo(
            ready=house is not None,
            device=str(house.store.device) if house else "",
            precision=str(house.store.dtype).removeprefix("torch.") if house else "",
            waiting=waiting,
            running=running,
            problem="" if self._broken is None else f"the engine can't start: {self._broken}",
        )

    def submit(self, request: GenerationRequest, owner: str = "local", saves: bool = True) -> Job:
        resolved = submitted(request, self.catalog, self.registry)
        if resolved.branch is not None and self.job(resolved.branch.job).owner != owner:
            raise RequestError(f"there is no job {resolved.branch.job[:40]!r}", "branch")
        if resolved.start is not None:
            for name in (resolved.start.picture, resolved.start.mask):
                if name is not None:
                    self.inputs.open(name)  # raises where it is missing or damaged
        job = Job(resolved, owner, saves=saves)
        row = Row(job.id, owner, resolved, job.created, JobState.WAITING, 0, None, saves)
        self._queue.add(row)
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
        return self._line.place(job)

    def expected(self, job: Job) -> float | None:
        return self._line.expected(job)

    def arrange(self, ids: Sequence[str], owner: str) -> None:
        self._line.arrange(ids, owner)
        self._queue.arrange(ids)

    def pause(self, paused: bool, owner: str | None = None) -> None:
        self._queue.pause(EVERYBODY if owner is None else owner, paused)
        self._line.pause(owner, paused)
        self._wake.set()

    def is_paused(self, owner: str | None = None) -> bool:
        return self._line.is_paused(owner)

    def inspect(self, query: Query, owner: str = "local") -> Future[Any]:
        answer: Future[Any] = Future()
        self._errands.put((query, answer))
        self._wake.set()
        return answer

    def adopt(self, registry: Registry) -> None:
        """Other shelves, from the next job on; the running one keeps those it began with."""
        self.registry = registry
        self.catalog.know(registry.recognising())
        if self._house is not None:
            self._house = replace(self._house, registry=registry)

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=30)
        self._strike_out_cancelled()
        self._queue.close()
        self._scan.join(timeout=5)
        self.gallery.close()
        self.catalog.end()

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
        if self._house is None or self._line.counts()[0]:
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
        return None if self._closing else self._line.take()

    def _strike_out_cancelled(self) -> None:
        """Jobs cancelled while they waited leave the queue: no restart brings them back."""
        for job in self._line.struck_out():
            self._queue.end(job.id, JobState.CANCELLED)

    def _run(self, job: Job) -> None:
        """The job from begin to end, whatever happens in it."""
        state = JobState.FINISHED
        error: Exception | None = None
        if job.begin():
            self._queue.begin(job.id)
            self.changes.tell()
            try:
                self._made(job)
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
        self._line.ended()
        # A finished job is kept; the frames of its error would keep the model with it.
        job.end(state, None if error is None else error.with_traceback(None))
        self.changes.tell()
        self._forget()

    def _made(self, job: Job) -> None:
        """Follows the job; where memory runs out, once more in smaller pieces."""
        if self._broken is not None:
            raise VitrineError(f"the engine could not start: {self._broken}") from self._broken
        from core.engine import memory

        assert self._house is not None
        store = self._house.store
        device = store.device
        try:
            file = self.catalog.checkpoint(job.request.checkpoint)
            memory.make_room(
                job.request,
                lambda: 0 if self._line.is_loaded(file.name) else file.bytes,
                device,
                functools.partial(self._unload, self.settings),
                sizes=memory.sizes_of(file, store.dtype, device, store.placing.tiles),
            )
            self._follow(job)
            return
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            memory.let_go(error)
        has_pictures = any(isinstance(event, ImageDone) for event in job.events())
        if has_pictures and job.trace is None:
            raise OutOfMemory(memory.sentence(device))  # nothing says which are made already
        job.publish(Note("memory", "memory ran out; this goes on in smaller pieces"))
        is_plain = device.type == "cpu"
        self._unload(self.settings if is_plain else replace(self.settings, memory="lowvram"))
        try:
            self._follow(job, again=True)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            memory.let_go(error)
            raise OutOfMemory(memory.sentence(device)) from None
        finally:
            self._unload(self.settings)

    def _follow(self, job: Job, again: bool = False) -> None:
        """Publishes the run's events; raises Cancelled when it is to be given up.

        Args:
            again: what was recorded of it was published already.
        """
        earlier = self._recording(job.id)
        progress = self._progress(earlier)
        resumed = earlier.exists()
        if resumed and not again:
            self._publish_recording(job, earlier)
        spent = 0.0
        with contextlib.closing(self._events(job, progress)) as events:
            for event in events:
                if resumed and isinstance(event, Started):
                    continue
                job.publish(event)
                spent += event.seconds if isinstance(event, Step) else 0.0
                if isinstance(event, Loaded):
                    self._line.loaded(event.checkpoint)
                if isinstance(event, Finished) and not (resumed or event.interrupted):
                    self._line.took(job, spent)
                self._run_errands()
                if job.is_cancelled or self._closing:
                    raise Cancelled

    def _publish_recording(self, job: Job, trace: Path) -> None:
        from core.trace import replayed

        for event in replayed(trace, self.registry):
            job.publish(event)

    def _events(self, job: Job, progress: Progress) -> Any:
        """The stream of one job: generated, saved, recorded."""
        from core.engine.hashes import hashes_of
        from core.gallery import indexed
        from core.generate import generate
        from core.images.save import saved
        from core.trace import recorded

        assert self._house is not None
        events: Iterator[Event] = generate(job.request, self._house, job.wish, progress)
        into = self.settings.outputs_dir if job.saves else self._unsaved
        events = saved(
            events,
            into,
            self.registry,
            options=self._saving(job),
            hashes=functools.partial(hashes_of, house=self._house),
            user=job.owner,
        )
        if job.saves:
            events = indexed(events, self.gallery, job=job.id, owner=job.owner)
        events = self._house.registry.told(events)
        if job.request.record is not Record.NOTHING:
            job.trace = self._recording(job.id)
            events = recorded(events, job.trace)
        return events

    def _saving(self, job: Job) -> SaveOptions | None:
        """As its owner wants it; what nobody keeps is a PNG."""
        return (
            None if self._save_options is None or not job.saves else self._save_options(job.owner)
        )

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
        from core.engine.looking import exhausted

        if self._house is None:
            raise VitrineError(f"the engine could not start: {self._broken}")
        match query:
            case Unload():
                self._unload(self.settings)
                return None
            case Load():
                checkpoint = self.catalog.checkpoint(query.checkpoint)
                exhausted(self._house.store.loaded(checkpoint.name))
                self._line.loaded(checkpoint.name)
                return None
        return answered(query, self.job, self._house)

    def _unload(self, settings: Settings) -> None:
        """Every checkpoint out of memory: a new store, of these settings, knows none."""
        from core.models.store import Store

        assert self._house is not None
        self._house = replace(self._house, store=Store(settings, self.catalog))
        self._line.loaded(None)
        gc.collect()

    # Jobs of earlier times

    def _adopt(self) -> None:
        """Lines up what an earlier process left; what took it down twice is set aside."""
        for row in self._queue.unfinished():
            job = Job(row.request, row.owner, row.id, row.created, row.saves)
            if row.attempts >= MAX_ATTEMPTS:
                error = VitrineError(f"this job was begun {row.attempts} times and never ended")
                self._queue.end(row.id, JobState.FAILED, str(error))
                job.end(JobState.FAILED, error)
                self._jobs[job.id] = job
            else:
                self._line_up(job, resuming=self._recording(job.id).exists())

    def _line_up(self, job: Job, resuming: bool = False) -> None:
        with self._lock:
            self._jobs[job.id] = job
        self._line.add(job, resuming)
        self._wake.set()

    def _forget(self) -> None:
        """Drops the events of all but the last finished jobs."""
        with self._lock:
            over = [id for id, job in self._jobs.items() if job.state.is_over]
            for id in over[:-KEPT_JOBS]:
                del self._jobs[id]
        most, starred = self.settings.trace_quota_mb * 2**20, self.gallery.starred_jobs()
        keep_within(self.settings.traces_dir, "*.trace", most, spared=starred)
        keep_within(self._unsaved, "**/*.png", UNSAVED, UNSAVED_FILES)

    def _past(self, row: Row) -> Job:
        """A job that is no longer in memory, from its row and its recording."""
        job = Job(row.request, row.owner, row.id, row.created, row.saves)
        trace = self._recording(job.id)
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
