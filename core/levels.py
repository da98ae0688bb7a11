"""What a pass walks: its noise levels, its sampler, its seeds, and where models change.

It knows names, levels and shares, no networks and no pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from core.errors import RequestError
from core.passes import Pass, kept_intervals
from core.registry import Registry
from core.request import GenerationRequest, LoraUse, Variation
from core.sampling.noise import ImageSeed
from core.sampling.schedule import Schedule, given
from core.sampling.state import Sampler


@dataclass(frozen=True)
class Levels:
    """The noise levels of a walk."""

    sigmas: Tensor
    """(n+1,) those that are walked."""
    whole: Tensor
    """(m+1,) those of strength 1, which `sigmas` are the end of; Brownian paths span them."""
    asked: int
    """Intervals before the sampler planned its own."""


@dataclass(frozen=True)
class Segment:
    """A range of a walk's intervals with one checkpoint and one set of LoRAs."""

    first: int
    last: int
    """One behind the last interval."""
    checkpoint: str
    loras: tuple[LoraUse, ...] = ()


def levels_of(part: Pass, registry: Registry, schedule: Schedule) -> Levels:
    """The noise levels that a pass walks."""
    request = part.request
    entry = registry.sampler(request.sampler)
    drawn = isinstance(request.schedule, tuple)
    whole = sigmas_of(request, registry, schedule)
    sigmas = whole
    if part.strength is not None:
        sigmas = whole[len(whole) - 1 - kept_intervals(part.strength, len(whole) - 1) :]
    asked = len(sigmas) - 1
    if drawn or not asked:
        return Levels(sigmas, whole, asked)
    planned = entry.planned(sigmas, asked)
    return Levels(planned, planned if part.strength is None else whole, asked)


def sigmas_of(request: GenerationRequest, registry: Registry, schedule: Schedule) -> Tensor:
    """The levels of a request's schedule, before a sampler plans its own from them."""
    if isinstance(request.schedule, tuple):
        return given(request.schedule)
    entry = registry.sampler(request.sampler)
    shelf = registry.schedule(request.schedule)
    options, discards = request.schedule_options, entry.discards_penultimate
    return shelf.sigmas(schedule, request.steps, options, discards)


def sampler_of(request: GenerationRequest, registry: Registry, intervals: int) -> Sampler:
    """The sampler of a pass, with its options filled in; `intervals` before it plans its own."""
    entry = registry.sampler(request.sampler)
    options = {name: getattr(request.sampler_options, name) for name in entry.options}
    chosen = {name: value for name, value in options.items() if value is not None}
    if entry.takes_calls:
        chosen["calls"] = intervals
    return entry.load(chosen)


def image_seeds(request: GenerationRequest, images: Sequence[int], shrink: int) -> list[ImageSeed]:
    """Where each image's noise comes from: seed + k, or with a variation the same seed for all.

    Args:
        shrink: pixels a latent cell covers on each side.
    """
    assert request.seed is not None
    variation = request.variation or Variation()
    size = variation.resize_from
    return [
        ImageSeed(
            request.seed + (0 if variation.strength else k),
            request.noise,
            request.ensd,
            (variation.seed or 0) + k,
            variation.strength,
            None if size is None else (size[1] // shrink, size[0] // shrink),
        )
        for k in images
    ]


def segments(
    part: Pass, sigmas: Tensor, schedule: Schedule, loras: tuple[LoraUse, ...], adaptive: bool
) -> tuple[Segment, ...]:
    """The walk cut where its checkpoint or its LoRAs change.

    Raises:
        RequestError: something begins or ends at a step of a sampler that chooses its own steps.
    """
    request, total = part.request, len(sigmas) - 1
    assert request.checkpoint is not None
    switch = total
    if request.refine is not None:
        switch = _switch(request, sigmas, schedule)
    bounds = {0, total, switch}
    for use in loras:
        bounds |= {math.ceil(use.start * total), math.ceil(use.end * total)}
    inside = sorted(bound for bound in bounds if 0 <= bound <= total)
    if adaptive and len(inside) > 2:
        title = "the sampler that chooses its own steps"
        raise RequestError(f"{title} can't change checkpoint or LoRAs on the way", "sampler")
    found = []
    for first, last in list(pairwise(inside)) or [(0, 0)]:
        active = tuple(
            use for use in loras if use.start * total <= first and (first < use.end * total)
        )
        refined = request.refine is not None and first >= switch
        checkpoint = request.refine.checkpoint if refined and request.refine else request.checkpoint
        found.append(Segment(first, last, checkpoint, active))
    return tuple(found)


def _switch(request: GenerationRequest, sigmas: Tensor, schedule: Schedule) -> int:
    """The first interval of the second checkpoint.

    Counted in training timesteps it is the first level whose (999 − t) / 1000 reaches the share:
    A1111 1.10's rule, with t the nearest whole timestep.
    """
    refine, total = request.refine, len(sigmas) - 1
    assert refine is not None
    if refine.by_steps:
        return math.ceil(refine.switch_at * total)
    timesteps = len(schedule.sigmas)
    for index, sigma in enumerate(sigmas[:-1]):
        nearest = int((schedule.sigmas - sigma).abs().argmin())
        if (timesteps - 1 - nearest) / timesteps >= refine.switch_at:
            return index
    return total
