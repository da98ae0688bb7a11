"""What InvokeAI wrote into a picture (`invokeai_metadata`, version 3 and later), as a request."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from core.errors import RequestError
from core.images import infotext
from core.request import MAX_SEED, GenerationRequest, Json, LoraUse

if TYPE_CHECKING:
    from core.registry import Registry

MAX_LENGTH = 1_000_000
"""Characters of JSON."""

SCHEDULERS = {
    "euler": ("euler", "normal"),
    "euler_k": ("euler", "karras"),
    "euler_a": ("euler_ancestral", "normal"),
    "heun": ("heun", "normal"),
    "heun_k": ("heun", "karras"),
    "lms": ("lms", "normal"),
    "lms_k": ("lms", "karras"),
    "kdpm_2": ("dpm_2", "normal"),
    "kdpm_2_k": ("dpm_2", "karras"),
    "kdpm_2_a": ("dpm_2_ancestral", "normal"),
    "kdpm_2_a_k": ("dpm_2_ancestral", "karras"),
    "dpmpp_2s": ("dpmpp_2s_ancestral", "normal"),
    "dpmpp_2s_k": ("dpmpp_2s_ancestral", "karras"),
    "dpmpp_2m": ("dpmpp_2m", "normal"),
    "dpmpp_2m_k": ("dpmpp_2m", "karras"),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", "normal"),
    "dpmpp_2m_sde_k": ("dpmpp_2m_sde", "karras"),
    "dpmpp_3m": ("dpmpp_3m_sde", "normal"),
    "dpmpp_3m_k": ("dpmpp_3m_sde", "karras"),
    "dpmpp_sde": ("dpmpp_sde", "normal"),
    "dpmpp_sde_k": ("dpmpp_sde", "karras"),
    "unipc": ("unipc", "normal"),
    "unipc_k": ("unipc", "karras"),
    "ddim": ("ddim", "ddim_uniform"),
    "ddpm": ("ddpm", "normal"),
    "lcm": ("lcm", "sgm_uniform"),
    "pndm": ("plms", "ddim_uniform"),
}
"""Their scheduler -> our sampler and schedule that come nearest."""


BOUNDS = {"seed": (0, MAX_SEED), "steps": (1, 10**6), "width": (1, 10**6), "height": (1, 10**6)}


def read(text: str) -> dict[str, Json]:
    """Raises RequestError where it is no JSON object."""
    if len(text) > MAX_LENGTH:
        raise RequestError(f"metadata of {len(text):,} characters are too large")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"it is no JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise RequestError("it is no JSON object")
    return values


def request_from(
    values: Mapping[str, Json], registry: Registry, checkpoints: Collection[str] | None = None
) -> tuple[GenerationRequest, list[str]]:
    """The request nearest to InvokeAI's values, with sentences on what is left out."""
    notes = ["InvokeAI draws and weighs in ways of its own: expect the scene, not the pixels"]
    found: dict[str, Any] = {
        "prompt": _text(values.get("positive_prompt")),
        "negative_prompt": _text(values.get("negative_prompt")),
    }
    for name, (least, most) in BOUNDS.items():
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            found[name] = value
    scale = values.get("cfg_scale")
    if isinstance(scale, int | float) and not isinstance(scale, bool) and math.isfinite(scale):
        found["cfg_scale"] = float(scale)
    scheduler = values.get("scheduler")
    if isinstance(scheduler, str) and scheduler in SCHEDULERS:
        sampler, schedule = SCHEDULERS[scheduler]
        found["sampler"] = registry.sampler(sampler).name
        found["schedule"] = registry.schedule(schedule).name
    elif scheduler is not None:
        notes.append(f"Scheduler: {infotext.short(str(scheduler))} – not used: not known here")
    name = _named(values.get("model"))
    there = infotext.known_checkpoint(name, checkpoints)
    if there is not None:
        found["checkpoint"] = there
    elif name:
        notes.append(f"Model: {infotext.short(name)} – not used: there is no such checkpoint here")
    if loras := _loras(values.get("loras")):
        found["loras"] = loras
    if values.get("init_image") or values.get("strength"):
        notes.append("It was made from another picture, which is not in the file")
    return GenerationRequest(**found), notes


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _named(model: Any) -> str:
    """Version 3 wrote `model_name`, later ones `name`."""
    if not isinstance(model, dict):
        return ""
    return _text(model.get("name")) or _text(model.get("model_name"))


def _loras(entries: Json) -> tuple[LoraUse, ...]:
    uses = []
    for entry in entries if isinstance(entries, list) else ():
        name = _named(entry.get("model") or entry.get("lora")) if isinstance(entry, dict) else ""
        weight = entry.get("weight", 1.0) if isinstance(entry, dict) else 1.0
        if name and isinstance(weight, int | float) and abs(weight) < 1e6:
            uses.append(LoraUse(name=name, weight=float(weight)))
    return tuple(uses)
