"""Answers to questions that are no generation: what a stored step looks like, decoded."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from core.engine.engine import DecodeStep
from core.engine.job import Job
from core.errors import RequestError
from core.events import Step
from core.generate import House
from core.images.pixels import pictures
from core.sampling.schedule import variance_preserving
from core.trace import step_at

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


@torch.inference_mode()
def decoded_step(query: DecodeStep, job: Job, house: House) -> Image:
    """One step of one image through the VAE of the job's checkpoint.

    Raises:
        RequestError: the job has no such step.
    """
    step = _step_of(query, job, house)
    row = step.images.index(query.image)
    assert job.request.checkpoint is not None
    model = exhausted(house.store.loaded(job.request.checkpoint, job.request.vae))
    if query.view == "latents":
        latents = variance_preserving(step.state.latents, torch.tensor(step.sigma))
    else:
        latents = step.state.denoised if step.state.denoised is not None else step.state.latents
    pixels = model.decode(latents[row : row + 1].to(model.device))
    return pictures(pixels.cpu())[0]


def _step_of(query: DecodeStep, job: Job, house: House) -> Step:
    for event in job.events():
        if (
            isinstance(event, Step)
            and query.image in event.images
            and event.state.index == query.index
        ):
            return event
    if job.trace is None:
        raise RequestError(f"step {query.index} of image {query.image} is not there (yet)")
    return step_at(job.trace, house.registry, query.image, query.index)


def exhausted(steps: Generator[Any, None, T]) -> T:
    """What a generator returns, its events dropped."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
