"""A job: one request on its way, watched by any number of readers and steered by its owner.

This room knows threads, and nothing of devices, networks or pages.
"""

from __future__ import annotations

import enum
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import Cancelled
from core.events import Event
from core.request import GenerationRequest, Wish


class JobState(enum.StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)


def new_job_id() -> str:
    """An id nobody can guess, safe in URLs and file names."""
    return secrets.token_urlsafe(12)


class Job:
    """One submitted request. Thread-safe.

    The engine publishes events into it; readers `follow` them from any number on, each at its own
    pace. `request` is resolved: the seed is drawn.
    """

    def __init__(
        self,
        request: GenerationRequest,
        owner: str,
        id: str | None = None,
        created: float | None = None,
        saves: bool = True,
    ) -> None:
        self.id = id or new_job_id()
        self.owner = owner
        self.request = request
        self.created = time.time() if created is None else created
        self.saves = saves
        """Whether its pictures go to disk; else they are there for whoever waits for them."""
        self.trace: Path | None = None
        """The recording, once the engine began one."""
        self.error: Exception | None = None
        self._state = JobState.WAITING
        self._events: list[Event] = []
        self._wish = Wish.GO_ON
        self._cancelled = False
        self._changed = threading.Condition()

    @property
    def state(self) -> JobState:
        with self._changed:
            return self._state

    def __iter__(self) -> Iterator[Event]:
        """Every event from the first on, as they come; ends with the job.

        Raises what the run raised: a VitrineError, or Cancelled.
        """
        for _, event in self.follow():
            yield event

    def follow(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """(number, event) for every event numbered above `after`; the first has number 1.

        Waits for what has not happened yet. Raises as iteration does.
        """
        position = after
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda position=position: len(self._events) > position or self._state.is_over  # type: ignore[misc]
                )
                fresh = self._events[position:]
                over = self._state.is_over
            for event in fresh:
                position += 1
                yield position, event
            if over and not fresh:
                if self.error is not None:
                    raise self.error
                return

    def events(self, after: int = 0) -> list[Event]:
        """What has happened so far, without waiting."""
        with self._changed:
            return self._events[after:]

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; False if `timeout` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state.is_over, timeout)

    def interrupt(self) -> None:
        """Finish with what there is: the last estimate, decoded, saved, marked unfinished."""
        self._steer(Wish.FINISH)

    def skip(self) -> None:
        """The same for the image in work only; the next one begins."""
        self._steer(Wish.SKIP)

    def cancel(self) -> None:
        """Discard the job, waiting or running."""
        with self._changed:
            self._cancelled = True
            if self._state is JobState.WAITING:
                self._state, self.error = JobState.CANCELLED, Cancelled()
            self._changed.notify_all()

    def wish(self) -> Wish:
        """What the owner wants now; a wish to skip is granted once."""
        with self._changed:
            wish = self._wish
            if wish is Wish.SKIP:
                self._wish = Wish.GO_ON
            return wish

    @property
    def wanted(self) -> Wish:
        """The owner's wish, looked at without granting it."""
        with self._changed:
            return self._wish

    @property
    def is_cancelled(self) -> bool:
        with self._changed:
            return self._cancelled

    def begin(self) -> bool:
        """For the engine: waiting -> running; False if it was cancelled meanwhile."""
        with self._changed:
            if self._state is not JobState.WAITING:
                return False
            self._state = JobState.RUNNING
            self._changed.notify_all()
            return True

    def publish(self, event: Event) -> None:
        """For the engine: one more event."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def end(self, state: JobState, error: Exception | None = None) -> None:
        """For the engine: the job is over, and why."""
        with self._changed:
            self._state, self.error = state, error
            self._changed.notify_all()

    def _steer(self, wish: Wish) -> None:
        with self._changed:
            if self._wish is not Wish.FINISH:
                self._wish = wish
            self._changed.notify_all()
