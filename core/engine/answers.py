"""Answers to questions that are no generation: what a stored step looks like, decoded."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from core.engine.engine import DecodeStep, Query, Upscale, View
from core.engine.job import Job
from core.errors import RequestError
from core.events import Step
from core.images.pixels import pictures
from core.run import House, larger_picture
from core.sampling.schedule import variance_preserving
from core.trace import step_at

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


def answered(query: Query, find: Callable[[str], Job], house: House) -> Any:
    """What `query` asks for; `find` knows the jobs by their ids."""
    match query:
        case DecodeStep():
            return decoded_step(query, find(query.job), house)
        case Upscale():
            if house.inputs is None:
                raise RequestError("there is no folder of pictures here", "picture")
            picture, size = house.inputs.open(query.picture), (query.width, query.height)
            return exhausted(larger_picture(house, query.upscaler, picture, size, "upscaler"))


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
    latents = seen(step, query.view)
    pixels = model.decode(latents[row : row + 1].to(model.device))
    return pictures(pixels.cpu())[0]


def seen(step: Step, view: View) -> Tensor:
    """(b c h w): the latents of a view; before the first estimate all views are the noisy one.

    The noise is the slope (x − denoised) / sigma of the walk at the step's own place.
    """
    state, sigma = step.state, torch.tensor(step.sigma)
    if view == "latents" or state.denoised is None:
        return variance_preserving(state.latents, sigma)
    if view == "denoised" or step.sigma <= 0:
        return state.denoised
    return (state.latents - state.denoised) / sigma


def _step_of(query: DecodeStep, job: Job, house: House) -> Step:
    for event in job.events():
        if (
            isinstance(event, Step)
            and query.image in event.images
            and (event.pass_index, event.state.index) == (query.pass_index, query.index)
        ):
            return event
    if job.trace is None:
        raise RequestError(f"step {query.index} of image {query.image} is not there (yet)")
    return step_at(job.trace, house.registry, query.image, query.index, query.pass_index)


def exhausted(steps: Generator[Any, None, T]) -> T:
    """What a generator returns, its events dropped."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
