"""Edges of grey pictures: Sobel's slopes and Canny's thin lines, in numpy alone."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.float32]
Levels: TypeAlias = NDArray[np.uint8]


def gradients(grey: Field) -> tuple[Field, Field]:
    """Slopes to the right and downwards (H W), by Sobel's weights (1 2 1); borders mirrored."""
    around = np.pad(grey, 1, mode="reflect" if min(grey.shape) > 1 else "edge")
    down = around[:-2] + 2 * around[1:-1] + around[2:]
    across = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    return down[:, 2:] - down[:, :-2], across[2:] - across[:-2]


def canny(grey: Levels, low: float, high: float) -> Levels:
    """Thin edges, 255 on 0.

    John Canny, "A computational approach to edge detection", 1986: pixels whose slope (the sum of
    both, under Sobel's weights) is a maximum across the edge, above `high`, or above `low` and
    connected to one above `high`.
    """
    across, down = gradients(grey.astype(np.float32))
    slope = np.abs(across) + np.abs(down)
    thin = np.where(_is_crest(across, down, slope), slope, 0)
    return (_connected(thin > high, thin > low) * 255).astype(np.uint8)


def _is_crest(across: Field, down: Field, slope: Field) -> NDArray[np.bool_]:
    """Whether a pixel's slope is the highest of three along its own direction."""
    around = np.pad(slope, 1)
    rows, columns = slope.shape

    def beside(dy: int, dx: int) -> Field:
        return around[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]

    tangent = np.tan(np.pi / 8)
    flat, steep = np.abs(down) <= np.abs(across) * tangent, np.abs(across) <= np.abs(down) * tangent
    falling = np.sign(across) == np.sign(down)
    crest = np.zeros(slope.shape, dtype=bool)
    for chosen, (dy, dx) in (
        (flat, (0, 1)),
        (~flat & steep, (1, 0)),
        (~flat & ~steep & falling, (1, 1)),
        (~flat & ~steep & ~falling, (1, -1)),
    ):
        # One side strictly: of two equal neighbours just one stays.
        crest |= chosen & (slope > beside(-dy, -dx)) & (slope >= beside(dy, dx))
    return crest


def _connected(seeds: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All of `allowed` that touches `seeds`, over any number of pixels, corners included."""
    width = allowed.shape[1] + 2
    left = np.pad(allowed, 1).ravel()
    front = np.flatnonzero(np.pad(seeds, 1))
    reached = np.zeros_like(left)
    reached[front], left[front] = True, False
    steps = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    while front.size:
        near = (front[:, None] + steps).ravel()
        front = np.unique(near[left[near]])
        reached[front], left[front] = True, False
    return reached.reshape(-1, width)[1:-1, 1:-1]
