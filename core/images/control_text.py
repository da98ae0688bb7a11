"""A run's guides in the words of A1111's ControlNet extension: "ControlNet 0: …", both ways.

The pictures themselves no text can hold. Which models there are is not known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from core.request import ControlUse, During, GenerationRequest, Hearing, Json, Resize

MODULES = {
    "inpaint": "inpaint_only",
    "blur": "blur_gaussian",
    "tile": "tile_resample",
    "recolour": "recolor_luminance",
    "invert": "invert (from white bg & black line)",
    "estimated_depth": "depth_anything_v2",
    "estimated_normals": "normal_midas",
    "pose": "openpose",
}
"""The extension's names of what it calls otherwise."""
OURS = {
    **{theirs: ours for ours, theirs in MODULES.items()},
    "tile_colorfix": "tile",
    "inpaint_global_harmonious": "inpaint",
    "recolor_intensity": "recolour",
    "scribble_xdog": "scribble",
    "depth_anything": "estimated_depth",
    "depth_midas": "estimated_depth",
    "depth_zoe": "estimated_depth",
    "normal_bae": "estimated_normals",
    "dw_openpose": "pose",
    "": "none",
}
"""The extension's names → ours, where the same or much the same is made. Which network estimates a
depth or a pose is what lies in the models folders, whatever name was asked for."""
RESIZES = {
    Resize.STRETCH: "Just Resize",
    Resize.LATENT: "Just Resize",
    Resize.CROP: "Crop and Resize",
    Resize.FILL: "Resize and Fill",
}
NAMED_RESIZES = {
    "just resize": Resize.STRETCH,
    "crop and resize": Resize.CROP,
    "resize and fill": Resize.FILL,
    "scale to fit (inner fit)": Resize.CROP,
    "inner fit (scale to fit)": Resize.CROP,
    "envelope (outer fit)": Resize.FILL,
    "outer fit (shrink to fit)": Resize.FILL,
}
"""With the words of older versions."""
MODES = {
    Hearing.BALANCED: "Balanced",
    Hearing.PROMPT: "My prompt is more important",
    Hearing.CONTROL: "ControlNet is more important",
}
NAMED_MODES = {title.casefold(): hearing for hearing, title in MODES.items()}
PASSES = {During.BOTH: "Both", During.FIRST: "Low res only", During.SECOND: "High res only"}
NAMED_PASSES = {title.casefold(): during for during, title in PASSES.items()}
THRESHOLDS: Mapping[str, tuple[str, ...]] = {
    "canny": ("low", "high"),
    "threshold": ("level",),
    "blur": ("sigma",),
    "tile": ("shrink",),
    "recolour": ("gamma",),
    "scribble": ("level",),
}
"""What thresholds A and B set in each."""
WHOLE = ("low", "high", "level")
UNSET = (None, -1, 64)
"""What the extension writes where a threshold means nothing."""

MOST = 10
"""Guides of one text."""
_KEY = re.compile(r"ControlNet (\d{1,2})")
_OLD_KEY = re.compile(r"ControlNet(?:-(\d{1,2}))? ([A-Z][\w ]*)")
"""Of the extension's first months: one key for each value."""
_ENTRY = re.compile(r"(?:^|,)\s*([A-Za-z][\w /]*):\s*")


def control_fields(
    request: GenerationRequest, marks: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Key → text of each guide.

    Args:
        marks: model → the eight digits that the extension calls its file by.
    """
    return {
        f"ControlNet {n}": _unit(use, (marks or {}).get(use.model, ""))
        for n, use in enumerate(request.controls)
    }


def _unit(use: ControlUse, mark: str) -> str:
    names = THRESHOLDS.get(use.preprocessor, ())
    given = [use.settings[name] for name in names if name in use.settings]
    first, second = ([*map(_number, given), "-1", "-1"])[:2]
    model = re.sub("[,:]", "", use.model)
    fields = {
        "Module": MODULES.get(use.preprocessor, use.preprocessor),
        "Model": f"{model} [{mark}]" if mark else model,
        "Weight": _number(use.weight),
        "Resize Mode": RESIZES[use.resize],
        "Low Vram": str(use.low_memory),
        "Threshold A": first,
        "Threshold B": second,
        "Guidance Start": _number(use.start),
        "Guidance End": _number(use.end),
        "Pixel Perfect": "True",
        "Control Mode": MODES[use.hearing],
        "Hr Option": PASSES[use.during],
    }
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def control_uses(
    left: dict[str, str], preprocessors: Collection[str], notes: list[str]
) -> tuple[ControlUse, ...]:
    """The guides among a text's fields, which are taken out of `left`; none has a picture.

    `notes` are given a sentence for each guide, and for each of its values that is not honoured.
    """
    units: dict[int, dict[str, str]] = {}
    for key in list(left):
        if match := _KEY.fullmatch(key):
            units[int(match[1])] = entries(left.pop(key))
        elif match := _OLD_KEY.fullmatch(key):
            units.setdefault(int(match[1] or 0), {})[_called(match[2])] = left.pop(key)
    found = []
    for number, unit in sorted(units.items())[:MOST]:
        if unit.get("enabled", "True") == "True":
            use = _use(unit, f"ControlNet {number}", preprocessors, notes)
            found += [use] if use is not None else []
    return tuple(found)


def entries(text: str) -> dict[str, str]:
    """ "Module: canny, Weight: 1" → {"module": "canny", "weight": "1"}; commas may be in values."""
    marks = list(_ENTRY.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return {
        _called(mark[1]): text[mark.end() : end].strip()
        for mark, end in zip(marks, ends, strict=False)
    }


def _called(key: str) -> str:
    plain = key.strip().casefold()
    return {"preprocessor": "module"}.get(plain, plain)


def _use(
    unit: dict[str, str], where: str, preprocessors: Collection[str], notes: list[str]
) -> ControlUse | None:
    name = re.sub(r"\s*\[[0-9a-fA-F]{6,64}\]\Z", "", unit.get("model", ""))
    if name in ("", "None"):
        notes.append(f"{where} – not used: it names no model")
        return None
    if len(span := re.findall(r"[0-9.]+", unit.get("starting/ending", ""))) == 2:
        unit["guidance start"], unit["guidance end"] = span
    values: dict[str, Any] = {}
    for key, field, reads, wanted in _ROWS:
        if key in unit:
            try:
                values[field] = reads(unit[key])
            except (ValueError, KeyError):
                said = f"{where}, {key}: {unit[key][:60]}"
                notes.append(f"{said} – not used: it should be {wanted}")
    module = ours(unit.get("module", "none"), preprocessors)
    if module is None:
        said = f"{where}, module: {unit['module'][:60]}"
        notes.append(f"{said} – not used: there is nothing like it here; make its guide elsewhere")
        module = "none"
    thresholds = [_threshold(unit.get(f"threshold {letter}")) for letter in "ab"]
    notes.append(
        f"{where}: the picture that guided it is not in the text; choose it under Guides "
        f"({name[:60]})"
    )
    return ControlUse(
        model=name,
        preprocessor=module,
        settings=settings_of(module, *thresholds),
        **values,
    )


def ours(module: str, preprocessors: Collection[str]) -> str | None:
    """Which of our preprocessors one of the extension's is; None where there is none like it."""
    plain = module.strip().casefold()
    name = OURS.get(plain, plain)
    return name if name in preprocessors else None


def settings_of(module: str, first: float | None, second: float | None) -> dict[str, Json]:
    """What the two thresholds mean for a preprocessor; the extension sends 64 or -1 for unset."""
    if first in UNSET and second in UNSET:
        return {}
    settings: dict[str, Json] = {}
    for name, value in zip(THRESHOLDS.get(module, ()), (first, second), strict=False):
        if value is not None and value >= 0:
            settings[name] = round(value) if name in WHOLE else value
    return settings


def _threshold(text: str | None) -> float | None:
    try:
        return None if text is None else _within(-1, 1024)(text)
    except ValueError:
        return None


def _within(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(text)
        return value

    return read


def _of(named: Mapping[str, Any]) -> Callable[[str], Any]:
    return lambda text: named[text.casefold()]


_ROWS: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("weight", "weight", _within(0, 10), "a number from 0 to 10"),
    ("guidance start", "start", _within(0, 1), "a number from 0 to 1"),
    ("guidance end", "end", _within(0, 1), "a number from 0 to 1"),
    ("resize mode", "resize", _of(NAMED_RESIZES), "one of " + ", ".join(NAMED_RESIZES)),
    ("control mode", "hearing", _of(NAMED_MODES), "one of " + ", ".join(NAMED_MODES)),
    ("hr option", "during", _of(NAMED_PASSES), "one of " + ", ".join(NAMED_PASSES)),
    ("low vram", "low_memory", _of({"true": True, "false": False}), "True or False"),
)
"""Key, field, how its text is read, what it should have been."""
