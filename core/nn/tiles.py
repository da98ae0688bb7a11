"""A network over a picture too large for it: in overlapping tiles, blended where they meet.

It knows nothing of what the network computes. Whatever looks at the whole picture (a norm over all
places, attention) looks at one tile at a time here, so tiles are not the whole to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 4
"""Neighbours share at least a tile's side divided by this."""


@dataclass(frozen=True)
class Cells:
    """What one cell of the grid that tiles are cut along covers: so many places on each side."""

    given: int
    """Of what goes in."""
    answered: int
    """Of what comes out."""


def tiled(run: Callable[[Tensor], Tensor], given: Tensor, cells: Cells, tile: int) -> Tensor:
    """`run` over tiles of `given`, put together again.

    The outermost quarter of an overlap counts for nothing, the half between fades smoothly. So a
    `run` whose answers look no further than a sixteenth of a tile comes to what it would have come
    to whole. Where a single tile holds everything, `run` is simply called.

    Args:
        run: (b c h w) -> (b d h' w'), each side `cells.answered / cells.given` of what it was.
        given: (b c h w), sides that are whole cells.
        tile: cells on each side of a tile at most; 8 or more.
    """
    rows, columns = (side // cells.given for side in given.shape[-2:])
    if max(rows, columns) <= tile:
        return run(given)
    answer: Tensor | None = None
    for top, height, down in spans(rows, tile, cells.answered):
        for left, width, across in spans(columns, tile, cells.answered):
            part = given[..., _slice(top, height, cells.given), _slice(left, width, cells.given)]
            seen = run(part).float()
            if answer is None:
                sides = rows * cells.answered, columns * cells.answered
                answer = seen.new_zeros(*seen.shape[:2], *sides)
            place = answer[
                ..., _slice(top, height, cells.answered), _slice(left, width, cells.answered)
            ]
            place += seen * down.to(seen)[:, None] * across.to(seen)
    assert answer is not None
    return answer


def spans(length: int, tile: int, fine: int) -> list[tuple[int, int, Tensor]]:
    """Where tiles lie along a side of `length` cells: first cell, how many, and the weight of each
    place (of which a cell has `fine`). All have the same size, the least that so many tiles allow;
    at every place the weights sum to 1.
    """
    if length <= tile:
        return [(0, length, torch.ones(length * fine))]
    overlap = max(1, tile // OVERLAP)
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    sums = torch.zeros(length * fine)
    weights = []
    for start in starts:
        weight = _window(size * fine, overlap * fine, start > 0, start + size < length)
        sums[_slice(start, size, fine)] += weight
        weights.append(weight)
    return [
        (start, size, weight / sums[_slice(start, size, fine)])
        for start, weight in zip(starts, weights, strict=True)
    ]


def _window(length: int, overlap: int, fades_in: bool, fades_out: bool) -> Tensor:
    """(length,) in [0, 1]: a smooth rise in the middle half of the overlap, and the same fall."""
    places = torch.arange(length) + 0.5
    share = ((places / overlap - 0.25) * 2).clamp(0, 1)
    rise = share * share * (3 - 2 * share)
    window = torch.ones(length)
    if fades_in:
        window = window * rise
    return window * rise.flip(0) if fades_out else window


def _slice(first: int, count: int, fine: int) -> slice:
    return slice(first * fine, (first + count) * fine)


def wrapped(given: Tensor, cells: int) -> Tensor:
    """(b c h w) with `cells` more on every side, of what lies on the opposite one."""
    rows, columns = (torch.arange(-cells, side + cells) % side for side in given.shape[-2:])
    return given[..., rows.to(given.device), :][..., columns.to(given.device)]
