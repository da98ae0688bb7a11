"""The U-Net of Stable Diffusion 1.x, 2.x and XL: one network, told apart by numbers.

Parameters carry the names of the original checkpoints (below `model.diffusion_model.`), so a
single-file checkpoint fits without a key map. arXiv:2112.10752, section 3.2 and appendix E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.nn.attention import PLAIN, Attending, SpatialTransformer
from core.nn.blocks import Downsample, ResBlock, Upsample, as_many, timestep_embedding
from core.nn.layers import Conv2d, Linear
from core.nn.residuals import Residuals, at


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The numbers of one U-Net; the defaults are SD 1.x's own."""

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level, as multiples of `channels`."""
    blocks: int = 2
    """Residual blocks a level on the way down; one more on the way up."""
    depths: tuple[int, ...] = (1, 1, 1, 0)
    """Transformer blocks after each residual block of a level; 0: no attention there."""
    middle_depth: int = 1
    context: int = 768
    """Width of the text embedding that cross-attention reads."""
    heads: int | None = 8
    """Attention heads; None: as many as `head_width` divides the channels into."""
    head_width: int = 64
    linear_projection: bool = False
    vector: int | None = None
    """Width of the pooled conditioning of XL; None: the network takes none."""
    groups: int = 32
    """Groups of every GroupNorm."""

    def heads_for(self, channels: int) -> tuple[int, int]:
        """(number of heads, width of each) at a level with so many channels."""
        heads = self.heads or channels // self.head_width
        return heads, channels // heads


class UNetEncoder(nn.Module):
    """A U-Net as far as its middle: what a ControlNet is a copy of."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        embedding = config.channels * 4
        self.time_embed = _embedding_mlp(config.channels, embedding)
        if config.vector is not None:
            self.label_emb = nn.Sequential(_embedding_mlp(config.vector, embedding))
        widths = [config.channels * m for m in config.multipliers]

        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([Conv2d(config.in_channels, config.channels, 3, padding=1)])]
        )
        self.widths, channels = [config.channels], config.channels
        for level, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            for _ in range(config.blocks):
                self.input_blocks.append(
                    self._block(channels, width, depth, ("input", len(self.input_blocks)))
                )
                channels = width
                self.widths.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                self.widths.append(channels)

        self.middle_block = nn.ModuleList([ResBlock(channels, channels, embedding, config.groups)])
        if config.middle_depth:
            self.middle_block.append(self._attention(channels, config.middle_depth, ("middle", 0)))
        self.middle_block.append(ResBlock(channels, channels, embedding, config.groups))

    def _block(
        self,
        channels: int,
        out: int,
        depth: int,
        place: tuple[Literal["input", "middle", "output"], int],
    ) -> nn.ModuleList:
        config = self.config
        block = nn.ModuleList([ResBlock(channels, out, config.channels * 4, config.groups)])
        if depth:
            block.append(self._attention(out, depth, place))
        return block

    def _attention(
        self, channels: int, depth: int, place: tuple[Literal["input", "middle", "output"], int]
    ) -> SpatialTransformer:
        config = self.config
        heads, head_width = config.heads_for(channels)
        return SpatialTransformer(
            channels,
            config.context,
            heads,
            head_width,
            depth,
            config.linear_projection,
            config.groups,
            place,
        )

    def embedded(self, timestep: Tensor, vector: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What every residual block is told: (b e) of timesteps (b,) and pooled conditioning."""
        embedding = timestep_embedding(timestep, self.config.channels).to(dtype)
        embedding = self.time_embed(embedding)
        if self.config.vector is not None:
            if vector is None:
                raise ValueError("this network wants a pooled `vector`, and none was given")
            embedding = embedding + self.label_emb(vector)
        return embedding


class UNet(UNetEncoder):
    """(b c h w) latents at a noise level -> the network's raw prediction, of the same shape."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        widths = [config.channels * m for m in config.multipliers]
        skips, channels = list(self.widths), self.widths[-1]
        self.output_blocks = nn.ModuleList()
        for level, (width, depth) in reversed(
            list(enumerate(zip(widths, config.depths, strict=True)))
        ):
            for i in range(config.blocks + 1):
                place: tuple[Literal["output"], int] = ("output", len(self.output_blocks))
                block = self._block(channels + skips.pop(), width, depth, place)
                channels = width
                if level and i == config.blocks:
                    block.append(Upsample(channels))
                self.output_blocks.append(block)

        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, channels),
            nn.SiLU(),
            Conv2d(channels, config.out_channels, 3, padding=1),
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        attending: Attending = PLAIN,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """The raw prediction (eps or v, as the weights were trained).

        Args:
            x: (b c h w) latents, scaled to the variance the network was trained on.
            timestep: (b,), 0 to 999, may be fractional.
            context: (b n d) text embedding; or several for each row of x, as guidance asks, in the
                order of x repeated. What comes before the first of it is done once for them then.
            vector: (b e) pooled conditioning, where `config.vector` asks for it.
            attending: how every attention layer attends.
            residuals: what is added on the way.
        """
        embedding = self.embedded(timestep, vector, x.dtype)
        added = residuals or Residuals()
        skips = []
        for index, block in enumerate(self.input_blocks):
            x = plus(through(block, x, embedding, context, attending), at(added.features, index))
            skips.append(plus(x, at(added.skips, index)))
        x = plus(through(self.middle_block, x, embedding, context, attending), added.middle)
        for block in self.output_blocks:
            x = torch.cat((x, as_many(skips.pop(), len(x))), dim=1)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            x = through(block, x, embedding, context, attending, size)
        return as_many(self.out(x), len(context))


def plus(x: Tensor, more: Tensor | None) -> Tensor:
    """x, and `more` if there is any."""
    return x if more is None else x + more


def through(
    block: nn.Module,
    x: Tensor,
    embedding: Tensor,
    context: Tensor,
    attending: Attending,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """One numbered block: each layer gets what it takes."""
    assert isinstance(block, nn.ModuleList)
    for layer in block:
        if isinstance(layer, ResBlock):
            x = layer(x, as_many(embedding, len(x)))
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context, attending)
        elif isinstance(layer, Upsample):
            x = layer(x, size)
        else:
            x = layer(x)
    return x


def _embedding_mlp(width: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(Linear(width, embedding), nn.SiLU(), Linear(embedding, embedding))
