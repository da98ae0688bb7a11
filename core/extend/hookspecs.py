"""What extensions may add to the core: each hook is called once when an extension is loaded, and
gives values for a shelf. An implementation may leave out the arguments that it does not need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pluggy

from core.adapters.kinds import AdapterKind
from core.additions import (
    AttentionWrapper,
    CombineWrapper,
    DenoiserWrapper,
    Finisher,
    Reader,
    RequestStep,
)
from core.entries import SamplerEntry, ScheduleEntry
from core.images.guides import Preprocessor
from core.models.family import Family

PROJECT = "vitrine"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Place:
    """Where an extension lives."""

    name: str
    folder: Path
    """Its own files."""
    data: Path
    """A folder for what it keeps or a person puts there; not made until it makes it."""
    outputs: Path
    """Where pictures go."""


# Values that can cross to another process.


@hookspec
def request_steps(place: Place) -> list[RequestStep]:
    """What is done to a complete request before it is queued."""
    return []


@hookspec
def finishers(place: Place) -> list[Finisher]:
    """What is done to a finished picture before it is saved."""
    return []


@hookspec
def readers(place: Place) -> list[Reader]:
    """Who is told of every event of every run."""
    return []


@hookspec
def preprocessors(place: Place) -> list[Preprocessor]:
    """What a guide is made of, from a picture."""
    return []


@hookspec
def families(place: Place) -> list[Family]:
    """Families of checkpoints, recognised by names and shapes; asked before those that ship."""
    return []


# Tensors inside a run, on the engine's thread.


@hookspec
def samplers(place: Place) -> list[SamplerEntry]:
    """Pure steps over State, by name; imported when first asked for."""
    return []


@hookspec
def schedules(place: Place) -> list[ScheduleEntry]:
    """Spacings of noise levels, by name; imported when first asked for."""
    return []


@hookspec
def adapter_kinds(place: Place) -> list[AdapterKind]:
    """Further ways to store what a LoRA adds to weights; imported when a file holds one. Layers are
    changed on several threads at once."""
    return []


@hookspec
def attention_wrappers(place: Place) -> list[AttentionWrapper]:
    """Other ways of attending inside the U-Net."""
    return []


@hookspec
def combine_wrappers(place: Place) -> list[CombineWrapper]:
    """Other ways to combine what the network says to each prompt."""
    return []


@hookspec
def denoiser_wrappers(place: Place) -> list[DenoiserWrapper]:
    """Other ways to ask the guided denoiser."""
    return []


CORE_HOOKS: dict[str, type] = {
    "request_steps": RequestStep,
    "finishers": Finisher,
    "readers": Reader,
    "preprocessors": Preprocessor,
    "families": Family,
    "samplers": SamplerEntry,
    "schedules": ScheduleEntry,
    "adapter_kinds": AdapterKind,
    "attention_wrappers": AttentionWrapper,
    "combine_wrappers": CombineWrapper,
    "denoiser_wrappers": DenoiserWrapper,
}
"""What each hook's list holds; a hook's name is that of its shelf in the registry."""
