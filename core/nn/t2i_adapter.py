"""T2I-Adapter: a small network that reads a picture once and answers with features of each level.

Parameters carry the original's names. arXiv:2302.08453, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from core.nn.layers import Conv2d
from core.nn.residuals import Residuals
from core.nn.unet import UNetConfig


@dataclass(frozen=True)
class AdapterConfig:
    """The numbers of one T2I-Adapter; the defaults are SD 1.x's."""

    channels: int = 3
    """Of the picture: 1 is brightness."""
    unshuffle: int = 8
    """Pixels of a square that becomes one place, on each side: 8 for SD 1.x, 16 for XL."""
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2

    @property
    def halves(self) -> tuple[bool, ...]:
        """At which levels rows and columns are halved; XL sees half the latents' to begin with."""
        if self.unshuffle == 16:
            return tuple(level == 2 for level in range(len(self.widths)))
        return tuple(level > 0 for level in range(len(self.widths)))


class Block(nn.Module):
    """Two convolutions with ReLU between, and what came in beside them."""

    def __init__(self, channels: int, out: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.in_conv = Conv2d(channels, out, 1) if channels != out else None
        self.block1 = Conv2d(out, out, 3, padding=1)
        self.block2 = Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            x = functional.avg_pool2d(x, 2, 2, ceil_mode=True)
        if self.in_conv is not None:
            x = self.in_conv(x)
        return x + self.block2(functional.relu(self.block1(x)))


class T2IAdapter(nn.Module):
    """(b c H W) in [0, 1] -> features (b c h w), one for each level."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.conv_in = Conv2d(config.channels * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.ModuleList()
        for out, halves in zip(config.widths, config.halves, strict=True):
            for index in range(config.blocks):
                self.body.append(Block(width, out, halves and index == 0))
                width = out

    def forward(self, hint: Tensor) -> tuple[Tensor, ...]:
        """`hint` has rows and columns that `unshuffle` divides."""
        x = self.conv_in(functional.pixel_unshuffle(hint, self.config.unshuffle))
        features = []
        for index, block in enumerate(self.body, start=1):
            x = block(x)
            if index % self.config.blocks == 0:
                features.append(x)
        return tuple(features)


def placed(config: UNetConfig, features: tuple[Tensor, ...]) -> Residuals:
    """The features where the U-Net of `config` takes them.

    Behind a level's last residual block, or, at a level that does not attend, behind its halving;
    one more than there are levels goes to the middle.
    """
    per = config.blocks + 1
    levels = len(config.multipliers)
    rows: list[Tensor | None] = [None] * (per * levels)
    for level, feature in enumerate(features[:levels]):
        attends, last = config.depths[level] > 0, level == levels - 1
        rows[per * level + config.blocks if attends or last else per * (level + 1)] = feature
    middle = features[levels] if len(features) > levels else None
    return Residuals(features=tuple(rows), middle=middle)
