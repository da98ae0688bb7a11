"""Pictures as networks that look at them are shown them, and what they say as pictures again.

What a network is asked, and what its answers mean, is not known here.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
Three = tuple[float, float, float]


def shown(
    picture: Image.Image,
    size: tuple[int, int],
    means: tuple[Three, Three] | None,
    resample: int = BILINEAR,
) -> Tensor:
    """(1 3 H W) of an RGB picture stretched to (width, height).

    Args:
        means: mean and spread of each colour that are taken out; None: it stays in [0, 1].
    """
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling(resample))
    levels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
    if means is not None:
        mean, spread = (torch.tensor(three) for three in means)
        levels = (levels - mean) / spread
    return rearrange(levels, "H W c -> 1 c H W")


def mirrored(picture: Image.Image, across: int, down: int) -> Image.Image:
    """With so many pixels more on each side, mirrored at the edges."""
    levels = np.asarray(picture)
    around = ((down, down), (across, across), (0, 0))
    if min(picture.size) > max(across, down):
        return Image.fromarray(np.pad(levels, around, mode="reflect"))
    return Image.fromarray(np.pad(levels, around, mode="edge"))


def window(
    picture: Image.Image,
    left_top: tuple[float, float],
    sides: tuple[float, float],
    size: tuple[int, int],
) -> Image.Image:
    """A box of a picture at (width, height); black outside the picture.

    The middles of the outermost pixels lie on the edges of the box (arXiv:1911.07524).
    """
    across, down = (side / (count - 1) for side, count in zip(sides, size, strict=True))
    left, top = left_top
    place = (across, 0, left + 0.5 - across / 2, 0, down, top + 0.5 - down / 2)
    return picture.transform(size, Image.Transform.AFFINE, place, BILINEAR)


def levels_of(found: Tensor) -> Image.Image:
    """Mode F of (H W) numbers, spread from 0 to 255; even ones are 0."""
    low, high = found.amin(), found.amax()
    return Image.fromarray(((found - low) * (255 / (high - low).clamp(min=1e-6))).numpy())
