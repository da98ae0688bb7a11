"""What attention looked at, computed beside the output and never in its place.

Where each query looks is softmax(q kᵀ / √d), which no fast attention keeps. Here it is computed
once more, in pieces, and averaged at once over heads and layers, so that memory stays bounded.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from core.nn.attention import Attending, Site
from core.nn.unet import UNet

PIECE = 2**21
"""Weights that are in memory at a time, over all rows, heads and tokens: 8 MB of float32."""
FINEST = 32
"""Rows and columns of a map at most; a finer one is averaged down to it."""


Part: TypeAlias = Literal["input", "middle", "output"]


@dataclass(frozen=True, order=True)
class Group:
    """Layers whose maps are averaged: of one part of the network, at one resolution."""

    part: Part
    rows: int
    columns: int


class Watching:
    """Sums up the cross-attention of forward passes. A run without it costs nothing.

    Args:
        rows, columns: of the latents that the network is given.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._shapes = dict(_shapes(rows, columns))
        self._sums: dict[Group, Tensor] = {}
        self._layers: dict[Group, int] = {}

    def beside(self, attending: Attending) -> Attending:
        """The same way of attending, watched."""

        def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
            if site.kind == "cross":
                self._see(q, k, site)
            return attending.attend(q, k, v, site)

        return replace(attending, attend=attend)

    def maps(self) -> dict[Group, Tensor]:
        """(b m h w) float32 on the CPU: for each of b rows and each place, how much of its
        attention went to each of m tokens. Sums to 1 over them."""
        return {group: (total / self._layers[group]) for group, total in self._sums.items()}

    def _see(self, q: Tensor, k: Tensor, site: Site) -> None:
        rows, columns = self._shapes[q.shape[2]]
        group = Group(site.part, rows, columns)
        seen = rearrange(shares(q, k), "b (h w) m -> b m h w", h=rows)
        seen = _averaged_down(seen).cpu()
        self._sums[group] = self._sums[group] + seen if group in self._sums else seen
        self._layers[group] = self._layers.get(group, 0) + 1


def shares(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) averaged over heads, (b n m) float32, from (b heads n d), (b heads m d).

    arXiv:1706.03762, equation 1.
    """
    b, heads, _, d = q.shape
    keys = k.float().transpose(-1, -2) * d**-0.5
    piece = max(1, PIECE // (b * heads * k.shape[2]))
    means = [torch.softmax(part.float() @ keys, dim=-1).mean(1) for part in q.split(piece, dim=2)]
    return torch.cat(means, dim=1)


@dataclass(frozen=True, eq=False)
class BlockSeen:
    """What one numbered block of a U-Net gave on."""

    part: Part
    index: int
    shape: tuple[int, ...]
    """(c h w)."""
    seconds: float
    """Since the block before; on a GPU, which works ahead, only when its numbers were read."""
    map: Tensor
    """(h w) on the CPU: the mean strength of its channels at each place, of the first row."""


@contextlib.contextmanager
def blocks_watched(network: UNet) -> Iterator[list[BlockSeen]]:
    """The blocks of the forward passes within, in their order; the passes are as without it."""
    seen: list[BlockSeen] = []
    last = [time.perf_counter()]
    hooks = []

    def watched(layer: nn.Module, part: Part, index: int) -> None:
        def hook(_layer: nn.Module, _given: object, out: Tensor) -> None:
            strength = out[:1].float().abs().mean(1, keepdim=True)
            shown = _averaged_down(strength)[0, 0].cpu()
            now = time.perf_counter()
            seen.append(BlockSeen(part, index, tuple(out.shape[1:]), now - last[0], shown))
            last[0] = now

        hooks.append(layer.register_forward_hook(hook))

    parts: tuple[tuple[Part, nn.Module], ...] = (
        ("input", network.input_blocks),
        ("output", network.output_blocks),
    )
    try:
        for part, blocks in parts:
            for index, block in enumerate(blocks.children()):
                watched(list(block.children())[-1], part, index)
        watched(list(network.middle_block.children())[-1], "middle", 0)
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _averaged_down(maps: Tensor) -> Tensor:
    """(b m h w) with at most FINEST rows and columns."""
    rows, columns = maps.shape[-2:]
    coarse = math.ceil(max(rows, columns) / FINEST)
    if coarse == 1:
        return maps
    size = math.ceil(rows / coarse), math.ceil(columns / coarse)
    return functional.adaptive_avg_pool2d(maps, size)


def _shapes(rows: int, columns: int) -> list[tuple[int, tuple[int, int]]]:
    """(places, (rows, columns)) at each resolution of a network that halves and rounds up."""
    found = []
    while True:
        found.append((rows * columns, (rows, columns)))
        if rows == columns == 1:
            return found
        rows, columns = -(-rows // 2), -(-columns // 2)
