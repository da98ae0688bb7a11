"""Where attention happens in a network, and how to pass another way of attending.

An attention layer asks two questions that a caller may answer differently: what keys and values are
made from (`sources`), and how queries, keys and values become an output (`attend`). Both are
arguments of a forward pass; nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from core.nn import kernels
from core.nn.blocks import as_many, summed
from core.nn.layers import Conv2d, Linear, side_by_side

FUSED = ("cuda",)
"""Kinds of devices on which queries, keys and values are made by one product; on a CPU it takes as
long as three."""


@dataclass(frozen=True)
class Site:
    """The name of one attention layer: `Site("input", 4, 0, "cross")` is
    `input_blocks.4.1.transformer_blocks.0.attn2`."""

    part: Literal["input", "middle", "output"]
    index: int
    """Number of the block within its part (0 for the middle)."""
    depth: int
    """Number of the transformer block within the block."""
    kind: Literal["self", "cross"]


def plain_sources(context: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """Keys and values both come from `context` (b n d)."""
    return context, context


def plain_attend(q: Tensor, k: Tensor, v: Tensor, site: Site | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v over (b heads n d); arXiv:1706.03762, equation 1."""
    if kernels.worth_attending(q):
        return kernels.attended(q, k, v)
    return functional.scaled_dot_product_attention(q, k, v)


class Words:
    """Keys and values that one network made of one context, with the weights it had then.

    Args:
        images: how often each row of the context comes in a row; they are kept once.
    """

    def __init__(self, images: int = 1) -> None:
        self._images = images
        self._made: dict[Site, tuple[Tensor, Tensor]] = {}

    def made(
        self, site: Site, context: Tensor, make: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """What the layer at `site` makes of the context (b m e): made once."""
        if site not in self._made:
            self._made[site] = make(context[:: self._images])
        keys, values = self._made[site]
        if self._images == 1:
            return keys, values
        return keys.repeat_interleave(self._images, 0), values.repeat_interleave(self._images, 0)


@dataclass(frozen=True)
class Attending:
    """A way of attending for one forward pass."""

    sources: Callable[[Tensor, Site], tuple[Tensor, Tensor]] = plain_sources
    attend: Callable[[Tensor, Tensor, Tensor, Site], Tensor] = plain_attend
    words: Words | None = field(default=None, compare=False)
    """Where keys and values of the context are kept from call to call, if they are; it changes no
    answer. Only where both of the above are plain: others may be anything."""


PLAIN = Attending()


class Attention(nn.Module):
    """Multi-head attention from `x` (b n d) to `context` (b m e); q, k and v have no bias.

    Each row of x may be asked with several contexts: there are a multiple of b then.
    """

    def __init__(self, width: int, context: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = Linear(width, inner, bias=False)
        self.to_k = Linear(context, inner, bias=False)
        self.to_v = Linear(context, inner, bias=False)
        self.to_out = nn.Sequential(Linear(inner, width))

    def forward(self, x: Tensor, context: Tensor, site: Site, attending: Attending) -> Tensor:
        q, k, v = (
            rearrange(t, "b n (heads d) -> b heads n d", heads=self.heads)
            for t in self._asked(x, context, site, attending)
        )
        out = attending.attend(q, k, v, site)
        return self.to_out(rearrange(out, "b heads n d -> b n (heads d)"))

    def _asked(
        self, x: Tensor, context: Tensor, site: Site, attending: Attending
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: (b n heads·d), (b m heads·d) twice."""
        for_keys, for_values = attending.sources(context, site)
        if for_keys is x and for_values is x and (weight := self._as_one(x)) is not None:
            return functional.linear(x, weight).chunk(3, dim=-1)  # type: ignore[return-value]

        queries = as_many(self.to_q(x), len(context))
        if site.kind == "self" or torch.compiler.is_compiling() or attending.words is None:
            return queries, self.to_k(for_keys), self.to_v(for_values)
        return queries, *attending.words.made(site, context, lambda c: (self.to_k(c), self.to_v(c)))

    def _as_one(self, x: Tensor) -> Tensor | None:
        """The weights of q, k and v as one, where one product of them is quicker than three."""
        if x.device.type not in FUSED or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        layers = self.to_q, self.to_k, self.to_v
        if not all(isinstance(layer, Linear) for layer in layers):
            return None  # something wraps one
        return side_by_side([layer.weight for layer in layers])


class GEGLU(nn.Module):
    """Linear to [value, gate], then value · gelu(gate) with the exact gelu; arXiv:2002.05202."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.proj, Linear) and kernels.quick(x):  # else something wraps it
            return kernels.gated(x, self.proj.weight, self.proj.bias)
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is the dropout of the original; it holds the checkpoint's key numbering.
        self.net = nn.Sequential(GEGLU(width, width * 4), nn.Identity(), Linear(width * 4, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward: each added to what came in."""

    def __init__(self, width: int, context: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads, head_width)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context, heads, head_width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, context: Tensor, own: Site, cross: Site, attending: Attending
    ) -> Tensor:
        y = self.norm1(x)
        x = summed(self.attn1(y, y, own, attending), x)
        out = self.attn2(self.norm2(x), context, cross, attending)
        x = summed(out, as_many(x, len(out)))
        return summed(self.ff(self.norm3(x)), x)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of an image (b c h w), with a residual around all.

    Where there are more rows of context, the picture is the same for several of them, and only
    here becomes as many.

    Args:
        linear: project in and out by a linear layer (SD 2.x, XL) or by a 1×1 convolution (SD 1.x).
    """

    def __init__(
        self,
        channels: int,
        context: int,
        heads: int,
        head_width: int,
        depth: int,
        linear: bool,
        groups: int,
        place: tuple[Literal["input", "middle", "output"], int],
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.linear = linear
        # 1e-6 here and in the VAE, 1e-5 in the residual blocks: so the published weights want it.
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in: nn.Module
        self.proj_out: nn.Module
        if linear:
            self.proj_in, self.proj_out = Linear(channels, inner), Linear(inner, channels)
        else:
            self.proj_in = Conv2d(channels, inner, 1)
            self.proj_out = Conv2d(inner, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, context, heads, head_width) for _ in range(depth)
        )
        self.sites = [
            (Site(*place, depth=i, kind="self"), Site(*place, depth=i, kind="cross"))
            for i in range(depth)
        ]

    def forward(self, x: Tensor, context: Tensor, attending: Attending) -> Tensor:
        h = x.shape[2]
        y = self.norm(x)
        if not self.linear:
            y = self.proj_in(y)
        y = rearrange(y, "b c h w -> b (h w) c")
        if self.linear:
            y = self.proj_in(y)
        for block, (own, cross) in zip(self.transformer_blocks, self.sites, strict=True):
            y = block(y, context, own, cross, attending)
        if self.linear:
            y = self.proj_out(y)
        y = rearrange(y, "b (h w) c -> b c h w", h=h)
        if not self.linear:
            # torch's own convolutions would keep to this layout from here on.
            y = self.proj_out(y if kernels.quick(y) else y.contiguous())
        return summed(y, as_many(x, len(y)))


def places_side_by_side(
    network: nn.Module, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Memory, by their names, for the weights of q, k and v of every layer that attends to what it
    is asked about: one after the other, so that one product may do for three."""
    places: dict[str, Tensor] = {}
    for path, layer in network.named_modules():
        if isinstance(layer, Attention) and layer.to_q.in_features == layer.to_k.in_features:
            whole = torch.empty(3, *layer.to_q.weight.shape, dtype=dtype, device=device)
            places |= {
                f"{path}.to_{of}.weight": part for of, part in zip("qkv", whole, strict=True)
            }
    return places


def naive_attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """`plain_attend` written out: quicker to differentiate on a CPU, and a test's oracle."""
    weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return weights @ v
