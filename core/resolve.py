"""The request as typed to the request in full: seeds drawn, sizes and schedules filled in, bounds
checked. Reads headers only, so a job is resolved the moment it is submitted."""

from __future__ import annotations

import re
import secrets
from dataclasses import fields, replace
from typing import NamedTuple

from core.errors import RequestError
from core.images.guides import preprocessor
from core.images.resize import FILTERS
from core.models.catalog import Catalog, Kind, settled
from core.passes import LATENT_UPSCALERS, enlarged, enlarged_size, passes
from core.registry import Registry
from core.request import (
    MAX_SEED,
    ControlUse,
    Enlarge,
    GenerationRequest,
    Refine,
    SamplerOptions,
    ScheduleOptions,
    Variation,
)
from core.text.networks import wanted


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
    "rho": Bound(0.1, 100),
    "sigma_min": Bound(0.0001, 10_000),
    "sigma_max": Bound(0.0001, 10_000),
}
PART_BOUNDS = {
    "start.strength": Bound(0, 1),
    "start.grow": Bound(0, 512),
    "start.blur": Bound(0, 64),
    "start.padding": Bound(0, 1024),
    "enlarge.scale": Bound(1, 8),
    "enlarge.strength": Bound(0, 1),
    "enlarge.steps": Bound(1, 500),
    "enlarge.cfg_scale": Bound(0, 100),
    "refine.switch_at": Bound(0, 1),
    "branch.image": Bound(0, 99),
    "branch.index": Bound(0, 100_000),
    "branch.pass_index": Bound(0, 1),
}
"""Of numbers in the parts of a request."""
LORA_BOUNDS = {
    "weight": Bound(-100, 100),
    "text_weight": Bound(-100, 100),
    "start": Bound(0, 1),
    "end": Bound(0, 1),
}
CONTROL_BOUNDS = {"weight": Bound(0, 10), "start": Bound(0, 1), "end": Bound(0, 1)}
MAX_CONTROLS = 10
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
        extras=registry.checked(request.extras),
    )
    _check_bounds(resolved)
    if resolved.variation is not None:
        resolved = replace(resolved, variation=_resolved_variation(resolved))
    _check_options(resolved.sampler_options, sampler.title, sampler.options)
    _check_schedule_options(resolved, registry)
    _check_parts(resolved)
    _check_networks(resolved, catalog)
    return replace(
        resolved,
        controls=_resolved_controls(resolved, catalog, registry),
        enlarge=_resolved_enlarge(resolved, catalog, registry),
        refine=_resolved_refine(resolved, catalog),
    )


def submitted(
    request: GenerationRequest, catalog: Catalog, registry: Registry
) -> GenerationRequest:
    """The request in full, and what request steps make of it: what is queued and put into PNGs.

    Raises:
        RequestError: names the field, what was asked and what there is.
        FileError: the checkpoint can't be used.
        ExtensionError: a request step failed.
    """
    resolved = resolve(request, catalog, registry)
    stepped = registry.stepped(resolved)
    return resolved if stepped == resolved else resolve(stepped, catalog, registry)


def _check_parts(request: GenerationRequest) -> None:
    """The numbers of all optional parts, and pictures named as they are named."""
    for path, bound in PART_BOUNDS.items():
        part, name = path.split(".")
        value = getattr(getattr(request, part), name, None)
        if value is not None:
            _check(name, value, bound, part + ".")
    start = request.start
    if start is not None:
        for name in ("picture", "mask", "depth"):
            _check_picture(getattr(start, name), name, "start.")
        if start.extend and (len(start.extend) != 4 or min(start.extend) < 0):
            raise RequestError(
                "extend is four numbers of pixels, left, top, right, bottom", "start.extend"
            )
    for number, use in enumerate(request.loras):
        for name, bound in LORA_BOUNDS.items():
            if (value := getattr(use, name)) is not None:
                _check(name, value, bound, f"loras[{number}].")
    if request.branch is not None and request.images != 1:
        raise RequestError("a branch makes one image", "images")


def _check_picture(name: str | None, field: str, prefix: str) -> None:
    if name is not None and not re.fullmatch("[0-9a-f]{64}", name):
        raise RequestError(
            f"{field} must be the SHA-256 of a picture that was sent here", prefix + field
        )


def _resolved_controls(
    request: GenerationRequest, catalog: Catalog, registry: Registry
) -> tuple[ControlUse, ...]:
    """Every guide with its model's own name and its preprocessor's settings in full."""
    if len(request.controls) > MAX_CONTROLS:
        raise RequestError(
            f"{len(request.controls)} guides were asked for; {MAX_CONTROLS} is the most", "controls"
        )
    return tuple(
        _resolved_control(request, use, f"controls[{number}].", catalog, registry)
        for number, use in enumerate(request.controls)
    )


def _resolved_control(
    request: GenerationRequest, use: ControlUse, where: str, catalog: Catalog, registry: Registry
) -> ControlUse:
    for name, bound in CONTROL_BOUNDS.items():
        _check(name, getattr(use, name), bound, where)
    for name in ("picture", "mask"):
        _check_picture(getattr(use, name), name, where)
    if use.picture is None and request.start is None:
        raise RequestError(
            "a guide needs a picture: choose one, or start from a picture", where + "picture"
        )
    model = catalog.file(Kind.CONTROLNET, use.model, where + "model")
    checkpoint = catalog.checkpoint(request.checkpoint)
    base = model.facts.base
    titles = {family.name: family.title for family in catalog.families}
    if base in titles and base not in (checkpoint.family.name, checkpoint.family.fits):
        raise RequestError(
            f"{model.name} was made for {titles[base]}, and {checkpoint.name} is of "
            f"{checkpoint.family.title}; choose a guide or a checkpoint of the same kind",
            where + "model",
        )
    encoder = use.encoder
    if encoder is not None:
        encoder = catalog.file(Kind.IMAGE_ENCODER, encoder, where + "encoder").name
    one = preprocessor(use.preprocessor, where + "preprocessor", registry.preprocessors)
    settings = one.checked(use.settings, where + "settings.")
    told = settled(settings, catalog, where + "settings.")
    return replace(use, model=model.name, encoder=encoder, settings=told)


def _check_networks(request: GenerationRequest, catalog: Catalog) -> None:
    """Every LoRA and hypernetwork that is asked for is there."""
    told = [request.of_image(image) for image in range(len(request.prompts) or 1)]
    for part in (part for one in told for part in passes(one)):
        asked = wanted(part.request)
        for use in asked.loras:
            catalog.file(Kind.LORA, use.name, "prompt")
        for net in asked.hypernets:
            catalog.file(Kind.HYPERNETWORK, net.name, "prompt")


def _resolved_enlarge(
    request: GenerationRequest, catalog: Catalog, registry: Registry
) -> Enlarge | None:
    more = request.enlarge
    if more is None:
        return None
    width, height = enlarged_size(request, more)
    assert request.width and request.height
    if width < request.width or height < request.height:
        raise RequestError(
            f"the second pass would be {width} × {height}, smaller than "
            f"{request.width} × {request.height}",
            "enlarge.width",
        )
    _check_upscaler(more.upscaler, catalog)
    checkpoint = None if more.checkpoint is None else catalog.checkpoint(more.checkpoint).name
    sampler = None if more.sampler is None else registry.sampler(more.sampler).name
    schedule = more.schedule
    if schedule is not None:
        if schedule.casefold() == "automatic":
            schedule = registry.sampler(sampler or request.sampler).schedule
        schedule = registry.schedule(schedule).name
    resolved = replace(more, checkpoint=checkpoint, sampler=sampler, schedule=schedule)
    second = enlarged(replace(request, enlarge=resolved))
    _check_size(second)
    _check_work(second)
    return resolved


def _check_upscaler(name: str, catalog: Catalog) -> None:
    built_in = (*LATENT_UPSCALERS, *FILTERS)
    if name in built_in:
        return
    there = (*built_in, *(file.name for file in catalog.files(Kind.UPSCALER)))
    try:
        catalog.file(Kind.UPSCALER, name, "enlarge.upscaler")
    except RequestError as error:
        raise RequestError(
            f"no upscaler named {name!r}; there are: {', '.join(there)}", "enlarge.upscaler"
        ) from error


def _resolved_refine(request: GenerationRequest, catalog: Catalog) -> Refine | None:
    if request.refine is None:
        return None
    return replace(request.refine, checkpoint=catalog.checkpoint(request.refine.checkpoint).name)


def _check_bounds(request: GenerationRequest) -> None:
    for name, bound in BOUNDS.items():
        _check(name, getattr(request, name), bound)
    for name in ("prompt", "negative_prompt"):
        if (length := len(getattr(request, name))) > MAX_PROMPT:
            what = name.replace("_", " ")
            raise RequestError(f"the {what} has {length:,} letters; {MAX_PROMPT:,} fit", name)
    _check_prompts(request)
    _check_size(request)
    _check_work(request)
    seed = request.seed
    assert seed is not None
    if seed + request.images - 1 > MAX_SEED:
        raise RequestError(f"seed must leave room for {request.images} images", "seed")
    if not 0 <= seed + request.ensd <= MAX_SEED - request.images:
        raise RequestError(
            f"seed and ensd must add up to a seed, not {seed + request.ensd}", "ensd"
        )


def _check_prompts(request: GenerationRequest) -> None:
    """Those of single images."""
    if request.prompts and len(request.prompts) != request.images:
        raise RequestError(
            f"there are {len(request.prompts)} prompts for {request.images} images; "
            "each has its own, or none has",
            "prompts",
        )
    for number, words in enumerate(request.prompts):
        if max(len(words.prompt), len(words.negative_prompt)) > MAX_PROMPT:
            raise RequestError(f"{MAX_PROMPT:,} letters fit into a prompt", f"prompts[{number}]")


def _check_size(request: GenerationRequest) -> None:
    width, height = request.width, request.height
    assert width is not None and height is not None
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


def _check_work(request: GenerationRequest) -> None:
    assert request.width and request.height
    if request.width * request.height * request.steps * request.images > MAX_WORK:
        raise RequestError(
            f"{request.images} images of {request.width} × {request.height} in {request.steps} "
            "steps are more than one request may ask for; ask for fewer images or steps",
            "images",
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


def _check_schedule_options(request: GenerationRequest, registry: Registry) -> None:
    options, schedule = request.schedule_options, request.schedule
    title: str = "a drawn schedule"
    taken: tuple[str, ...] = ("round_timesteps",)
    if isinstance(schedule, str):
        entry = registry.schedule(schedule)
        title = f"the schedule {entry.title}"
        taken = ("discard_penultimate", "round_timesteps", *entry.options)
    for name in (field.name for field in fields(ScheduleOptions)):
        value = getattr(options, name)
        if value is None or value is False:
            continue
        if name not in taken:
            raise RequestError(
                f"{title} takes no {name}; it takes: {', '.join(taken)}", f"schedule_options.{name}"
            )
        if name in OPTION_BOUNDS:
            _check(name, value, OPTION_BOUNDS[name], "schedule_options.")
    low, high = options.sigma_min, options.sigma_max
    if low is not None and high is not None and low >= high:
        raise RequestError(
            f"sigma_min, {low:g}, must lie below sigma_max, {high:g}", "schedule_options.sigma_min"
        )


def _check(name: str, value: float, bound: Bound, prefix: str = "") -> None:
    if not bound.low <= value <= bound.high:  # false for NaN as well
        raise RequestError(
            f"{name.replace('_', ' ')} must lie between {bound.low:,} and {bound.high:,}, "
            f"not {value}",
            prefix + name,
        )
