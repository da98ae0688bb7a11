"""What extensions add to a run, as values: steps, wrappers, finishers, readers. Torch-free.

Each carries its name and a frozen dataclass of settings. A request turns it on by naming it in its
extras, and the settings given there travel with it. It knows no extension and no way to find one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from core.errors import RequestError, named
from core.events import Event
from core.request import GenerationRequest, Json, as_json, read_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.nn.attention import Attending
    from core.sampling.guidance import Combine
    from core.sampling.state import Denoiser


@dataclass(frozen=True)
class RequestStep:
    """Changes a request once it is complete, before it is queued.

    Applied to its own result it changes nothing: a picture's request makes the picture again.
    """

    name: str
    settings: type
    change: Callable[[GenerationRequest, Any], GenerationRequest]
    """(request, settings) -> request"""


@dataclass(frozen=True)
class CombineWrapper:
    """Changes how the predictions for several prompts become one."""

    name: str
    settings: type
    wrap: Callable[[Combine, Any], Combine]
    """(combine, settings) -> combine"""


@dataclass(frozen=True)
class DenoiserWrapper:
    """Changes the guided denoiser; what a mask keeps is kept all the same."""

    name: str
    settings: type
    wrap: Callable[[Denoiser, Any], Denoiser]
    """(denoise, settings) -> denoise"""


@dataclass(frozen=True)
class AttentionWrapper:
    """Changes how the U-Net attends."""

    name: str
    settings: type
    wrap: Callable[[Attending, Any], Attending]
    """(attending, settings) -> attending"""


@dataclass(frozen=True)
class Finisher:
    """Changes a finished picture before it is saved."""

    name: str
    settings: type
    finish: Callable[[Image, GenerationRequest, Any], Image]
    """(image, request, settings) -> image; the request makes this one image."""


@dataclass(frozen=True)
class Reader:
    """Is told of every event of every run."""

    name: str
    read: Callable[[Event], None]


class Added(Protocol):
    """Anything above that has settings."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> type: ...


A = TypeVar("A", bound=Added)


def setting(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    label: str | None = None,
    help: str = "",
    choices: Iterable[str] = (),
) -> Any:
    """A field of a settings dataclass, with its inclusive bounds and its words on the page."""
    metadata = {
        "low": low,
        "high": high,
        "step": step,
        "label": label,
        "help": help,
        "choices": tuple(choices),
    }
    return field(default=default, metadata=metadata)


def settings_of(kind: type, values: Mapping[str, Json], name: str) -> Any:
    """Settings of the kind of extension `name`, checked.

    Raises:
        RequestError: names the field, what was asked and what there is.
    """
    where = f"extras.{name}."
    try:
        settings: Any = read_json(kind, values, where)
    except ValueError as error:  # raised in a __post_init__ of its own
        raise RequestError(f"{name}: {error}", where + "*") from error
    for one in dataclasses.fields(kind):
        value, meta = getattr(settings, one.name), one.metadata
        low, high = meta.get("low"), meta.get("high")
        if (low is not None and value < low) or (high is not None and value > high):
            ends = " and ".join(f"{end:,}" for end in (low, high) if end is not None)
            between = f"between {ends}" if low is not None and high is not None else f"up to {ends}"
            raise RequestError(
                f"{name}: {one.name.replace('_', ' ')} must lie {between}, not {value}",
                where + one.name,
            )
        if meta.get("choices") and value not in meta["choices"]:
            raise RequestError(
                f"{name}: no {one.name.replace('_', ' ')} {value!r}; "
                f"there are: {', '.join(meta['choices'])}",
                where + one.name,
            )
    return settings


def checked(
    extras: Mapping[str, Mapping[str, Json]], kinds: Mapping[str, type]
) -> dict[str, dict[str, Json]]:
    """All settings in full.

    Raises:
        RequestError: an extension there is not, or settings that it does not take.
    """
    full: dict[str, dict[str, Json]] = {}
    for name, values in extras.items():
        kind = named(kinds, name, "extension", f"extras.{name}")
        settings = as_json(settings_of(kind, values, name))
        assert isinstance(settings, dict)
        full[name] = settings
    return full


def acting(shelf: Mapping[str, A], extras: Mapping[str, Mapping[str, Json]]) -> list[tuple[A, Any]]:
    """Those of a shelf that a request names, in the shelf's order, each with its settings."""
    return [
        (entry, settings_of(entry.settings, extras[name], name))
        for name, entry in shelf.items()
        if name in extras
    ]


@dataclass(frozen=True)
class Wrapping:
    """The wrappers that act on one request; the first one of a kind is the innermost."""

    attention: tuple[tuple[AttentionWrapper, Any], ...] = ()
    combines: tuple[tuple[CombineWrapper, Any], ...] = ()
    denoisers: tuple[tuple[DenoiserWrapper, Any], ...] = ()

    def attending(self, attending: Attending) -> Attending:
        for wrapper, settings in self.attention:
            attending = wrapper.wrap(attending, settings)
        return attending

    def combine(self, combine: Combine) -> Combine:
        for wrapper, settings in self.combines:
            combine = wrapper.wrap(combine, settings)
        return combine

    def denoiser(self, denoise: Denoiser) -> Denoiser:
        for wrapper, settings in self.denoisers:
            denoise = wrapper.wrap(denoise, settings)
        return denoise
