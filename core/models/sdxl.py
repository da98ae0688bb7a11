"""SDXL and its refiner: larger text encoders, and a vector of pooled text and picture sizes.

arXiv:2307.01952, section 2.2 (sizes and crops) and 2.5 (refiner).
"""

from __future__ import annotations

from core.models.family import UNET, Family, TextPart
from core.models.files import Header

ALIGNED = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
"""arXiv:2404.14507, the levels its authors publish for XL."""

CLIP_L = TextPart(("conditioner.embedders.0.transformer.",), layer=-2, final_norm=False)
BIG_G = TextPart(
    ("conditioner.embedders.1.model.",), "open_clip", layer=-2, final_norm=False, pooled=True
)
FOURTH_LEVEL = "input_blocks.9.0.op.weight"
REFINER_G = TextPart(
    ("conditioner.embedders.0.model.",), "open_clip", layer=-2, final_norm=False, pooled=True
)


def base_matches(header: Header) -> bool:
    """A U-Net of three levels that takes a vector."""
    return _takes_vector(header) and UNET + FOURTH_LEVEL not in header.tensors


def refiner_matches(header: Header) -> bool:
    """A U-Net of four levels that takes a vector."""
    return _takes_vector(header) and UNET + FOURTH_LEVEL in header.tensors


def _takes_vector(header: Header) -> bool:
    """Without attention at the first level: SD 2 unCLIP takes a vector as well, but has it."""
    return (
        UNET + "label_emb.0.0.weight" in header.tensors
        and UNET + "input_blocks.1.1.proj_in.weight" not in header.tensors
    )


def base_numbers(width: int, height: int, negative: bool) -> tuple[float, ...]:
    """Original height and width, crop from top and left, target height and width; pixels."""
    return (height, width, 0, 0, height, width)


def refiner_numbers(width: int, height: int, negative: bool) -> tuple[float, ...]:
    """Original height and width, crop, and an aesthetic score: 6.0, or 2.5 for the negative."""
    return (height, width, 0, 0, 2.5 if negative else 6.0)


SDXL = Family(
    name="sdxl",
    title="SDXL",
    size=1024,
    matches=base_matches,
    text=(CLIP_L, BIG_G),
    latent_scale=0.13025,
    numbers=base_numbers,
    empty_is_zero=True,
    aligned=ALIGNED,
)

SDXL_REFINER = Family(
    name="sdxl-refiner",
    title="SDXL refiner",
    size=1024,
    matches=refiner_matches,
    text=(REFINER_G,),
    latent_scale=0.13025,
    numbers=refiner_numbers,
    empty_is_zero=True,
    aligned=ALIGNED,
)
