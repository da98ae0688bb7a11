"""Networks that enlarge pictures: RRDBNet and the compact one of Real-ESRGAN.

(b 3 H W) in [0, 1], RGB -> (b 3 H·scale W·scale), about [0, 1], not clamped. Parameters carry the
names of the Real-ESRGAN files. arXiv:1809.00219, section 3.1; arXiv:2107.10833, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.nn.layers import Conv2d

SHRINK = 0.2
"""Residuals are added at this share: arXiv:1809.00219, section 3.1, β."""


@dataclass(frozen=True, kw_only=True)
class RRDBConfig:
    """The numbers of one RRDBNet; the defaults are those of the published x4 files."""

    width: int = 64
    growth: int = 32
    """Channels that each convolution of a dense block adds."""
    blocks: int = 23
    doublings: int = 2
    unshuffle: int = 1
    """Pixels on each side that are folded into channels first, for scales below 2 ** doublings."""

    @property
    def scale(self) -> int:
        """How many times larger the answer is on each side."""
        return 2**self.doublings // self.unshuffle


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """The numbers of one compact network."""

    width: int = 64
    convolutions: int = 16
    """Between the first and the last one."""
    scale: int = 4


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks at the input's size, then doublings."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = _conv(3 * config.unshuffle**2, width)
        self.body = nn.Sequential(*(_RRDB(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = _conv(width, width)
        for n in range(config.doublings):
            self.add_module(f"conv_up{n + 1}", _conv(width, width))
        self.conv_hr = _conv(width, width)
        self.conv_last = _conv(width, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        fold, scale = self.config.unshuffle, self.config.scale
        # Sides that can't be folded are completed by their last row or column.
        padded = functional.pad(pixels, (0, -width % fold, 0, -height % fold), mode="replicate")
        x = self.conv_first(functional.pixel_unshuffle(padded, fold))
        x = x + self.conv_body(self.body(x))
        for n in range(self.config.doublings):
            doubled = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = _activated(self.get_submodule(f"conv_up{n + 1}")(doubled))
        x = self.conv_last(_activated(self.conv_hr(x)))
        return x[..., : height * scale, : width * scale]


class _RRDB(nn.Module):
    """Three dense blocks and a residual round them."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = _DenseBlock(width, growth)
        self.rdb2 = _DenseBlock(width, growth)
        self.rdb3 = _DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + SHRINK * self.rdb3(self.rdb2(self.rdb1(x)))


class _DenseBlock(nn.Module):
    """Five convolutions, each reading all that came before, and a residual round them."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, growth)
        self.conv2 = _conv(width + growth, growth)
        self.conv3 = _conv(width + 2 * growth, growth)
        self.conv4 = _conv(width + 3 * growth, growth)
        self.conv5 = _conv(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _activated(conv(seen))), dim=1)
        return x + SHRINK * self.conv5(seen)


class CompactNet(nn.Module):
    """Plain convolutions at the input's size; what they say is added to the enlarged input.

    Real-ESRGAN's SRVGGNetCompact.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        layers: list[nn.Module] = [_conv(3, width), nn.PReLU(width)]
        for _ in range(config.convolutions):
            layers += [_conv(width, width), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, _conv(width, 3 * config.scale**2))

    def forward(self, pixels: Tensor) -> Tensor:
        scale = self.config.scale
        details = functional.pixel_shuffle(self.body(pixels), scale)
        return details + functional.interpolate(pixels, scale_factor=float(scale), mode="nearest")


def _conv(channels: int, out: int) -> Conv2d:
    return Conv2d(channels, out, 3, padding=1)


def _activated(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)
