"""The step and the spacing themselves; imported with torch, when they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from core.sampling.schedule import Schedule
from core.sampling.state import Denoiser, Noise, State

GAMMA = 2.0
"""The paper's own; 1 would be Euler."""
SPREAD = 0.5
"""The Laplace distribution's width over log sigma."""


def gradient_estimation(denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise) -> State:
    """Euler along gamma · slope + (1 − gamma) · the slope before; arXiv:2306.04848, algorithm 2."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    slope = (state.latents - denoised) / sigma
    direction = slope
    if state.memory:
        direction = GAMMA * slope + (1 - GAMMA) * state.memory[0]
    latents = state.latents + (sigma_next - sigma) * direction
    return state.next(latents, denoised, memory=(slope,))


def laplace(schedule: Schedule, steps: int) -> Tensor:
    """Quantiles of a Laplace distribution of log sigma around 0; arXiv:2407.03297, table 1."""
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    to_end = (1 - 2 * (0.5 - share).abs()).clamp(min=1e-9)
    sigmas = (-SPREAD * torch.sign(0.5 - share) * torch.log(to_end)).exp()
    lowest, highest = float(schedule.sigma_min), float(schedule.sigma_max)
    return torch.cat((sigmas.clamp(lowest, highest).float(), torch.zeros(1)))
