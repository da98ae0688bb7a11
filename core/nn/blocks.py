"""The parts U-Net and VAE are made of: residual block, down- and upsampling, timestep embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.nn.layers import Conv2d, Linear


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sinusoids of a timestep: (b,) -> (b width), float32, cosines first.

    arXiv:1706.03762, section 3.5, with the frequencies exp(-ln(10000) i / half) and the [cos, sin]
    order that the published weights were trained with. `timestep` may be fractional.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    frequencies = torch.exp(-math.log(10000) * steps / half)
    angles = timestep.float()[:, None] * frequencies[None]
    return torch.cat((torch.cos(angles), torch.sin(angles)), dim=-1)


class ResBlock(nn.Module):
    """Two normalised 3×3 convolutions with the timestep added between: (b c h w) -> (b out h w)."""

    def __init__(self, channels: int, out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(embedding, out))
        # Index 2 is the dropout of the original; it holds the checkpoint's key numbering.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out), nn.SiLU(), nn.Identity(), Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = summed(normalised(self.in_layers, x), self.emb_layers(embedding)[:, :, None, None])
        return summed(normalised(self.out_layers, y), self.skip_connection(x))


def normalised(layers: nn.Sequential, x: Tensor) -> Tensor:
    """A norm, a SiLU and a convolution, with no more memory than it takes."""
    norm, convolution = layers[0], layers[-1]
    return convolution(functional.silu(norm(x), inplace=not torch.is_grad_enabled()))


def as_many(x: Tensor, rows: int) -> Tensor:
    """x (b …) again and again until there are so many rows, a multiple of b."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def summed(fresh: Tensor, x: Tensor) -> Tensor:
    """fresh + x; without gradients in the memory of `fresh`, which nobody else may hold."""
    return fresh + x if torch.is_grad_enabled() else fresh.add_(x)


class Downsample(nn.Module):
    """Halves the rows and columns with a 3×3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest neighbours, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`size`: rows and columns wanted, for odd latents; None doubles them."""
        rows, columns = size or (x.shape[2] * 2, x.shape[3] * 2)
        return self.conv(functional.interpolate(x, size=(rows, columns), mode="nearest"))
