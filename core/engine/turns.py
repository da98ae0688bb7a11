"""Whose turn it is: jobs in a fair order. Plain values, no threads and no files.

Owners take turns. In each round every owner has one job; in a round jobs of the checkpoint that is
in memory go first, then the ones that cost least, then the ones that came first. A person with a
hundred jobs delays another one by one job, and never more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from core.passes import enlarged
from core.request import GenerationRequest


class Queued(Protocol):
    """What is asked of a job."""

    @property
    def owner(self) -> str: ...
    @property
    def request(self) -> GenerationRequest: ...


Q = TypeVar("Q", bound=Queued)


class Turns:
    """Who had the last turn in which round. For one lock alone."""

    def __init__(self) -> None:
        self._round = 0
        self._last: dict[str, int] = {}

    def ordered(self, waiting: Iterable[Q], loaded: str | None = None) -> list[Q]:
        """The jobs in the order they will be begun, if no other one comes.

        Args:
            waiting: each owner's in the order that the owner wants.
            loaded: the checkpoint in memory.
        """
        counted: dict[str, int] = {}
        keyed = []
        for number, job in enumerate(waiting):
            turn = counted.get(job.owner, self._next(job.owner))
            counted[job.owner] = turn + 1
            is_other = job.request.checkpoint != loaded
            keyed.append(((turn, is_other, cost(job.request), number), job))
        return [job for _, job in sorted(keyed, key=lambda entry: entry[0])]

    def begun(self, owner: str) -> None:
        """A job of this owner has just begun."""
        self._round = self._next(owner)
        self._last[owner] = self._round

    def rest(self) -> None:
        """Nobody waits: what was is forgotten."""
        self._round = 0
        self._last.clear()

    def _next(self, owner: str) -> int:
        """The round of the owner's next job. Who comes anew joins the round under way."""
        return max(self._round, self._last.get(owner, -1) + 1)


def cost(request: GenerationRequest) -> int:
    """What a resolved request takes, in pixels times steps; a measure, no time."""
    total = _walked(request)
    return total if request.enlarge is None else total + _walked(enlarged(request))


def _walked(request: GenerationRequest) -> int:
    return (request.width or 0) * (request.height or 0) * request.steps * request.images


class Pace:
    """How long work takes here, from the runs there were. For one lock alone."""

    def __init__(self) -> None:
        self._by_checkpoint: dict[str, float] = {}

    def took(self, request: GenerationRequest, seconds: float) -> None:
        """A run of `request` took so long, loading aside."""
        work = cost(request)
        if work and seconds > 0:
            name, now = request.checkpoint or "", seconds / work
            before = self._by_checkpoint.get(name, now)
            self._by_checkpoint[name] = before + (now - before) / 2

    def seconds(self, request: GenerationRequest) -> float | None:
        """What `request` will take; None where no run of its checkpoint has told."""
        pace = self._by_checkpoint.get(request.checkpoint or "")
        return None if pace is None else pace * cost(request)
