"""The text A1111 writes into its pictures: written from a request, read, and made a request again.

As AUTOMATIC1111/stable-diffusion-webui 1.10.1 writes it for the same settings, byte for byte but
for the version. This room knows no files and no catalog of models.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from core.errors import RequestError
from core.request import (
    MAX_SEED,
    Emphasis,
    GenerationRequest,
    NoiseKind,
    SamplerOptions,
    Variation,
)

if TYPE_CHECKING:
    from core.registry import Registry, SamplerEntry

VERSION = "vitrine-0.1.0"

MAX_LENGTH = 1_000_000
"""Characters; longer texts are no infotext."""

NEGATIVE = "Negative prompt:"

UNNAMED_SCHEDULES = ("normal", "ddim_uniform")
"""What A1111 uses for "Automatic" where the sampler asks for nothing; it writes "Automatic"."""

OPTIONS = {
    "eta": ("Eta", 1.0),
    "s_churn": ("Sigma churn", 0.0),
    "s_tmin": ("Sigma tmin", 0.0),
    "s_tmax": ("Sigma tmax", None),
    "s_noise": ("Sigma noise", 1.0),
}
"""Field of SamplerOptions -> A1111's key and the default it leaves out, in A1111's order."""

WITHOUT_NOISE = ("ddim", "dpm_fast", "dpm_adaptive")
"""Samplers whose eta is 0 unless it is set."""


@dataclass(frozen=True)
class Infotext:
    """What an infotext says, unjudged: `read(str(infotext)) == infotext` for every one read."""

    prompt: str
    negative: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The last line's keys and values in their order; values unquoted."""

    def __str__(self) -> str:
        negative = f"\n{NEGATIVE} {self.negative}" if self.negative else ""
        pairs = ", ".join(k if k == v else f"{k}: {quoted(v)}" for k, v in self.fields.items())
        return f"{self.prompt}{negative}\n{pairs}".strip()


def written(
    request: GenerationRequest,
    registry: Registry,
    model_name: str,
    model_hash: str,
    unfinished: bool = False,
) -> str:
    """The infotext of the one picture that a resolved request makes.

    Args:
        model_hash: SHA-256 in hexadecimal; its first ten digits are written.
        unfinished: the picture is an estimate on the way, not the end.

    Raises:
        RequestError: the seed or the size is not set, or a name is not on its shelf.
    """
    for name in ("seed", "width", "height"):
        if getattr(request, name) is None:
            raise RequestError(f"an infotext needs the {name}, and it is not set", name)
    sampler = registry.sampler(request.sampler)
    fields = {
        "Steps": str(request.steps),
        "Sampler": sampler.title,
        "Schedule type": _schedule_title(request, sampler, registry),
        "CFG scale": _number(request.cfg_scale),
        "Seed": str(request.seed),
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash[:10],
        "Model": model_name,
        **({} if request.vae is None else {"VAE": request.vae}),
        **_noise_fields(request),
        **_option_fields(request, sampler),
    }
    if request.emphasis is not Emphasis.ORIGINAL:
        fields["Emphasis"] = request.emphasis.value.capitalize()
    if not isinstance(request.schedule, str):
        fields["Sigmas"] = " ".join(_number(sigma) for sigma in request.schedule)
    if unfinished:
        fields["Unfinished"] = "True"
    fields["Version"] = VERSION
    return str(Infotext(request.prompt, request.negative_prompt, fields))


def _schedule_title(request: GenerationRequest, sampler: SamplerEntry, registry: Registry) -> str:
    if not isinstance(request.schedule, str):
        return "Custom"
    automatic = request.schedule.casefold() == "automatic"
    entry = registry.schedule(sampler.schedule if automatic else request.schedule)
    own = entry.name == sampler.schedule
    return "Automatic" if own and entry.name in UNNAMED_SCHEDULES else entry.title


def _noise_fields(request: GenerationRequest) -> dict[str, str]:
    """Variation, clip skip, ENSD and RNG, in A1111's order and where A1111 writes them."""
    fields = {}
    variation = request.variation
    if variation is not None and variation.strength:
        fields["Variation seed"] = str(variation.seed)
        fields["Variation seed strength"] = _number(variation.strength)
    if variation is not None and variation.resize_from is not None:
        fields["Seed resize from"] = "x".join(map(str, variation.resize_from))
    if request.clip_skip > 1:
        fields["Clip skip"] = str(request.clip_skip)
    if request.ensd:
        fields["ENSD"] = str(request.ensd)
    fields["RNG"] = request.noise.value.upper()
    return fields


def _option_fields(request: GenerationRequest, sampler: SamplerEntry) -> dict[str, str]:
    """Only what the sampler takes and what differs from A1111's defaults."""
    fields = {}
    for name, (key, default) in OPTIONS.items():
        value = getattr(request.sampler_options, name)
        if name == "eta" and sampler.name in WITHOUT_NOISE:
            key, default = ("Eta DDIM" if sampler.name == "ddim" else key), 0.0
        if name in sampler.options and value is not None and value != default:
            fields[key] = _number(value)
    return fields


def _number(value: float) -> str:
    """7.0 -> "7", 7.5 -> "7.5": as A1111's page writes what its sliders hold."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def quoted(value: str) -> str:
    """As JSON if it would be misread otherwise, else as it is."""
    misread = re.search('[,:\n]|^["\\s]|\\s$', value)
    return json.dumps(value, ensure_ascii=False) if misread else value


def unquoted(value: str) -> str:
    """The inverse of `quoted`; what only looks quoted stays as it is."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def read(text: str) -> Infotext:
    """Takes an infotext apart.

    As A1111 does, the last line holds the fields if it has three of them at least; else all of it
    is prompt.

    Raises:
        RequestError: it is longer than MAX_LENGTH.
    """
    if len(text) > MAX_LENGTH:
        raise RequestError(f"{len(text):,} characters are too many for generation parameters")
    *lines, last = (line.rstrip("\r") for line in text.strip().split("\n"))
    pairs = _pairs(last)
    if sum(key is not None for key, _ in pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in lines:
        if line.lstrip().startswith(NEGATIVE):
            into, line = negative, line.lstrip()[len(NEGATIVE) :].removeprefix(" ")
        into.append(line)
    fields = {value if key is None else key: value for key, value in pairs}
    return Infotext("\n".join(prompt), "\n".join(negative), fields)


_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=,|\Z)')


def _pairs(line: str) -> list[tuple[str | None, str]]:
    r"""The fields of a line; what stands between commas without a key has key None.

    Finds what A1111's `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)` finds, but in linear
    time: that expression takes minutes for a long line without a colon.
    """
    pairs: list[tuple[str | None, str]] = []
    done = seen = 0  # ends of the last field and of the last colon looked at
    while (colon := line.find(":", seen)) >= 0:
        key = _key(line[seen:colon])
        seen = colon + 1
        if key is None:
            continue
        pairs += _lone(line[done : colon - len(key)])
        start = _SPACE.match(line, seen).end()  # type: ignore[union-attr]
        if match := _QUOTED.match(line, start):
            end = match.end()
        else:
            comma = line.find(",", start)
            end = comma if comma >= 0 else len(line)
        pairs.append((key, unquoted(line[start:end])))
        done = seen = end + 1
    return pairs + _lone(line[done:])


def _key(before: str) -> str | None:
    """The key at the end of what stands before a colon: two characters at least."""
    run = re.split(r"[^\w \-/]", before)[-1].lstrip(" -/")
    return run if len(run) > 1 else None


def _lone(between: str) -> list[tuple[str | None, str]]:
    """What stands alone between commas: A1111 writes a key that equals its value once."""
    return [(None, piece) for raw in between.split(",") if (piece := raw.strip())]


NOT_USED = {
    "Hires": "a second, larger pass is not made here",
    "Denoising strength": "every picture starts from noise here",
    "Lora hashes": "LoRAs are taken from the prompt alone",
    "TI": "embeddings are taken from the prompt alone",
    "VAE": "a text can't say whether it is the same file; choose it by hand",
    "Face restoration": "faces are not repaired here",
    "Tiling": "seamless pictures are not made here",
    "Refiner": "one checkpoint makes the whole picture here",
    "Token merging": "tokens are not merged here",
    "Mask": "every picture starts from noise here",
    "Unfinished": "the picture was stopped on the way; this makes it to the end",
}
"""How a key begins -> why it can't be honoured."""

SAYS_NOTHING = {("Denoising strength", "1")}
"""Keys and values that ask for what happens anyway."""


def request_from(
    text: str, registry: Registry, checkpoints: Collection[str] | None = None
) -> tuple[GenerationRequest, list[str]]:
    """The request an infotext describes, and a sentence for each field that can't be honoured.

    What the text does not say is left to the request's defaults. Bounds on the whole are
    `core.resolve`'s business.

    Args:
        checkpoints: names there are; None: the model's name is taken as it stands.

    Raises:
        RequestError: the text is no infotext at all, being too long.
    """
    infotext = read(text)
    left = dict(infotext.fields)
    version = left.pop("Version", "")
    notes: list[str] = []
    values: dict[str, Any] = {"prompt": infotext.prompt, "negative_prompt": infotext.negative}
    for key, name, reader, wanted in PLAIN:
        if key in left:
            value = left.pop(key)
            try:
                values[name] = reader(value)
            except ValueError:
                notes.append(f"{key}: {_short(value)} – not used: it should be {wanted}")
    if "size" in values:
        values["width"], values["height"] = values.pop("size")
    values |= _model(left, checkpoints, notes)
    values |= _sampling(left, registry, notes)
    sampler = registry.sampler(values.get("sampler", GenerationRequest(prompt="").sampler))
    values["sampler_options"] = _options(left, sampler, notes)
    if infotext.fields and not version.startswith("vitrine"):
        left.setdefault("RNG", "GPU")  # A1111 leaves its default out
    values |= _noise(left, notes)
    notes += [_not_used(k, v) for k, v in left.items() if (k, v) not in SAYS_NOTHING]
    return GenerationRequest(**values), notes


def _whole(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) == 0:
        raise ValueError(text)
    return int(text)


def _seed(text: str) -> int | None:
    """As typed; -1 asks for a random one."""
    if text == "-1":
        return None
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > MAX_SEED:
        raise ValueError(text)
    return int(text)


def _signed(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,10}", text):
        raise ValueError(text)
    return int(text)


def _finite(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text):
        raise ValueError(text)
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not cross:
        raise ValueError(text)
    return _whole(width), _whole(height)


PLAIN: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("Steps", "steps", _whole, "a whole number from 1"),
    ("CFG scale", "cfg_scale", _finite, "a finite number"),
    ("Seed", "seed", _seed, f"a whole number from 0 to {MAX_SEED}"),
    ("Size", "size", _size, "width x height"),
    ("Clip skip", "clip_skip", _whole, "a whole number from 1"),
    ("ENSD", "ensd", _signed, "a whole number"),
)
"""Key, field of the request, how its text is read, what it should have been."""


VARIATION: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("Variation seed", "seed", _seed, f"a whole number from 0 to {MAX_SEED}"),
    ("Variation seed strength", "strength", _finite, "a finite number"),
    ("Seed resize from", "resize_from", _size, "width x height"),
)


def _model(
    left: dict[str, str], checkpoints: Collection[str] | None, notes: list[str]
) -> dict[str, str]:
    """The checkpoint by name, with or without its folder and suffix."""
    name, digest = left.pop("Model", None), left.pop("Model hash", None)
    if name is None:
        if digest is not None:
            notes.append(f"Model hash: {_short(digest)} – not used: the model's name is missing")
        return {}
    if checkpoints is None or name in checkpoints:
        return {"checkpoint": name}
    for there in checkpoints:
        if PurePath(there).stem.casefold() == PurePath(name).name.casefold():
            return {"checkpoint": there}
    notes.append(f"Model: {_short(name)} – not used: there is no such checkpoint here")
    return {}


def _sampling(left: dict[str, str], registry: Registry, notes: list[str]) -> dict[str, Any]:
    """Sampler and schedule; older texts join them, as in "DPM++ 2M Karras"."""
    typed, title = left.pop("Sampler", None), left.pop("Schedule type", None)
    values: dict[str, Any] = {}
    if typed is not None:
        name, joined = _split(typed, registry)
        try:
            sampler = registry.sampler(name)
        except RequestError as error:
            notes.append(f"Sampler: {_short(typed)} – not used: {error}")
        else:
            values["sampler"] = sampler.name
            if joined is None and title is None and sampler.schedule not in UNNAMED_SCHEDULES:
                # Before version 1.9 a schedule other than the uniform one was part of the name.
                joined = "normal"
                notes.append(
                    f"Schedule type is missing: as in older texts, {sampler.title} alone is "
                    f"taken with {registry.schedule('normal').title}"
                )
        title = joined or title
    if title == "Custom" and "Sigmas" in left:
        return values | _sigmas(left, notes)
    if title is not None and title.casefold() != "automatic":
        try:
            values["schedule"] = _schedule_name(title, registry)
        except RequestError as error:
            notes.append(f"Schedule type: {_short(title)} – not used: {error}")
    return values


def _split(name: str, registry: Registry) -> tuple[str, str | None]:
    """("DPM++ 2M Karras") -> ("DPM++ 2M", "karras"); no schedule at the end -> None."""
    for schedule in registry.schedules.values():
        if name.casefold().endswith(" " + schedule.title.casefold()):
            return name[: -len(schedule.title) - 1], schedule.name
    return name, None


def _schedule_name(title: str, registry: Registry) -> str:
    """Raises RequestError naming all schedules there are."""
    return registry.schedule(title).name


def _sigmas(left: dict[str, str], notes: list[str]) -> dict[str, Any]:
    text = left.pop("Sigmas")
    try:
        return {"schedule": tuple(_finite(sigma) for sigma in text.split(" "))}
    except ValueError:
        notes.append(f"Sigmas: {_short(text)} – not used: they should be finite numbers")
        return {}


def _noise(left: dict[str, str], notes: list[str]) -> dict[str, Any]:
    """Generator, variation and emphasis; A1111's GPU noise is what an NVIDIA card draws."""
    values: dict[str, Any] = {}
    generator = left.pop("RNG", "CPU")
    if generator in ("GPU", "NV"):
        values["noise"] = NoiseKind.NV
    elif generator != "CPU":
        notes.append(_not_used("RNG", generator))
    if generator == "GPU":
        notes.append("RNG: GPU – the noise of an NVIDIA card is computed here: the same seeds")
    if "Emphasis" in left:
        wanted = left.pop("Emphasis")
        try:
            values["emphasis"] = Emphasis(wanted.casefold())
        except ValueError:
            notes.append(_not_used("Emphasis", wanted))
    variation: dict[str, Any] = {}
    for key, name, reader, kind in VARIATION:
        if key in left:
            value = left.pop(key)
            try:
                variation[name] = reader(value)
            except ValueError:
                notes.append(f"{key}: {_short(value)} – not used: it should be {kind}")
    if variation:
        values["variation"] = Variation(**variation)
    return values


def _options(left: dict[str, str], sampler: SamplerEntry, notes: list[str]) -> SamplerOptions:
    values: dict[str, float] = {}
    for name, (key, _) in OPTIONS.items():
        key = "Eta DDIM" if name == "eta" and sampler.name == "ddim" else key
        if key in left and name in sampler.options:
            value = left.pop(key)
            try:
                values[name] = _finite(value)
            except ValueError:
                notes.append(f"{key}: {_short(value)} – not used: it should be a finite number")
        elif key in left:
            notes.append(f"{key}: {_short(left.pop(key))} – not used: {sampler.title} takes none")
    return SamplerOptions(**values)


def _not_used(key: str, value: str) -> str:
    why = next((why for k, why in NOT_USED.items() if key.startswith(k)), "not known here")
    return f"{key}: {_short(value)} – not used: {why}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
