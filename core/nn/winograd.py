"""3×3 convolutions in float32 by Winograd's way, F(2×2, 3×3): Lavin & Gray 2015, arXiv:1509.09308.

Four numbers of the answer come from a tile of 4×4: y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. Over channels
the product ⊙ is one of matrices for each of the sixteen places of a tile, with 16 multiplications
where a convolution has 36. As each of its sums is nine times shorter, it is rounded less than the
usual way. Weights are transformed anew at each call: to keep 16 numbers for 9 would cost memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from core.nn import kernels

CHANNELS = 256
"""Channels on both sides from which the products outweigh the tiles."""
NUMBERS = 3 * 2**18
"""Numbers of one picture, before and after together, from which it pays. How many pictures there
are has no say, so that each of a batch is what it is alone."""
PIECE = 2**24
"""Bytes of tiles that are in work at a time: rows enough for each product to be worth its call."""
BLOCK = 5 * 2**24
"""Bytes of transformed weights at a time."""
_SOME = 2**21
"""Bytes of weights that are transformed in one go, so that what that takes is in the cache."""

_spare: list[Tensor] = []
"""Memory for blocks, used again by the next layer: fresh memory takes longer than the sums."""

_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Block:
    """Some of the channels that come out."""

    start: int
    weights: Tensor
    """(16 out in): G g Gᵀ."""
    bias: Tensor | None


def worth(weight: Tensor, rows: int, columns: int) -> bool:
    """Whether this is the quicker way for a weight (out in 3 3) and an answer so large, on one
    thread and on several."""
    out, channels, *kernel = weight.shape
    return (
        weight.dtype == torch.float32
        and kernel == [3, 3]
        and min(out, channels) >= CHANNELS
        and rows * columns * (channels + out) >= NUMBERS
    )


def blocks(weight: Tensor, bias: Tensor | None) -> Iterator[Block]:
    """The weight, transformed, some channels at a time; each block is overwritten by the next."""
    with torch.inference_mode(False):  # else only inference mode might write over it later
        memory = _spare.pop() if _spare else weight.new_empty(BLOCK // 4)
    try:
        for start, stop in _cut(weight, BLOCK):
            into = memory[: 16 * weight[start:stop, :, 0, 0].numel()]
            yield _block(weight, bias, start, stop, into)
    finally:
        _spare.append(memory)


def kept(weight: Tensor, bias: Tensor | None) -> list[Block]:
    """The same in memory of its own."""
    return [
        _block(
            weight, bias, start, stop, weight.new_empty(16 * weight[start:stop, :, 0, 0].numel())
        )
        for start, stop in _cut(weight, BLOCK)
    ]


def _cut(weight: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Channels that come out, so many that their transformed weights take at most `most` bytes."""
    out, channels = weight.shape[:2]
    many = max(1, most // (64 * channels))
    for start in range(0, out, many):
        yield start, min(start + many, out)


def _block(weight: Tensor, bias: Tensor | None, start: int, stop: int, into: Tensor) -> Block:
    channels = weight.shape[1]
    g = weight.new_tensor(_G)
    both = torch.einsum("ij,kl->ikjl", g, g).reshape(16, 9)
    rows = into.view(16, -1)
    for first, last in _cut(weight[start:stop], _SOME):
        flat = weight[start + first : start + last].permute(2, 3, 0, 1).reshape(9, -1)
        torch.mm(both, flat, out=rows[:, first * channels : last * channels])
    shift = None if bias is None else bias[start:stop]
    return Block(start, into.view(16, stop - start, channels), shift)


def convolved(x: Tensor, by: Iterable[Block], out: int, padding: tuple[int, int]) -> Tensor:
    """(b c h w) convolved, with zeros round it as `padding` says: (b out rows columns), which lies
    in memory channels last."""
    b, channels, rows, columns = x.shape
    rows, columns = rows + 2 * padding[0] - 2, columns + 2 * padding[1] - 2
    tall, wide = (rows + 1) // 2, (columns + 1) // 2
    # Whole tiles: an odd row or column takes one more along, which is cut off.
    left, above = padding[1], padding[0]
    right, below = 2 * wide + 2 - x.shape[3] - left, 2 * tall + 2 - x.shape[2] - above
    answer = x.new_empty(b, 2 * tall, 2 * wide, out)
    many = max(1, PIECE // (64 * channels * wide))
    for block in by:
        for picture, into in zip(x.permute(0, 2, 3, 1), answer, strict=True):
            into = into[..., block.start : block.start + block.weights.shape[1]]
            for start in range(0, tall, many):
                stop = min(start + many, tall)
                first, last = 2 * start - above, 2 * stop + 2 - above
                lines = picture[max(0, first) : last]
                edge = (0, 0, left, right, max(0, -first), below if stop == tall else 0)
                tiles = _transformed(functional.pad(lines, edge), stop - start, wide)
                _put(into[2 * start : 2 * stop], _products(tiles, block), wide)
    return answer[:, :rows, :columns].permute(0, 3, 1, 2)


def _transformed(lines: Tensor, tall: int, wide: int) -> Tensor:
    """Bᵀ d B of every tile of (rows columns c): (16 tiles c)."""
    d = [lines[k : k + 2 * tall : 2] for k in range(4)]
    tiles = lines.new_empty(4, 4, tall, wide, lines.shape[2])
    for into, line in zip(tiles, (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]), strict=True):
        e = [line[:, k : k + 2 * wide : 2] for k in range(4)]
        torch.sub(e[0], e[2], out=into[0])
        torch.add(e[1], e[2], out=into[1])
        torch.sub(e[2], e[1], out=into[2])
        torch.sub(e[1], e[3], out=into[3])
    return tiles.view(16, tall * wide, -1)


def _products(tiles: Tensor, block: Block) -> list[Tensor]:
    """(tiles out) for each place of a tile. The bias goes in where it reaches all four answers."""
    return [
        kernels.linear(part, weight, block.bias if place == 5 else None)
        for place, (part, weight) in enumerate(zip(tiles, block.weights, strict=True))
    ]


def _put(into: Tensor, m: list[Tensor], wide: int) -> None:
    """Aᵀ m A of every tile, into (rows columns out)."""
    tall = len(into) // 2
    upper = [m[k].add_(m[4 + k]).add_(m[8 + k]) for k in range(4)]
    lower = [m[4 + k].sub_(m[8 + k]).sub_(m[12 + k]) for k in range(4)]
    for row, line in enumerate((upper, lower)):
        a, b, c, d = (part.view(tall, wide, -1) for part in line)
        torch.add(a.add_(b), c, out=into[row::2, 0::2])
        torch.sub(b.sub_(c), d, out=into[row::2, 1::2])
