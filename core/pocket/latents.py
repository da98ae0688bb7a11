"""Latents that need no training: every 8×8 patch of a picture as four whitened PCA numbers.

The U-Net learns on these while encoder and decoder learn to make and to read them, so both can
train at once. arXiv:2112.10752 trains the autoencoder first; here its latent space is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

PATCH = 8
CHANNELS = 4


@dataclass(frozen=True)
class Basis:
    """`directions` (8·8·3, 4) orthonormal, `mean` (8·8·3,), `deviation` (4,) of each number."""

    mean: Tensor
    directions: Tensor
    deviation: Tensor

    def latents(self, pixels: Tensor) -> Tensor:
        """(b 3 H W) in [-1, 1] -> (b 4 h w) of about unit variance."""
        patches = rearrange(pixels, "b c (h p) (w q) -> b h w (p q c)", p=PATCH, q=PATCH)
        numbers = (patches - self.mean) @ self.directions / self.deviation
        return rearrange(numbers, "b h w c -> b c h w")

    def pixels(self, latents: Tensor) -> Tensor:
        """The linear reconstruction: (b 4 h w) -> (b 3 H W)."""
        numbers = rearrange(latents, "b c h w -> b h w c") * self.deviation
        patches = numbers @ self.directions.T + self.mean
        return rearrange(patches, "b h w (p q c) -> b c (h p) (w q)", p=PATCH, q=PATCH, c=3)


def fitted(pixels: Tensor) -> Basis:
    """The basis of these pictures, (b 3 H W) in [-1, 1]."""
    patches = rearrange(pixels, "b c (h p) (w q) -> (b h w) (p q c)", p=PATCH, q=PATCH)
    mean = patches.mean(0)
    centred = patches - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
    directions = vectors[:, -CHANNELS:].flip(1).float()
    return Basis(mean, directions, values[-CHANNELS:].flip(0).sqrt().float())
