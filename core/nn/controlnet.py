"""ControlNet: a copy of a U-Net's encoder that reads a picture and answers with residuals.

Parameters carry the original's names (below `control_model.`). arXiv:2302.05543, section 3.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from core.nn.attention import PLAIN
from core.nn.layers import Conv2d
from core.nn.residuals import Residuals
from core.nn.unet import UNetConfig, UNetEncoder, through

HINT_WIDTHS = (16, 32, 96, 256)
"""Channels on the way from pixels to latents, each next one at half the size."""


class ControlNet(UNetEncoder):
    """(b c h w) latents and a hint (b c H W) -> residuals for the U-Net of the same numbers.

    Args:
        hint_channels: of the picture: 3 are red, green and blue.
        hint_widths: channels inside the small network that reads it.
    """

    def __init__(
        self,
        config: UNetConfig,
        hint_channels: int = 3,
        hint_widths: tuple[int, ...] = HINT_WIDTHS,
    ) -> None:
        super().__init__(config)
        self.hint_channels = hint_channels
        self.input_hint_block = _hint_block(hint_channels, hint_widths, config.channels)
        self.zero_convs = nn.ModuleList(
            nn.Sequential(Conv2d(width, width, 1)) for width in self.widths
        )
        middle = self.widths[-1]
        self.middle_block_out = nn.Sequential(Conv2d(middle, middle, 1))

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        timestep: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
    ) -> Residuals:
        """One residual for each skip and one for the middle, at weight 1.

        Args:
            x: (b c h w) latents as the U-Net gets them.
            hint: (b c H W) at the picture's own size, in [0, 1]; -1 marks what is to be invented.
            timestep, context, vector: as the U-Net's.
        """
        embedding = self.embedded(timestep, vector, x.dtype)
        read = self.input_hint_block(hint)
        skips = []
        for index, block in enumerate(self.input_blocks):
            x = through(block, x, embedding, context, PLAIN)
            if index == 0:
                x = x + read
            skips.append(self.zero_convs[index](x))
        x = through(self.middle_block, x, embedding, context, PLAIN)
        return Residuals(tuple(skips), self.middle_block_out(x))


def _hint_block(channels: int, widths: tuple[int, ...], out: int) -> nn.Sequential:
    """Convolutions of 3×3 with SiLU between; each width but the first halves rows and columns."""
    layers: list[nn.Module] = [Conv2d(channels, widths[0], 3, padding=1), nn.SiLU()]
    for width, wider in pairwise(widths):
        layers += [Conv2d(width, width, 3, padding=1), nn.SiLU()]
        layers += [Conv2d(width, wider, 3, padding=1, stride=2), nn.SiLU()]
    return nn.Sequential(*layers, Conv2d(widths[-1], out, 3, padding=1))
