"""The shelves: what there is by name. Torch-free; implementations are imported when asked for.

A Registry is a value handed to the engine. There is no module-global one.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from core.errors import named
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

        step = functools.partial(_loaded(self.target), **options)
        if not self.adaptive:
            return Sampler(step)
        from core.sampling.dpm_solver import adaptive_is_done, adaptive_level

        return Sampler(step, adaptive_level, adaptive_is_done)

    def planned(self, sigmas: Tensor, steps: int) -> Tensor:
        """The levels it walks, from those of a schedule."""
        if self.plan is None:
            return sigmas
        plan = _loaded(self.plan)
        return plan(sigmas, steps) if self.takes_calls else plan(sigmas)

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
        return _loaded(self.target)

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


@dataclass(frozen=True)
class Registry:
    """All shelves, by name."""

    samplers: Mapping[str, SamplerEntry]
    schedules: Mapping[str, ScheduleEntry]

    def sampler(self, name: str) -> SamplerEntry:
        """By name or A1111 title, in any case. Raises RequestError naming all there are."""
        return _found(self.samplers, name, "sampler", "sampler")

    def schedule(self, name: str) -> ScheduleEntry:
        """By name or A1111 title, in any case. Raises RequestError naming all there are."""
        return _found(self.schedules, name, "schedule", "schedule")


class Titled(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...


E = TypeVar("E", bound=Titled)


def _found(shelf: Mapping[str, E], name: str, kind: str, field: str) -> E:
    if name in shelf:
        return shelf[name]
    by_title = {entry.title.casefold(): entry for entry in shelf.values()}
    if (entry := by_title.get(name.casefold())) is not None:
        return entry
    return named(shelf, name, kind, field)


def _loaded(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class Shelf(Generic[E]):
    """Collects entries under their names, refusing a second one of the same name."""

    def __init__(self, *entries: E) -> None:
        self._entries: dict[str, E] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ValueError(f"two entries named {entry.name!r}")
            self._entries[entry.name] = entry

    def closed(self) -> Mapping[str, E]:
        return MappingProxyType(self._entries)


def built_in() -> Registry:
    """What ships with the house."""
    return Registry(samplers=Shelf(*_SAMPLERS).closed(), schedules=Shelf(*_SCHEDULES).closed())


_ONE_STEP = "core.sampling.samplers:"
_MULTISTEP = "core.sampling.multistep:"
_STOCHASTIC = "core.sampling.stochastic:"
_SOLVER = "core.sampling.dpm_solver:"
_CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
_NOISY = ("eta", "s_noise")

_SAMPLERS = (
    SamplerEntry(
        name="euler_ancestral",
        title="Euler a",
        help="Euler with fresh noise at every step: lively, never settles as steps grow.",
        target=_ONE_STEP + "euler_ancestral",
        noise="draws",
        options=_NOISY,
    ),
    SamplerEntry(
        name="euler",
        title="Euler",
        help="The simplest: follow the slope to the next noise level. First order.",
        target=_ONE_STEP + "euler",
        noise="draws",
        options=_CHURN,
    ),
    SamplerEntry(
        name="heun",
        title="Heun",
        help="Euler, then the slope at the far end, averaged. Second order, two calls a step.",
        target=_ONE_STEP + "heun",
        calls=2,
        noise="draws",
        options=_CHURN,
    ),
    SamplerEntry(
        name="ddim",
        title="DDIM",
        help="The first fast sampler; with eta 0 the same walk as Euler, on its own noise levels.",
        target=_ONE_STEP + "ddim",
        schedule="timesteps",
        starts="vp",
        noise="draws",
        options=("eta",),
    ),
    SamplerEntry(
        name="ddpm",
        title="DDPM",
        help="The way back as first derived, with its full noise; wants many steps.",
        target=_ONE_STEP + "ddpm",
        noise="draws",
        options=("s_noise",),
    ),
    SamplerEntry(
        name="plms",
        title="PLMS",
        help="Remembers four slopes and weighs them: fourth order from one call a step.",
        target=_MULTISTEP + "plms",
        schedule="timesteps",
        starts="vp",
        first_calls=2,
    ),
    SamplerEntry(
        name="lms",
        title="LMS",
        help="Like PLMS, with weights that fit uneven noise levels.",
        target=_MULTISTEP + "lms",
    ),
    SamplerEntry(
        name="dpm_2",
        title="DPM2",
        help="The slope at the middle of each step. Second order, two calls a step.",
        target=_ONE_STEP + "dpm_2",
        schedule="karras",
        calls=2,
        noise="draws",
        options=_CHURN,
        discards_penultimate=True,
    ),
    SamplerEntry(
        name="dpm_2_ancestral",
        title="DPM2 a",
        help="DPM2 with fresh noise at every step.",
        target=_ONE_STEP + "dpm_2_ancestral",
        schedule="karras",
        calls=2,
        noise="draws",
        options=_NOISY,
        discards_penultimate=True,
    ),
    SamplerEntry(
        name="dpmpp_2s_ancestral",
        title="DPM++ 2S a",
        help="Second order in one step, with fresh noise; two calls a step.",
        target=_STOCHASTIC + "dpmpp_2s_ancestral",
        schedule="karras",
        calls=2,
        noise="draws",
        options=_NOISY,
    ),
    SamplerEntry(
        name="dpmpp_2m",
        title="DPM++ 2M",
        help="Second order from one call a step, by remembering the last estimate.",
        target=_MULTISTEP + "dpmpp_2m",
        schedule="karras",
    ),
    SamplerEntry(
        name="dpmpp_sde",
        title="DPM++ SDE",
        help="Noise along a Brownian path, twice a step: detailed; two calls a step.",
        target=_STOCHASTIC + "dpmpp_sde",
        schedule="karras",
        calls=2,
        noise="brownian",
        options=_NOISY,
    ),
    SamplerEntry(
        name="dpmpp_2m_sde",
        title="DPM++ 2M SDE",
        help="DPM++ 2M with noise along a Brownian path: detailed at few steps.",
        target=_STOCHASTIC + "dpmpp_2m_sde",
        schedule="exponential",
        noise="brownian",
        options=_NOISY,
    ),
    SamplerEntry(
        name="dpmpp_2m_sde_heun",
        title="DPM++ 2M SDE Heun",
        help="The same with another second-order term.",
        target=_STOCHASTIC + "dpmpp_2m_sde_heun",
        schedule="exponential",
        noise="brownian",
        options=_NOISY,
    ),
    SamplerEntry(
        name="dpmpp_3m_sde",
        title="DPM++ 3M SDE",
        help="Third order, remembering two estimates; wants 30 steps or more.",
        target=_STOCHASTIC + "dpmpp_3m_sde",
        schedule="exponential",
        noise="brownian",
        options=_NOISY,
        discards_penultimate=True,
    ),
    SamplerEntry(
        name="dpm_fast",
        title="DPM fast",
        help="Third order within a budget: steps are network calls, spent three at a time.",
        target=_SOLVER + "dpm_fast",
        schedule="karras",
        calls=3,
        noise="draws",
        options=_NOISY,
        plan=_SOLVER + "dpm_fast_plan",
        takes_calls=True,
    ),
    SamplerEntry(
        name="dpm_adaptive",
        title="DPM adaptive",
        help="Chooses its own steps by the error it makes; the number of steps has no say.",
        target=_SOLVER + "dpm_adaptive",
        schedule="karras",
        calls=3,
        noise="draws",
        options=_NOISY,
        adaptive=True,
    ),
    SamplerEntry(
        name="unipc",
        title="UniPC",
        help="Predicts, then corrects with the very estimate that the next step needs anyway.",
        target=_MULTISTEP + "unipc",
        schedule="time_uniform",
        starts="vp",
    ),
    SamplerEntry(
        name="lcm",
        title="LCM",
        help="For models and LoRAs distilled to a few steps: jump to the estimate, noise it again.",
        target=_ONE_STEP + "lcm",
        schedule="sgm_uniform",
        noise="draws",
        options=("s_noise",),
    ),
    SamplerEntry(
        name="restart",
        title="Restart",
        help="Heun that goes back up to more noise once or twice and down again (from 20 steps).",
        target=_ONE_STEP + "restart",
        schedule="karras",
        calls=2,
        noise="draws",
        options=("s_noise",),
        plan=_ONE_STEP + "restart_plan",
    ),
)

_SPACING = "core.sampling.schedule:"
_ENDS = ("sigma_min", "sigma_max")

_SCHEDULES = (
    ScheduleEntry(
        name="karras",
        title="Karras",
        help="Small steps at low noise: arXiv:2206.00364, equation 5.",
        target=_SPACING + "karras",
        options=("rho", *_ENDS),
    ),
    ScheduleEntry(
        name="exponential",
        title="Exponential",
        help="Even steps in the logarithm of sigma.",
        target=_SPACING + "exponential",
        options=_ENDS,
    ),
    ScheduleEntry(
        name="polyexponential",
        title="Polyexponential",
        help="Exponential, bent by a power that A1111 leaves at 1: the same levels.",
        target=_SPACING + "polyexponential",
        options=("rho", *_ENDS),
    ),
    ScheduleEntry(
        name="normal",
        title="Normal",
        help="Even steps in the training timestep.",
        target=_SPACING + "normal",
        options=_ENDS,
    ),
    ScheduleEntry(
        name="uniform",
        title="Uniform",
        help="k-diffusion's own: the levels of Normal over all of training.",
        target=_SPACING + "uniform",
    ),
    ScheduleEntry(
        name="simple",
        title="Simple",
        help="Every so-manyth training noise level, from the noisiest down.",
        target=_SPACING + "simple",
    ),
    ScheduleEntry(
        name="sgm_uniform",
        title="SGM Uniform",
        help="Even timesteps that leave out the last: Stability's own for XL.",
        target=_SPACING + "sgm_uniform",
        options=_ENDS,
    ),
    ScheduleEntry(
        name="ddim_uniform",
        title="DDIM",
        help="DDIM's own grid: every (1000 // steps)-th timestep, plus one.",
        target=_SPACING + "ddim_uniform",
    ),
    ScheduleEntry(
        name="timesteps",
        title="Timesteps",
        help="The grid that DDIM and PLMS bring themselves: ends just above 0, one step fewer.",
        target=_SPACING + "timesteps",
        walks_all=True,
    ),
    ScheduleEntry(
        name="time_uniform",
        title="Time Uniform",
        help="UniPC's own: even in time, down to the lowest noise level of training.",
        target=_SPACING + "time_uniform",
        walks_all=True,
    ),
    ScheduleEntry(
        name="align_your_steps",
        title="Align Your Steps",
        help="Levels that were optimised for about ten steps: arXiv:2404.14507.",
        target=_SPACING + "align_your_steps",
    ),
    ScheduleEntry(
        name="kl_optimal",
        title="KL Optimal",
        help="Even in arctan sigma; ends at the lowest level, not at 0.",
        target=_SPACING + "kl_optimal",
        options=_ENDS,
    ),
    ScheduleEntry(
        name="beta",
        title="Beta",
        help="More steps at both ends: arXiv:2407.12173.",
        target=_SPACING + "beta",
        options=_ENDS,
    ),
    ScheduleEntry(
        name="linear_quadratic",
        title="Linear Quadratic",
        help="Falls slowly at first, then ever faster: arXiv:2410.13720.",
        target=_SPACING + "linear_quadratic",
        options=_ENDS,
    ),
)
