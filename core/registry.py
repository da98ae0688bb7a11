"""The shelves: what there is by name. Torch-free; implementations are imported when asked for.

A Registry is a value handed to the engine. There is no module-global one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from core.adapters.kinds import KINDS, AdapterKind
from core.additions import (
    AttentionWrapper,
    CombineWrapper,
    DenoiserWrapper,
    Finisher,
    Reader,
    RequestStep,
    Wrapping,
    acting,
    checked,
)
from core.entries import SamplerEntry, ScheduleEntry
from core.errors import named
from core.events import Event
from core.images.guides import PREPROCESSORS, Preprocessor
from core.models.families import FAMILIES
from core.models.family import Family
from core.request import GenerationRequest, Json
from core.shelves import SAMPLERS, SCHEDULES

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Registry", "SamplerEntry", "ScheduleEntry", "Shelf", "built_in"]


@dataclass(frozen=True)
class Registry:
    """All shelves, by name."""

    samplers: Mapping[str, SamplerEntry]
    schedules: Mapping[str, ScheduleEntry]
    families: Mapping[str, Family]
    adapter_kinds: Mapping[str, AdapterKind]
    preprocessors: Mapping[str, Preprocessor]
    request_steps: Mapping[str, RequestStep] = field(default_factory=dict)
    attention_wrappers: Mapping[str, AttentionWrapper] = field(default_factory=dict)
    combine_wrappers: Mapping[str, CombineWrapper] = field(default_factory=dict)
    denoiser_wrappers: Mapping[str, DenoiserWrapper] = field(default_factory=dict)
    finishers: Mapping[str, Finisher] = field(default_factory=dict)
    readers: Mapping[str, Reader] = field(default_factory=dict)

    def sampler(self, name: str) -> SamplerEntry:
        """By name or A1111 title, in any case. Raises RequestError naming all there are."""
        return _found(self.samplers, name, "sampler", "sampler")

    def schedule(self, name: str) -> ScheduleEntry:
        """By name or A1111 title, in any case. Raises RequestError naming all there are."""
        return _found(self.schedules, name, "schedule", "schedule")

    def recognising(self) -> tuple[Family, ...]:
        """All families in the order in which they are asked whether a file is theirs: the further
        ones first, for those that ship take whatever has their shape."""
        return (*(f for f in self.families.values() if f not in FAMILIES), *FAMILIES)

    def settings_kinds(self) -> Mapping[str, type]:
        """The settings dataclass of everything that a request may name in its extras."""
        shelves: tuple[Mapping[str, Any], ...] = (
            self.request_steps,
            self.attention_wrappers,
            self.combine_wrappers,
            self.denoiser_wrappers,
            self.finishers,
        )
        return {name: entry.settings for shelf in shelves for name, entry in shelf.items()}

    def checked(self, extras: Mapping[str, Mapping[str, Json]]) -> dict[str, dict[str, Json]]:
        """A request's extras in full. Raises RequestError naming the extension and its field."""
        return checked(extras, self.settings_kinds())

    def stepped(self, request: GenerationRequest) -> GenerationRequest:
        """What the request steps make of a complete request, one after another."""
        for step, settings in acting(self.request_steps, request.extras):
            request = step.change(request, settings)
        return request

    def wrapping(self, request: GenerationRequest) -> Wrapping:
        """The wrappers that act on a request."""
        return Wrapping(
            tuple(acting(self.attention_wrappers, request.extras)),
            tuple(acting(self.combine_wrappers, request.extras)),
            tuple(acting(self.denoiser_wrappers, request.extras)),
        )

    def told(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events; every reader is told of each."""
        for event in events:
            for reader in self.readers.values():
                reader.read(event)
            yield event

    def finished(self, image: Image, request: GenerationRequest) -> Image:
        """A picture as the finishers that act on its request leave it."""
        for finisher, settings in acting(self.finishers, request.extras):
            image = finisher.finish(image, request, settings)
        return image


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
    return Registry(
        samplers=Shelf(*SAMPLERS).closed(),
        schedules=Shelf(*SCHEDULES).closed(),
        families=Shelf(*FAMILIES).closed(),
        adapter_kinds=Shelf(*KINDS).closed(),
        preprocessors=Shelf(*PREPROCESSORS.values()).closed(),
    )
