"""A run's guides as A1111's ControlNet extension writes them into its text: "ControlNet 0: …"."""

from __future__ import annotations

from core.request import ControlUse, During, GenerationRequest, Hearing, Resize

MODULES = {
    "inpaint": "inpaint_only",
    "blur": "blur_gaussian",
    "tile": "tile_resample",
    "recolour": "recolor_luminance",
    "invert": "invert (from white bg & black line)",
}
"""The extension's names of what it calls otherwise."""
RESIZES = {
    Resize.STRETCH: "Just Resize",
    Resize.LATENT: "Just Resize",
    Resize.CROP: "Crop and Resize",
    Resize.FILL: "Resize and Fill",
}
MODES = {
    Hearing.BALANCED: "Balanced",
    Hearing.PROMPT: "My prompt is more important",
    Hearing.CONTROL: "ControlNet is more important",
}
PASSES = {During.BOTH: "Both", During.FIRST: "Low res only", During.SECOND: "High res only"}
THRESHOLDS = ("low", "high", "level", "sigma", "shrink", "gamma")
"""Settings that are a threshold there, A before B."""


def control_fields(request: GenerationRequest) -> dict[str, str]:
    """Key → text of each guide. The pictures themselves no text can hold."""
    return {f"ControlNet {n}": _unit(use) for n, use in enumerate(request.controls)}


def _unit(use: ControlUse) -> str:
    given = [use.settings[name] for name in THRESHOLDS if name in use.settings]
    first, second = ([*map(_number, given), "-1", "-1"])[:2]
    fields = {
        "Module": MODULES.get(use.preprocessor, use.preprocessor),
        "Model": use.model.replace(",", "").replace(":", ""),
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
