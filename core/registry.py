"""The shelves: what there is by name. Torch-free; implementations are imported when asked for.

A Registry is a value handed to the engine. There is no module-global one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, TypeVar

from core.errors import named


@dataclass(frozen=True, kw_only=True)
class SamplerEntry:
    """A sampler on the shelf. `target` is "module:function", a pure step over State."""

    name: str
    title: str
    """What A1111 calls it."""
    help: str
    target: str
    schedule: str = "karras"
    """Its own schedule, used for "automatic"."""
    calls: int = 1
    """Evaluations of the denoiser a step."""
    noise: Literal["none", "draws", "brownian"] = "none"
    options: tuple[str, ...] = ()
    """The fields of SamplerOptions it takes."""

    def load(self) -> Any:
        return _loaded(self.target)


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry:
    """A spacing of sigmas on the shelf; `target` is (Schedule, steps) -> sigmas."""

    name: str
    title: str
    help: str
    target: str

    def load(self) -> Any:
        return _loaded(self.target)


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


_STEPS = "core.sampling.samplers:"
_CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")

_SAMPLERS = (
    SamplerEntry(
        name="euler_ancestral",
        title="Euler a",
        help="Euler with fresh noise at every step: lively, never settles as steps grow.",
        target=_STEPS + "euler_ancestral",
        schedule="normal",
        noise="draws",
        options=("eta", "s_noise"),
    ),
    SamplerEntry(
        name="euler",
        title="Euler",
        help="The simplest: follow the slope to the next noise level. First order.",
        target=_STEPS + "euler",
        schedule="normal",
        noise="draws",
        options=_CHURN,
    ),
    SamplerEntry(
        name="heun",
        title="Heun",
        help="Euler, then the slope at the far end, averaged. Second order, two calls a step.",
        target=_STEPS + "heun",
        schedule="normal",
        calls=2,
        noise="draws",
        options=_CHURN,
    ),
    SamplerEntry(
        name="ddim",
        title="DDIM",
        help="The first fast sampler; with eta 0 the same walk as Euler, on its own noise levels.",
        target=_STEPS + "ddim",
        schedule="ddim_uniform",
        noise="draws",
        options=("eta",),
    ),
    SamplerEntry(
        name="dpmpp_2m",
        title="DPM++ 2M",
        help="Second order from one call a step, by remembering the last estimate.",
        target=_STEPS + "dpmpp_2m",
        schedule="karras",
    ),
    SamplerEntry(
        name="dpmpp_2m_sde",
        title="DPM++ 2M SDE",
        help="DPM++ 2M with noise along a Brownian path: detailed at few steps.",
        target=_STEPS + "dpmpp_2m_sde",
        schedule="exponential",
        noise="brownian",
        options=("eta", "s_noise"),
    ),
)

_SPACING = "core.sampling.schedule:"

_SCHEDULES = (
    ScheduleEntry(
        name="karras",
        title="Karras",
        help="Small steps at low noise: arXiv:2206.00364, equation 5.",
        target=_SPACING + "karras",
    ),
    ScheduleEntry(
        name="exponential",
        title="Exponential",
        help="Even steps in the logarithm of sigma.",
        target=_SPACING + "exponential",
    ),
    ScheduleEntry(
        name="normal",
        title="Normal",
        help="Even steps in the training timestep; what A1111 calls uniform.",
        target=_SPACING + "normal",
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
    ),
    ScheduleEntry(
        name="ddim_uniform",
        title="DDIM",
        help="DDIM's own grid: every (1000 // steps)-th timestep, plus one.",
        target=_SPACING + "ddim_uniform",
    ),
)
