"""Pictures that guide as the tensors that networks take."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from core.images.pixels import in_rgb


def hint_of(guide: Image.Image, channels: int) -> Tensor:
    """(1 channels H W) in [0, 1]; -1 where the guide is transparent.

    Args:
        channels: 3 for colours, 1 for brightness.
    """
    rgb = guide.convert("RGB")
    levels = np.asarray(rgb if channels == 3 else rgb.convert("L"), dtype=np.float32) / 255
    hint = torch.from_numpy(levels if channels == 3 else levels[..., None])
    if guide.mode == "RGBA":
        hint[torch.from_numpy(np.asarray(guide.getchannel("A")) == 0)] = -1
    return rearrange(hint, "H W c -> 1 c H W").contiguous()


def mask_of(mask: Image.Image | None) -> Tensor | None:
    """(1 1 H W) in [0, 1] of a mask of mode L; None for none."""
    if mask is None:
        return None
    return torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)[None, None]


def middle_square(picture: Image.Image, side: int) -> Tensor:
    """(1 3 side side) in [0, 1]: the largest square in the middle, scaled cubically."""
    rgb = in_rgb(picture)
    scale = side / min(rgb.size)
    width, height = (max(side, round(length * scale)) for length in rgb.size)
    large = rgb.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    levels = np.asarray(large.crop((left, top, left + side, top + side)), dtype=np.float32)
    return rearrange(torch.from_numpy(levels / 255), "H W c -> 1 c H W")
