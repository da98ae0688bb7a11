"""Painting only where a mask says, as a wrapper round a denoiser; pixels are not known here.

Of what is kept the estimate is always the original. So along the whole walk its latents are the
original plus noise of the level at hand, and at the end the original.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.sampling.state import Denoiser


def masked(denoise: Denoiser, original: Tensor, mask: Tensor) -> Denoiser:
    """Keeps `original` (b c h w) wherever `mask` (1 1 h w, in [0, 1]) is 0; 1 repaints.

    Between them estimates are mixed, as A1111 does with every sampler of k-diffusion.
    """

    def denoise_masked(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(original, denoise(x, sigma), mask)

    return denoise_masked


def differential(
    denoise: Denoiser, original: Tensor, mask: Tensor, index: int, intervals: int, first: int = 0
) -> Denoiser:
    """The same for one interval, with the mask's greys as strengths.

    A cell of strength s is kept until the share 1 − s of the walk is done, then it is free: 1 is
    free from the start, 0 never. arXiv:2306.00950, algorithm 1.

    Args:
        index: the interval, counted as `State.index` is.
        intervals: one behind the last interval of the walk.
        first: its first interval.
    """
    done = (index - first) / max(1, intervals - first)
    free = (mask >= 1 - done) & (mask > 0)
    return masked(denoise, original, free.to(mask.dtype))


def settled(latents: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """What a walk came to, with `original` itself wherever nothing was to be painted.

    Some samplers end a rounding error away from it, and schedules that do not end at 0 above it.
    """
    return torch.where(mask > 0, latents, original)
