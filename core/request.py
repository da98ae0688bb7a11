"""What to make: a request is one frozen value, and everything else follows from it.

Being a value it is also the queue's row, the capsule inside a PNG and the parent of a branch.
It does not know how anything is made.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from core.errors import RequestError

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MAX_SEED = 2**63 - 1
"""Seeds run from 0 to this; torch's generators take no larger one."""


class Record(enum.StrEnum):
    """How much of a run is written down."""

    NOTHING = "nothing"
    STEPS = "steps"
    """Every estimate: enough to show, branch and resume from any step."""
    PREDICTIONS = "predictions"
    """And what the prompt alone and the negative prompt alone led to, at every evaluation."""


class NoiseKind(enum.StrEnum):
    """Which generator draws the noise; a seed paints another picture with another one."""

    CPU = "cpu"
    """torch's CPU generator: A1111's "RNG: CPU"."""
    NV = "nv"
    """What an NVIDIA card draws, computed in software: A1111's "NV", and "GPU" on such cards."""


class Emphasis(enum.StrEnum):
    """What a token's weight does to its encoding; A1111's modes."""

    ORIGINAL = "original"
    """Multiplies it; then the mean over the whole encoding is restored."""
    NO_NORM = "no norm"
    """Multiplies it."""
    IGNORE = "ignore"
    """Nothing."""
    NONE = "none"
    """Nothing; brackets are characters like any other."""
    COMFY = "comfy"
    """ComfyUI's grammar and rule: moves it away from, or towards, what an empty prompt says."""


class Resize(enum.StrEnum):
    """How a picture of another size or shape becomes one of the size asked for."""

    STRETCH = "stretch"
    CROP = "crop"
    """Filled by its middle; what sticks out is cut off."""
    FILL = "fill"
    """Shown whole; the margins take the colours of its edges."""
    LATENT = "latent"
    """Stretched, as latents."""


class Fill(enum.StrEnum):
    """What lies under the mask when repainting begins."""

    ORIGINAL = "original"
    COLOUR = "colour"
    """The colours around the mask, spread into it."""
    NOISE = "noise"
    """Latent noise."""
    NOTHING = "nothing"
    """Latents of zero."""


class Hearing(enum.StrEnum):
    """Whom a run listens to where prompt and guide disagree; A1111's "control mode"."""

    BALANCED = "balanced"
    PROMPT = "prompt"
    """The guide speaks softer, the more the finer the layer."""
    CONTROL = "control"
    """The same, and the negative prompt does not hear it at all, so guidance drives towards it."""


class During(enum.StrEnum):
    """In which passes of a run with a second, larger one a guide acts."""

    BOTH = "both"
    FIRST = "first"
    SECOND = "second"


class Wish(enum.Enum):
    """What is wanted of a run under way; `generate` asks between steps."""

    GO_ON = enum.auto()
    SKIP = enum.auto()
    """Finish this image with what there is, go on with the next."""
    FINISH = enum.auto()
    """Finish this image with what there is, begin no other."""


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """Numbers some samplers take; None leaves a sampler its own default."""

    eta: float | None = None
    """Share of fresh noise in each step, 0 (none) to 1: ancestral and SDE samplers, DDIM."""
    s_noise: float | None = None
    """Scale of the fresh noise, 1 as derived."""
    s_churn: float | None = None
    """Noise stirred in before steps, in units of a whole run; arXiv:2206.00364, algorithm 2."""
    s_tmin: float | None = None
    """Lowest sigma at which churn acts."""
    s_tmax: float | None = None
    """Highest sigma at which churn acts."""


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How noise levels are chosen and told the network; A1111's settings of these names."""

    discard_penultimate: bool | None = None
    """Whether one level more is made and the last above 0 left out; None: as the sampler does."""
    rho: float | None = None
    """The bend of the Karras (7) and polyexponential (1) schedules."""
    sigma_min: float | None = None
    """Lowest level above 0; None: the model's own."""
    sigma_max: float | None = None
    """Highest level; None: the model's own."""
    round_timesteps: bool = False
    """Whether the network is told whole timesteps; A1111's "quantization in K samplers"."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """A blend of the seed's noise with another one's, or with a smaller picture's."""

    seed: int | None = None
    """Image k blends with the noise of seed + k, and all images share the request's own seed.
    None: drawn by `resolve`."""
    strength: float = 0.0
    """0: the request's noise alone, 1: the other one's alone."""
    resize_from: tuple[int, ...] | None = None
    """(width, height) in pixels of a picture whose noise is placed in the middle of this one's."""


@dataclass(frozen=True, kw_only=True)
class StartImage:
    """A picture to start from. Pictures are named by the SHA-256 of their file in `inputs/`."""

    picture: str
    mask: str | None = None
    """White is painted anew, black is kept; greys are shares where `soft`."""
    strength: float = 0.75
    """0: the picture through the VAE and back; 1: from noise alone."""
    resize: Resize = Resize.CROP
    fill: Fill = Fill.ORIGINAL
    invert: bool = False
    """Whether black is painted anew instead."""
    grow: int = 0
    """Pixels that the mask is widened by."""
    blur: int = 4
    """Standard deviation of the blur of the mask's edge, in pixels."""
    only_masked: bool = False
    """Whether the masked region alone is painted, at the request's size, and put back."""
    padding: int = 32
    """Pixels around the masked region that are painted with it."""
    soft: bool = False
    """Whether the mask's greys are strengths: differential diffusion, arXiv:2306.00950."""
    extend: tuple[int, ...] = ()
    """Pixels by which the picture grows (left, top, right, bottom), painted anew."""
    depth: str | None = None
    """A depth map, white near, for checkpoints that read one; None: estimated by their own."""


@dataclass(frozen=True, kw_only=True)
class Enlarge:
    """A second pass at a larger size; A1111's "Hires. fix". What is None is the request's own."""

    width: int | None = None
    """Pixels; None: `scale` times the request's, both sides."""
    height: int | None = None
    scale: float = 2.0
    upscaler: str = "Latent"
    strength: float = 0.7
    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Refine:
    """Another checkpoint for the rest of the run, from `switch_at` on."""

    checkpoint: str
    switch_at: float = 0.8
    """Share of the training timesteps that is behind, from 0 to 1."""
    by_steps: bool = False
    """Whether it is the share of the run's steps instead."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where in an earlier run this one begins: after `index` intervals of one of its images."""

    job: str
    image: int = 0
    index: int = 0
    pass_index: int = 0


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What one image is told in place of the request's own prompts."""

    prompt: str
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class LoraUse:
    """A LoRA beside those that the prompt names."""

    name: str
    weight: float = 1.0
    text_weight: float | None = None
    """Weight for the text encoders; None: the same."""
    start: float = 0.0
    """Share of the steps after which it begins to act."""
    end: float = 1.0
    """Share of the steps after which it ends."""
    blocks: tuple[float, ...] = ()
    """A factor per block of the U-Net, in the order of `core.adapters`; empty: 1 for all."""


@dataclass(frozen=True, kw_only=True)
class HypernetUse:
    """A hypernetwork beside those that the prompt names."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ControlUse:
    """A picture that guides: through a ControlNet, a T2I-Adapter or an IP-Adapter.

    Pictures are named as in StartImage.
    """

    model: str
    """Name in the catalog."""
    picture: str | None = None
    """None: the picture that the run starts from."""
    preprocessor: str = "none"
    """What is made of the picture first; a name of `core.images.guides`."""
    settings: Mapping[str, Json] = field(default_factory=dict)
    """Settings of the preprocessor."""
    weight: float = 1.0
    start: float = 0.0
    """Share of the steps after which it begins to act."""
    end: float = 1.0
    """Share of the steps after which it ends."""
    resize: Resize = Resize.CROP
    """How the picture is made as large as what is painted."""
    hearing: Hearing = Hearing.BALANCED
    mask: str | None = None
    """Where it acts: white; None: everywhere."""
    during: During = During.BOTH
    low_memory: bool = False
    """Whether the network leaves the device after each step."""
    encoder: str | None = None
    """An IP-Adapter's image encoder, by its name in the catalog; None: the one that fits."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to make. Unset (None) fields are filled in by `core.resolve`."""

    prompt: str
    negative_prompt: str = ""
    checkpoint: str | None = None
    """Name in the catalog; None: the default one."""
    vae: str | None = None
    """Name in the catalog; None: the one beside the checkpoint, or inside it."""
    seed: int | None = None
    """0 to 2**63 - 1; image k of the request has seed + k. None: drawn by `resolve`."""
    width: int | None = None
    """Pixels; None: the checkpoint's own size."""
    height: int | None = None
    steps: int = 20
    cfg_scale: float = 7.0
    sampler: str = "euler_ancestral"
    schedule: str | tuple[float, ...] = "automatic"
    """A name, "automatic" (the sampler's own), or the falling sigmas themselves, 0 at the end."""
    images: int = 1
    prompts: tuple[Wording, ...] = ()
    """What each image is told, where they are told different things: then one for each."""
    sampler_options: SamplerOptions = field(default_factory=SamplerOptions)
    schedule_options: ScheduleOptions = field(default_factory=ScheduleOptions)
    clip_skip: int = 1
    """Text encoder layers left out at the end, plus one: 1 leaves out none."""
    emphasis: Emphasis = Emphasis.ORIGINAL
    noise: NoiseKind = NoiseKind.CPU
    ensd: int = 0
    """Added to the seed for all noise but the first; A1111's "eta noise seed delta"."""
    variation: Variation | None = None
    tiling: bool = False
    """Whether opposite edges fit each other."""
    loras: tuple[LoraUse, ...] = ()
    hypernets: tuple[HypernetUse, ...] = ()
    controls: tuple[ControlUse, ...] = ()
    start: StartImage | None = None
    enlarge: Enlarge | None = None
    refine: Refine | None = None
    branch: Branch | None = None
    record: Record = Record.STEPS
    extras: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """Settings of extensions, by the name of each."""

    def of_image(self, image: int) -> GenerationRequest:
        """The same request with the prompts of one of its images in place of its own."""
        if not self.prompts:
            return self
        told = self.prompts[image]
        return replace(self, prompt=told.prompt, negative_prompt=told.negative_prompt)

    def to_json(self) -> dict[str, Json]:
        """The fields as JSON values; `from_json` is its inverse."""
        return typing.cast(dict[str, Json], as_json(self))

    @classmethod
    def from_json(cls, data: Any) -> GenerationRequest:
        """Raises RequestError, naming the field, for anything `to_json` would not write."""
        return read_json(cls, data, "")


def as_json(value: Any) -> Json:
    """A dataclass, enum, tuple or mapping of plain values, as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(v) for v in value]
    return value


T = TypeVar("T")


def read_json(kind: type[T], data: Any, where: str) -> T:
    """`data` as a `kind`, checked: no unknown field, no wrong type, no NaN."""
    if not isinstance(data, Mapping):
        raise RequestError(f"{where or 'a request'} must be a JSON object, not {_shown(data)}")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - known):
        raise RequestError(
            f"unknown field {where}{unknown[0]!r}; there are: {', '.join(sorted(known))}",
            where + unknown[0],
        )
    values = {name: _read(hints[name], data[name], where + name) for name in known & set(data)}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [
            f.name
            for f in dataclasses.fields(kind)  # type: ignore[arg-type]
            if f.name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if not missing:
            raise
        raise RequestError(f"the field {where}{missing[0]!r} is missing", missing[0]) from error


def _read(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_any(arguments, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RequestError(f"{where} must be a list, not {_shown(value)}", where)
        return tuple(_read(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise RequestError(f"{where} must be a JSON object, not {_shown(value)}", where)
        if typing.get_origin(arguments[1]) is not Mapping:
            return dict(value)  # JSON of whatever kind: its reader checks it
        return {str(k): _read(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return read_json(typing.cast(type, hint), value, where + ".")
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError as error:
            there = ", ".join(str(m.value) for m in hint)
            raise RequestError(f"{where}: no {value!r}; there are: {there}", where) from error
    return _read_plain(hint, value, where)


def _read_any(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    options = tuple(o for o in options if o is not types.NoneType)
    for option in options:
        fits = isinstance(value, list) if typing.get_origin(option) is tuple else None
        if len(options) == 1 or fits or (fits is None and isinstance(value, option)):
            return _read(option, value, where)
    raise RequestError(f"{where} can't be {_shown(value)}", where)


def _read_plain(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError as error:
            raise RequestError(f"{where} is too large", where) from error
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise RequestError(f"{where} must be {wanted.get(hint, hint)}, not {_shown(value)}", where)
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"{where} must be a finite number, not {value}", where)
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
