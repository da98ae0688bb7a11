"""A1111's text made a request again, with a sentence for each thing that can't be honoured.

As AUTOMATIC1111/stable-diffusion-webui 1.10.1 reads it when it is pasted. It knows no files and no
catalog of models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeAlias

from core.errors import RequestError
from core.images.control_text import control_uses
from core.images.grammar import OPTIONS, UNNAMED_SCHEDULES, read
from core.request import (
    MAX_SEED,
    Emphasis,
    Enlarge,
    GenerationRequest,
    HypernetUse,
    NoiseKind,
    Refine,
    SamplerOptions,
    ScheduleOptions,
    Variation,
)

if TYPE_CHECKING:
    from core.registry import Registry, SamplerEntry

_OF_A_PICTURE = "it was made from another picture, which a text can't hold: choose it as the start"
_OF_A_MASK = "the mask is not in the text: draw it again"

NOT_USED = {
    "Denoising strength": _OF_A_PICTURE,
    "Init image hash": _OF_A_PICTURE,
    "Resize mode": _OF_A_PICTURE,
    "Mask": _OF_A_MASK,
    "Inpaint": _OF_A_MASK,
    "Image CFG scale": "models that edit pictures by words are not known here",
    "Conditional mask weight": "an inpainting model gets its mask in full here",
    "Hires": "not known here",
    "VAE": "a text can't say whether it is the same file; choose it by hand",
    "Hypernet": "it has no name",
    "Face restoration": "faces are not repaired here",
    "Refiner": "there is no such checkpoint here",
    "Token merging": "tokens are not merged here",
    "Beta schedule": "its shape is fixed at 0.6 here",
    "FP8": "weights are kept as they are in the file",
    "Unfinished": "the picture was stopped on the way; this makes it to the end",
}
"""How a key begins -> why it can't be honoured."""

SAYS_NOTHING = {
    ("Denoising strength", "1"),
    ("Mask mode", "Inpaint masked"),
    ("Masked content", "original"),
    ("Inpaint area", "Whole picture"),
    ("Beta schedule alpha", "0.6"),
    ("Beta schedule beta", "0.6"),
    ("Refiner switch by sampling steps", "False"),
    ("Hires refiner", "first pass"),
    ("Downcast alphas_cumprod", "False"),
    ("VAE Encoder", "Full"),
    ("VAE Decoder", "Full"),
}
"""Keys and values that ask for what happens anyway."""

SILENT = ("User", "Lora hashes", "TI hashes", "TI", "Hypernet hash", "Hashes")
"""Keys that are about the prompt's own networks, or about people."""


def request_from(
    text: str,
    registry: Registry,
    checkpoints: Collection[str] | None = None,
    vaes: Collection[str] | None = None,
) -> tuple[GenerationRequest, list[str]]:
    """The request an infotext describes, and a sentence for each field that can't be honoured.

    What the text does not say is left to the request's defaults. Bounds on the whole are
    `core.resolve`'s business.

    Args:
        checkpoints: names there are; None: the model's name is taken as it stands.
        vaes: names there are; None: a VAE is left for the person to choose.

    Raises:
        RequestError: the text is no infotext at all, being too long.
    """
    infotext = read(text)
    left = dict(infotext.fields)
    version = left.pop("Version", "")
    notes: list[str] = []
    values: dict[str, Any] = {"prompt": infotext.prompt, "negative_prompt": infotext.negative}
    values |= _taken(left, PLAIN, notes)
    if "size" in values:
        values["width"], values["height"] = values.pop("size")
    values |= _model(left, checkpoints, notes) | _vae(left, vaes)
    values |= _sampling(left, registry, notes)
    sampler = registry.sampler(values.get("sampler", GenerationRequest(prompt="").sampler))
    values["sampler_options"] = _options(left, sampler, notes)
    values["schedule_options"] = _schedule_options(left, notes)
    if infotext.fields and not version.startswith("vitrine"):
        left.setdefault("RNG", "GPU")  # A1111 leaves its default out
    values |= _noise(left, notes)
    values |= _enlarge(left, registry, checkpoints, notes)
    values |= _refine(left, checkpoints, notes)
    values |= _hypernets(left)
    values["controls"] = control_uses(left, registry.preprocessors, notes)
    if left.get("Tiling") == "True":
        values["tiling"] = bool(left.pop("Tiling"))
    said = ((k, v) for k, v in left.items() if k not in SILENT and (k, v) not in SAYS_NOTHING)
    notes += [_not_used(key, value) for key, value in said]
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


def _positive(text: str) -> float:
    if (value := _finite(text)) <= 0:
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    if not 0 <= (value := _finite(text)) <= 1:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(text)
    return int(text)


def _sides(text: str) -> tuple[int, int]:
    """Either of them 0: as the other one asks."""
    width, cross, height = text.partition("x")
    if not cross or not (_count(width) or _count(height)):
        raise ValueError(text)
    return _count(width), _count(height)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not cross:
        raise ValueError(text)
    return _whole(width), _whole(height)


Row: TypeAlias = tuple[str, str, Callable[[str], Any], str]
"""Key, field, how its text is read, what it should have been."""

PLAIN: tuple[Row, ...] = (
    ("Steps", "steps", _whole, "a whole number from 1"),
    ("CFG scale", "cfg_scale", _finite, "a finite number"),
    ("Seed", "seed", _seed, f"a whole number from 0 to {MAX_SEED}"),
    ("Size", "size", _size, "width x height"),
    ("Clip skip", "clip_skip", _whole, "a whole number from 1"),
    ("ENSD", "ensd", _signed, "a whole number"),
)
VARIATION: tuple[Row, ...] = (
    ("Variation seed", "seed", _seed, f"a whole number from 0 to {MAX_SEED}"),
    ("Variation seed strength", "strength", _finite, "a finite number"),
    ("Seed resize from", "resize_from", _size, "width x height"),
)

HIRES: tuple[Row, ...] = (
    ("Hires upscale", "scale", _positive, "a number above 0"),
    ("Hires resize", "size", _sides, "width x height"),
    ("Hires steps", "steps", _count, "a whole number from 0"),
    ("Hires CFG Scale", "cfg_scale", _finite, "a finite number"),
    ("Denoising strength", "strength", _share, "from 0 to 1"),
)


def _model(
    left: dict[str, str], checkpoints: Collection[str] | None, notes: list[str]
) -> dict[str, str]:
    """The checkpoint by name, with or without its folder and suffix."""
    name, digest = left.pop("Model", None), left.pop("Model hash", None)
    if name is None:
        if digest is not None:
            notes.append(f"Model hash: {short(digest)} – not used: the model's name is missing")
        return {}
    there = known_checkpoint(name, checkpoints)
    if there is None:
        notes.append(f"Model: {short(name)} – not used: there is no such checkpoint here")
        return {}
    return {"checkpoint": there}


def known_checkpoint(name: str, checkpoints: Collection[str] | None) -> str | None:
    """Which of the names there are is meant: with or without folder and suffix, in any case.

    None: none of them. Where `checkpoints` is None the name is taken as it stands.
    """
    if not name:
        return None
    if checkpoints is None or name in checkpoints:
        return name
    meant = PureWindowsPath(name).name.casefold()  # knows both kinds of slash
    for there in checkpoints:
        own = PurePath(there)
        if meant in (own.stem.casefold(), own.name.casefold()):
            return there
    stem = PurePath(meant).stem
    return next((t for t in checkpoints if PurePath(t).stem.casefold() == stem), None)


def _sampling(left: dict[str, str], registry: Registry, notes: list[str]) -> dict[str, Any]:
    """Sampler and schedule; older texts join them, as in "DPM++ 2M Karras"."""
    typed, title = left.pop("Sampler", None), left.pop("Schedule type", None)
    values: dict[str, Any] = {}
    if typed is not None:
        name, joined = _split(typed, registry)
        try:
            sampler = registry.sampler(name)
        except RequestError as error:
            notes.append(f"Sampler: {short(typed)} – not used: {error}")
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
            notes.append(f"Schedule type: {short(title)} – not used: {error}")
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
        notes.append(f"Sigmas: {short(text)} – not used: they should be finite numbers")
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
    variation = _taken(left, VARIATION, notes)
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
                notes.append(f"{key}: {short(value)} – not used: it should be a finite number")
        elif key in left:
            notes.append(f"{key}: {short(left.pop(key))} – not used: {sampler.title} takes none")
    return SamplerOptions(**values)


def _schedule_options(left: dict[str, str], notes: list[str]) -> ScheduleOptions:
    values: dict[str, Any] = _taken(
        left,
        (
            ("Schedule min sigma", "sigma_min", _finite, "a finite number"),
            ("Schedule max sigma", "sigma_max", _finite, "a finite number"),
            ("Schedule rho", "rho", _finite, "a finite number"),
        ),
        notes,
    )
    if left.get("Discard penultimate sigma") == "True":
        values["discard_penultimate"] = bool(left.pop("Discard penultimate sigma"))
    # A1111 means by 0 that it is not set.
    return ScheduleOptions(**{name: value for name, value in values.items() if value})


def _enlarge(
    left: dict[str, str],
    registry: Registry,
    checkpoints: Collection[str] | None,
    notes: list[str],
) -> dict[str, Any]:
    """A1111's "Hires. fix" as a second pass; empty where the text has none."""
    if "Hires upscale" not in left and "Hires resize" not in left:
        return {}
    values = _taken(left, HIRES, notes)
    width, height = values.pop("size", (0, 0))
    values |= {"width": width or None, "height": height or None}
    for key in ("Hires upscaler", "Hires prompt", "Hires negative prompt"):
        if key in left:
            values[key.removeprefix("Hires ").replace(" ", "_")] = left.pop(key)
    if not values.get("steps", 1):
        del values["steps"]  # 0 is A1111's "as the first pass"
    for key, name, shelf in (
        ("Hires sampler", "sampler", registry.sampler),
        ("Hires schedule type", "schedule", registry.schedule),
    ):
        title = left.pop(key, None)
        if title is None or title.startswith("Use same"):
            continue
        try:
            automatic = title.casefold() == "automatic"
            values[name] = "automatic" if automatic else shelf(title).name
        except RequestError as error:
            notes.append(f"{key}: {short(title)} – not used: {error}")
    named = left.pop("Hires checkpoint", "Use same checkpoint")
    there = known_checkpoint(_without_hash(named), checkpoints)
    if there is not None and named != "Use same checkpoint":
        values["checkpoint"] = there
    elif named != "Use same checkpoint":
        notes.append(f"Hires checkpoint: {short(named)} – not used: {NOT_USED['Refiner']}")
    return {"enlarge": Enlarge(**values)}


def _refine(
    left: dict[str, str], checkpoints: Collection[str] | None, notes: list[str]
) -> dict[str, Any]:
    named = left.get("Refiner")
    there = None if named is None else known_checkpoint(_without_hash(named), checkpoints)
    if there is None:
        return {}
    del left["Refiner"]
    values = _taken(left, (("Refiner switch at", "switch_at", _share, "from 0 to 1"),), notes)
    if left.get("Refiner switch by sampling steps") == "True":
        values["by_steps"] = bool(left.pop("Refiner switch by sampling steps"))
    return {"refine": Refine(checkpoint=there, **values)}


def _hypernets(left: dict[str, str]) -> dict[str, Any]:
    """Of old texts; newer ones have them in the prompt."""
    if "Hypernet" not in left:
        return {}
    name = left.pop("Hypernet")
    weight = _taken(left, (("Hypernet strength", "weight", _finite, "a finite number"),), [])
    # Older still: the file's hash behind its name.
    return {"hypernets": (HypernetUse(name=re.sub(r"\([0-9a-f]{8}\)\Z", "", name), **weight),)}


def _vae(left: dict[str, str], vaes: Collection[str] | None) -> dict[str, str]:
    named = left.get("VAE")
    there = None if named is None or vaes is None else known_checkpoint(named, vaes)
    if there is None:
        if "VAE" in left:
            left.pop("VAE hash", None)  # said once is enough
        return {}
    left.pop("VAE hash", None)
    del left["VAE"]
    return {"vae": there}


def _without_hash(title: str) -> str:
    """ "sdxl_refiner [7440042bbd]" -> "sdxl_refiner"."""
    return re.sub(r" ?\[[0-9a-f]{6,64}\]\Z", "", title)


def _taken(left: dict[str, str], table: tuple[Row, ...], notes: list[str]) -> dict[str, Any]:
    """Fields that a table of keys finds, taken out of `left`; what can't be read is noted."""
    values = {}
    for key, name, reader, wanted in table:
        if key in left:
            value = left.pop(key)
            try:
                values[name] = reader(value)
            except ValueError:
                notes.append(f"{key}: {short(value)} – not used: it should be {wanted}")
    return values


def _not_used(key: str, value: str) -> str:
    why = next((why for k, why in NOT_USED.items() if key.startswith(k)), "not known here")
    return f"{key}: {short(value)} – not used: {why}"


def short(text: str) -> str:
    """Fit for a sentence."""
    return text if len(text) <= 60 else text[:57] + "..."
