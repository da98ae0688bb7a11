"""The noise axis of a run before it runs: its levels, and what the network would call them."""

from __future__ import annotations

from core.levels import sigmas_of
from core.registry import Registry
from core.request import GenerationRequest
from core.sampling.schedule import scaled_linear


def levels(request: GenerationRequest, registry: Registry) -> tuple[list[float], list[float]]:
    """The falling sigmas of a run from noise, 0 at the end, and the timestep of each.

    Of the noise that SD 1.x, 2.x and XL were trained on; no checkpoint is read for it.
    """
    trained = scaled_linear()
    sigmas = sigmas_of(request, registry, trained)
    timesteps = trained.timestep(sigmas.clamp(min=trained.sigma_min))
    return sigmas.tolist(), [*timesteps[:-1].tolist(), 0.0]
