"""What stands on a shelf: a sampler or a schedule by name, torch-free; what it names is imported
when it is asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from core.request import ScheduleOptions

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampling.schedule import Schedule
    from core.sampling.state import Sampler


_NO_OPTIONS = ScheduleOptions()


@dataclass(frozen=True, kw_only=True)
class SamplerEntry:
    """A sampler on the shelf. Targets are "module:function"."""

    name: str
    title: str
    """What A1111 calls it."""
    help: str
    target: str
    """Its pure step over State."""
    schedule: str = "normal"
    """Its own schedule, used for "automatic"."""
    calls: int = 1
    """Evaluations of the denoiser a step, at most, after the first step."""
    first_calls: int | None = None
    """Those of the first step, where it has more."""
    starts: Literal["sigma", "vp"] = "sigma"
    """How far the first noise is scaled: sigma, or √(1 + sigma²), unit noise once it is made
    variance preserving, from which A1111's DDIM, PLMS and UniPC start."""
    noise: Literal["none", "draws", "brownian"] = "none"
    options: tuple[str, ...] = ()
    """The fields of SamplerOptions it takes."""
    plan: str | None = None
    """(sigmas) -> sigmas, for one that walks other levels than the schedule's."""
    takes_calls: bool = False
    """Whether `steps` is a budget of network calls, for plan and step."""
    discards_penultimate: bool = False
    """Whether its schedule is made one longer, and the last level above 0 left out."""
    adaptive: bool = False
    """Whether it chooses its own levels as it goes, one image at a time."""

    def load(self, options: Mapping[str, Any]) -> Sampler:
        """The sampler, with options filled in."""
        from core.sampling.state import Sampler

        step = functools.partial(loaded(self.target), **options)
        if not self.adaptive:
            return Sampler(step)
        from core.sampling.dpm_solver import adaptive_is_done, adaptive_level

        return Sampler(step, adaptive_level, adaptive_is_done)

    def planned(self, sigmas: Tensor, steps: int) -> Tensor:
        """The levels it walks, from those of a schedule."""
        if self.plan is None:
            return sigmas
        plan = loaded(self.plan)
        return plan(sigmas, steps) if self.takes_calls else plan(sigmas)

    @property
    def chooses(self) -> bool:
        """Whether it walks levels of its own, that no other sampler can go on with."""
        return self.adaptive or self.takes_calls

    def initial(self, noise: Tensor, sigmas: Tensor) -> Tensor:
        """The latents (b c h w) that a walk from noise begins with, from unit noise.

        Args:
            sigmas: the levels it walks.
        """
        highest = sigmas[0]
        return noise * (highest if self.starts == "sigma" else (1 + highest**2).sqrt())

    def passed(self, sigmas: Tensor) -> tuple[int, ...]:
        """For each interval the steps that A1111's prompts count before it: network calls.

        A rising interval has none. One that chooses its own levels is taken at its least.
        """
        counts = [0]
        for level, level_next in pairwise(sigmas.tolist()):
            calls = self.first_calls if self.first_calls and len(counts) == 1 else self.calls
            counts.append(counts[-1] + (calls if level_next < level else 0))
        return tuple(counts[:-1])

    def counted(self, steps: int) -> int:
        """All steps that A1111's prompts count: two for each where a step has two calls."""
        return steps if self.takes_calls or self.adaptive else steps * self.calls


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry:
    """A spacing of sigmas on the shelf; `target` is (Schedule, steps) -> sigmas."""

    name: str
    title: str
    help: str
    target: str
    options: tuple[str, ...] = ()
    """The fields of ScheduleOptions it takes, beside those that every schedule takes."""
    walks_all: bool = False
    """Whether no level is left out of it, though the penultimate one be asked to."""

    def load(self) -> Any:
        return loaded(self.target)

    def sigmas(
        self,
        schedule: Schedule,
        steps: int,
        options: ScheduleOptions = _NO_OPTIONS,
        discards_penultimate: bool = False,
    ) -> Tensor:
        """The levels of a whole walk, before a sampler plans its own from them.

        Args:
            discards_penultimate: what the sampler does where the options don't say.

        Raises:
            RequestError: the ends have changed places, or it has not so many steps.
        """
        from core.sampling.schedule import between, without_penultimate

        taken = {name: getattr(options, name) for name in self.options}
        rho = taken.pop("rho", None)
        discards = options.discard_penultimate
        if discards is None:
            discards = discards_penultimate
        sigmas: Tensor = self.load()(
            between(schedule, **taken), steps + discards, **({} if rho is None else {"rho": rho})
        )
        return without_penultimate(sigmas) if discards and not self.walks_all else sigmas


def loaded(target: str) -> Any:
    """What a target, "module:name", names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
