"""Answers to questions that are no generation: what a stored step looks like, decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.engine import looking, trials
from core.engine.engine import (
    DecodeLatents,
    DecodeStep,
    EncodePicture,
    GuessOnce,
    LookInside,
    LookThrough,
    LookWhere,
    LookWords,
    MakeGuide,
    PlotSchedules,
    Query,
    Upscale,
    View,
)
from core.engine.job import Job
from core.engine.looking import exhausted, step_of
from core.errors import RequestError
from core.events import Step
from core.images.guiding import Scene
from core.images.pixels import pictures
from core.images.start import prepared
from core.run import House, larger_picture
from core.sampling.schedule import variance_preserving

if TYPE_CHECKING:
    from PIL.Image import Image


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
        case MakeGuide():
            return guide(query, house)
        case LookInside():
            return looking.inside(query, find(query.job), house)
        case LookWhere():
            return looking.where(query, find(query.job), house)
        case LookThrough():
            return looking.through(query, find(query.job), house)
        case LookWords():
            return looking.words(query, find(query.job), house)
        case DecodeLatents():
            return trials.decoded(query, house)
        case EncodePicture():
            return trials.encoded(query, house)
        case GuessOnce():
            return trials.guess(query, house)
        case PlotSchedules():
            return trials.plotted(query, house)


@torch.inference_mode()
def guide(query: MakeGuide, house: House) -> Image:
    """As the run will make it, by the same functions.

    Raises:
        RequestError, FileError: as `Scene.guide`.
    """
    if house.inputs is None:
        raise RequestError("there is no folder of pictures here", "controls.picture")
    width, height, start = query.width, query.height, query.start
    begun = None if start is None else prepared(start, house.inputs, width, height)
    estimates = house.store.controlling.estimating
    there = house.registry.preprocessors
    return Scene(house.inputs, width, height, begun, estimates, there).guide(query.use)


@torch.inference_mode()
def decoded_step(query: DecodeStep, job: Job, house: House) -> Image:
    """One step of one image through the VAE of the job's checkpoint.

    Raises:
        RequestError: the job has no such step.
    """
    step = step_of(query, job, house)
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
