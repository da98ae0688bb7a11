"""The request as typed to the request in full: seeds drawn, sizes and schedules filled in, bounds
checked. Reads headers only, so a job is resolved the moment it is submitted."""

from __future__ import annotations

import secrets
from dataclasses import fields, replace
from typing import NamedTuple

from core.errors import RequestError
from core.models.catalog import Catalog
from core.registry import Registry
from core.request import MAX_SEED, GenerationRequest, SamplerOptions, Variation


class Bound(NamedTuple):
    """Inclusive limits of a number."""

    low: float
    high: float


BOUNDS = {
    "steps": Bound(1, 500),
    "cfg_scale": Bound(0, 100),
    "images": Bound(1, 100),
    "width": Bound(16, 8192),
    "height": Bound(16, 8192),
    "seed": Bound(0, MAX_SEED),
    "clip_skip": Bound(1, 32),
    "ensd": Bound(-(2**31), 2**31),
}
OPTION_BOUNDS = {
    "eta": Bound(0, 10),
    "s_noise": Bound(0, 10),
    "s_churn": Bound(0, 1000),
    "s_tmin": Bound(0, 10_000),
    "s_tmax": Bound(0, 10_000),
}
MAX_PROMPT = 20_000
"""Letters in a prompt."""
MAX_PIXELS = 4096 * 4096
"""Pixels in one picture."""
MAX_WORK = 2 * 10**10
"""Pixels × steps × images of one request: 500 steps at 512² of 100 images is about as much."""
SIZE_STEP = 8
DRAWN_SEEDS = 2**32
"""Drawn seeds stay below this, short enough to read aloud; typed ones may be larger."""


def resolve(request: GenerationRequest, catalog: Catalog, registry: Registry) -> GenerationRequest:
    """The same request with nothing left open. Resolving twice changes nothing.

    Raises:
        RequestError: names the field, what was asked and what there is.
        FileError: the checkpoint can't be used.
    """
    checkpoint = catalog.checkpoint(request.checkpoint)
    catalog.vae(request.vae, checkpoint)  # raises where there is none of that name
    sampler = registry.sampler(request.sampler)
    schedule = request.schedule
    if isinstance(schedule, str):
        automatic = schedule.casefold() == "automatic"
        schedule = registry.schedule(sampler.schedule if automatic else schedule).name
    resolved = replace(
        request,
        checkpoint=checkpoint.name,
        sampler=sampler.name,
        schedule=schedule,
        steps=request.steps if isinstance(schedule, str) else len(schedule) - 1,
        seed=secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed,
        width=request.width if request.width is not None else checkpoint.size,
        height=request.height if request.height is not None else checkpoint.size,
    )
    _check_bounds(resolved)
    if resolved.variation is not None:
        resolved = replace(resolved, variation=_resolved_variation(resolved))
    _check_options(resolved.sampler_options, sampler.title, sampler.options)
    return resolved


def _check_bounds(request: GenerationRequest) -> None:
    for name, bound in BOUNDS.items():
        _check(name, getattr(request, name), bound)
    for name in ("prompt", "negative_prompt"):
        if (length := len(getattr(request, name))) > MAX_PROMPT:
            what = name.replace("_", " ")
            raise RequestError(f"the {what} has {length:,} letters; {MAX_PROMPT:,} fit", name)
    width, height, seed = request.width, request.height, request.seed
    assert width is not None and height is not None and seed is not None
    for name, value in (("width", width), ("height", height)):
        if value % SIZE_STEP:
            near = round(value / SIZE_STEP) * SIZE_STEP
            raise RequestError(
                f"{name} must be a multiple of {SIZE_STEP}; {value} is not, {near} is", name
            )
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"{width} × {height} is more than {MAX_PIXELS:,} pixels, the most that fit", "width"
        )
    if width * height * request.steps * request.images > MAX_WORK:
        raise RequestError(
            f"{request.images} images of {width} × {height} in {request.steps} steps are more "
            "than one request may ask for; ask for fewer images or steps",
            "images",
        )
    if seed + request.images - 1 > MAX_SEED:
        raise RequestError(f"seed must leave room for {request.images} images", "seed")
    if not 0 <= seed + request.ensd <= MAX_SEED - request.images:
        raise RequestError(
            f"seed and ensd must add up to a seed, not {seed + request.ensd}", "ensd"
        )


def _resolved_variation(request: GenerationRequest) -> Variation:
    variation = request.variation
    assert variation is not None and request.seed is not None
    _check("strength", variation.strength, Bound(0, 1), "variation.")
    size = variation.resize_from
    if size is not None:
        if len(size) != 2:
            raise RequestError(
                f"resize_from is a width and a height, not {size}", "variation.resize_from"
            )
        for name, value in zip(("width", "height"), size, strict=True):
            _check(name, value, BOUNDS[name], "variation.resize_from.")
    seed = secrets.randbelow(DRAWN_SEEDS) if variation.seed is None else variation.seed
    _check("seed", seed, Bound(0, MAX_SEED - request.images), "variation.")
    return replace(variation, seed=seed)


def _check_options(options: SamplerOptions, title: str, taken: tuple[str, ...]) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None:
            continue
        if field.name not in taken:
            there = f"it takes: {', '.join(taken)}" if taken else "it takes no options"
            raise RequestError(
                f"the sampler {title} takes no {field.name}; {there}",
                f"sampler_options.{field.name}",
            )
        _check(field.name, value, OPTION_BOUNDS[field.name], "sampler_options.")


def _check(name: str, value: float, bound: Bound, prefix: str = "") -> None:
    if not bound.low <= value <= bound.high:  # false for NaN as well
        raise RequestError(
            f"{name.replace('_', ' ')} must lie between {bound.low:,} and {bound.high:,}, "
            f"not {value}",
            prefix + name,
        )
