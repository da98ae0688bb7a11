"""A picture made larger on any side, the new area to be painted; torch is not needed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from core.errors import RequestError
from core.images.masks import fill_neighbouring
from core.images.pixels import MAX_PIXELS, MAX_SIDE, in_rgb

SEAM = 16
"""Pixels of the picture beside each new area that are blended with what is painted there."""


def extended(
    picture: Image.Image, left: int, top: int, right: int, bottom: int, seam: int = SEAM
) -> tuple[Image.Image, Image.Image]:
    """The picture on a larger canvas, and the mask (mode L) of what is to be painted.

    The new area has the colours of the picture's border spread into it. The mask is white there
    and falls to black over `seam` pixels of the picture, or half of it where it is smaller.

    Raises:
        RequestError: a number is negative, or the canvas would be too large.
    """
    sides = left, top, right, bottom
    if min(sides) < 0:
        raise RequestError(f"a picture can't grow by {min(sides)} pixels", "start.extend")
    width, height = left + picture.width + right, top + picture.height + bottom
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise RequestError(
            f"the picture would grow to {width} × {height}; a side may have {MAX_SIDE:,} pixels, "
            f"the whole {MAX_PIXELS:,}",
            "start.extend",
        )
    canvas = Image.new("RGB", (width, height))
    canvas.paste(in_rgb(picture), (left, top))
    new = Image.new("L", (width, height), 255)
    new.paste(0, (left, top, left + picture.width, top + picture.height))
    mask = np.maximum(
        _ramp(left, picture.width, right, seam)[None, :],
        _ramp(top, picture.height, bottom, seam)[:, None],
    )
    return fill_neighbouring(canvas, new), Image.fromarray(mask)


def _ramp(before: int, length: int, after: int, seam: int) -> np.ndarray:
    """(before + length + after,) levels: white outside the picture, falling inside."""
    inside = np.arange(length)
    reach = min(seam, length // 2)
    level = np.zeros(length)
    if before:
        level = np.maximum(level, 1 - (inside + 1) / (reach + 1))
    if after:
        level = np.maximum(level, 1 - (length - inside) / (reach + 1))
    levels = (255 * level).round().astype(np.uint8)
    return np.pad(levels, (before, after), constant_values=255)
