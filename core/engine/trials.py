"""Trying a model out without a run: a picture as latents, one guess, its schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.engine.engine import DecodeLatents, EncodePicture, GuessOnce, PlotSchedules
from core.engine.looking import exhausted
from core.errors import RequestError
from core.images.pixels import picture, pixels
from core.images.resize import stretched
from core.models.checkpoint import Checkpoint
from core.passes import passes
from core.request import GenerationRequest
from core.resolve import resolve
from core.run import Guide, House, Run
from core.sampling.guidance import Predictions
from core.sampling.noise import SeededNoise
from core.sampling.schedule import noised

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_STEP = 64
"""Sides of trial pictures are multiples of it, as every network halves them so often."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture as a model sees it; tensors on the CPU."""

    latents: Tensor
    """(1 c h w)."""
    noise: Tensor
    """Like the latents: standard normal, from the seed."""
    preview: Tensor
    """Latents to colours; see `core.events.Loaded`."""
    sigmas: Tensor
    """(t,): the noise level of each timestep of training."""
    picture: Image
    """What was encoded, at its size."""


@dataclass(frozen=True, eq=False)
class Guess:
    """Estimates of the picture under the noise, (1 c h w) each, on the CPU."""

    cond: Tensor
    uncond: Tensor


@dataclass(frozen=True, eq=False)
class Plotted:
    """Noise levels by the names of schedules, and those of training."""

    training: Tensor
    schedules: Mapping[str, Tensor]
    """(n+1,) each, falling; without those that have not so many steps."""


@torch.inference_mode()
def encoded(query: EncodePicture, house: House) -> Encoded:
    """The picture, its shape kept, about as large as the model likes best.

    Raises:
        RequestError, FileError: there is no such picture or checkpoint.
    """
    if house.inputs is None:
        raise RequestError("there is no folder of pictures here", "picture")
    model = exhausted(house.store.loaded(query.checkpoint, query.vae))
    found = house.inputs.open(query.picture)
    size = house.catalog.checkpoint(query.checkpoint).size
    fitted = stretched(found, *_sides(found.size, size))
    latents = model.encode(pixels(fitted)[None].to(model.device)).cpu()
    _, channels, rows, columns = latents.shape
    noise = SeededNoise([query.seed], (channels, rows, columns), model.schedule.sigmas).draw(0)
    preview = house.store.preview(model)
    return Encoded(latents, noise, preview, model.schedule.sigmas, fitted)


def _sides(size: tuple[int, int], best: int) -> tuple[int, int]:
    """Whole steps, with about as many pixels as a square of `best`."""
    scale = best / (size[0] * size[1]) ** 0.5
    step = min(SIDE_STEP, best)
    width, height = (max(1, min(2 * best, round(side * scale)) // step) * step for side in size)
    return width, height


@torch.inference_mode()
def guess(query: GuessOnce, house: House) -> Guess:
    """One call of the network at a timestep of the forward process, with and without the prompt."""
    model = exhausted(house.store.loaded(query.checkpoint, query.vae))
    sigma = model.schedule.sigma(torch.tensor(query.timestep))
    x = noised(query.latents, query.noise, sigma).to(model.device)
    seen: list[Predictions] = []

    def kept(predictions: Predictions) -> Tensor:
        seen.append(predictions)
        return predictions.x

    _told(query, model, house).denoiser_at(0, kept)(x, sigma.to(model.device))
    (said,) = seen
    assert said.uncond is not None
    uncond = said.uncond
    cond = uncond + sum(
        weight * (cond - uncond) for weight, cond in zip(said.weights, said.conds, strict=True)
    )
    return Guess(cond.cpu(), uncond.cpu())


def _told(query: GuessOnce, model: Checkpoint, house: House) -> Guide:
    """The model with both prompts, of which neither is left out."""
    shrink = model.vae.config.shrink
    rows, columns = query.latents.shape[-2:]
    asked = GenerationRequest(
        prompt=query.prompt,
        negative_prompt=query.negative_prompt,
        checkpoint=query.checkpoint,
        vae=query.vae,
        width=columns * shrink,
        height=rows * shrink,
        seed=0,
    )
    request = resolve(asked, house.catalog, house.registry)
    run = Run(request, house)
    path = exhausted(run.walk(passes(request)[0], (0,), None))
    return replace(exhausted(run.guide(path, path.segments[0])), cfg_scale=0.0)


@torch.inference_mode()
def decoded(query: DecodeLatents, house: House) -> Image:
    """Raises NotFinite, RequestError as the checkpoint does."""
    model = exhausted(house.store.loaded(query.checkpoint, query.vae))
    return picture(model.decode(query.latents.to(model.device))[0].cpu())


def plotted(query: PlotSchedules, house: House) -> Plotted:
    """Every schedule on the shelf that has so many steps, on the model's own levels."""
    model = exhausted(house.store.loaded(query.checkpoint))
    found = {}
    for name, entry in house.registry.schedules.items():
        try:
            found[name] = entry.sigmas(model.schedule, query.steps)
        except RequestError:
            continue  # it is the number of steps that this one has not
    return Plotted(model.schedule.sigmas, found)
