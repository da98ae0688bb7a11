"""IP-Adapter: what an image encoder saw, as further tokens that cross-attention reads beside text.

Parameters carry the original's names. arXiv:2308.06721, section 3.2: the answer of a site is
attend(q, k, v) + weight · attend(q, k', v'), with k' and v' from the picture's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from core.nn.attention import Attending, Site, SpatialTransformer, TransformerBlock
from core.nn.layers import Linear
from core.nn.unet import UNet

HEAD_WIDTH = 64
"""Of the perceiver's attention, in all published ones."""


@dataclass(frozen=True)
class ProjectionConfig:
    """The numbers of what turns an encoder's answer into tokens."""

    seen: int
    """Features the image encoder gives."""
    context: int
    """Features of a token, those of text."""
    tokens: int = 4
    inner: int = 0
    """Width of the perceiver of a "plus" file; 0: the plain projection of one embedding."""
    layers: int = 0


class Projection(nn.Module):
    """One image embedding (b d) -> (b tokens context)."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.proj = Linear(config.seen, config.tokens * config.context)
        self.norm = nn.LayerNorm(config.context)

    def forward(self, seen: Tensor) -> Tensor:
        return self.norm(rearrange(self.proj(seen), "b (n d) -> b n d", n=self.tokens))


class Perceiving(nn.Module):
    """Learned questions (b n d) to a picture's places (b m d) and to themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = Linear(width, width, bias=False)
        self.to_kv = Linear(width, width * 2, bias=False)
        self.to_out = Linear(width, width, bias=False)

    def forward(self, places: Tensor, questions: Tensor) -> Tensor:
        questions = self.norm2(questions)
        read = torch.cat((self.norm1(places), questions), dim=1)
        q, k, v = (
            rearrange(t, "b n (heads d) -> b heads n d", d=HEAD_WIDTH)
            for t in (self.to_q(questions), *self.to_kv(read).chunk(2, dim=-1))
        )
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b heads n d -> b n (heads d)"))


class Perceiver(nn.Module):
    """Features of all places (b m d) -> (b tokens context): "plus"; arXiv:2103.03206, figure 1."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        width = config.inner
        self.latents = nn.Parameter(torch.zeros(1, config.tokens, width))
        self.proj_in = Linear(config.seen, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([Perceiving(width), _feed_forward(width)]) for _ in range(config.layers)
        )
        self.proj_out = Linear(width, config.context)
        self.norm_out = nn.LayerNorm(config.context)

    def forward(self, seen: Tensor) -> Tensor:
        places = self.proj_in(seen)
        x = self.latents.expand(len(seen), -1, -1)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            attention, feed_forward = layer
            x = x + attention(places, x)
            x = x + feed_forward(x)
        return self.norm_out(self.proj_out(x))


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        Linear(width, width * 4, bias=False),
        nn.GELU(),
        Linear(width * 4, width, bias=False),
    )


class IPAdapter(nn.Module):
    """What makes tokens of a picture, and a pair of matrices for each site of cross-attention.

    Args:
        widths: queries' features at each site, in the order of `sites`.
    """

    def __init__(self, config: ProjectionConfig, widths: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.image_proj = Perceiver(config) if config.inner else Projection(config)
        # Even numbers are those of self-attention, which has no part in this.
        self.ip_adapter = nn.ModuleDict(
            {
                str(2 * index + 1): nn.ModuleDict(
                    {
                        "to_k_ip": Linear(config.context, width, bias=False),
                        "to_v_ip": Linear(config.context, width, bias=False),
                    }
                )
                for index, width in enumerate(widths)
            }
        )

    def keys_and_values(self, tokens: Tensor, order: Sequence[Site]) -> Mapping[Site, Pair]:
        """For each site what the tokens (b n d) are to it: two of (b n width)."""
        found: dict[Site, Pair] = {}
        for site, layer in zip(order, self.ip_adapter.values(), strict=True):
            assert isinstance(layer, nn.ModuleDict)
            found[site] = (layer["to_k_ip"](tokens), layer["to_v_ip"](tokens))
        return found


Pair: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values."""


def sites(network: UNet) -> tuple[tuple[Site, int], ...]:
    """Every site of cross-attention with its queries' features, as IP-Adapter's files count them:
    down, up, then the middle."""
    found: list[tuple[Site, int]] = []
    for part in (
        network.input_blocks,
        network.output_blocks,
        nn.ModuleList([network.middle_block]),
    ):
        for block in part.children():
            for layer in block.children():
                if isinstance(layer, SpatialTransformer):
                    for (_, cross), one in zip(layer.sites, layer.transformer_blocks, strict=True):
                        assert isinstance(cross, Site)
                        assert isinstance(one, TransformerBlock)
                        found.append((cross, one.attn2.to_q.out_features))
    return tuple(found)


def looking(
    attending: Attending,
    pairs: Mapping[Site, Pair],
    weight: float,
    mask: Callable[[int], Tensor] | None = None,
) -> Attending:
    """The same way of attending, and beside it at the picture's tokens.

    Args:
        pairs: keys and values (b n width) of each site, with the rows of the forward pass.
        mask: number of places -> (1 1 places 1): where it acts; None: everywhere.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        out = attending.attend(q, k, v, site)
        if site not in pairs:
            return out
        own_k, own_v = (
            rearrange(t, "b n (heads d) -> b heads n d", heads=q.shape[1]) for t in pairs[site]
        )
        seen = functional.scaled_dot_product_attention(q, own_k, own_v)
        if mask is not None:
            seen = seen * mask(q.shape[2])
        return out + weight * seen

    return replace(attending, attend=attend)
