"""How far two pictures of one size are from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Difference:
    """Of two pictures in 8 bits, over all pixels and colours."""

    most: int
    """The largest difference of two levels, 0 to 255."""
    mean: float
    """The mean one, in levels."""
    changed: float
    """Share of the pixels that are not equal, 0 to 1."""
    psnr: float | None
    """Peak signal to noise ratio in decibels; None: they are equal."""


def difference(one: Image, other: Image) -> Difference:
    """
    Raises:
        RequestError: they are not of one size.
    """
    if one.size != other.size:
        raise RequestError(f"a picture of {one.size} can't be compared with one of {other.size}")
    first, second = (np.asarray(p.convert("RGB"), dtype=np.int16) for p in (one, other))
    apart = np.abs(first - second)
    square = float(np.mean(np.square(apart, dtype=np.float64)))
    return Difference(
        most=int(apart.max()),
        mean=float(apart.mean()),
        changed=float(apart.any(axis=2).mean()),
        psnr=None if square == 0 else 10 * math.log10(255**2 / square),
    )
