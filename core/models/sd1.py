"""SD 1.x: one CLIP text encoder of transformers' layout, eps-prediction, 8 attention heads."""

from __future__ import annotations

from core.models.family import UNET, Family, TextPart
from core.models.files import Header

TEXT = "cond_stage_model.transformer."


def matches(header: Header) -> bool:
    """A U-Net that projects by convolutions, beside a CLIP of transformers' names."""
    projection = header.shape(UNET + "input_blocks.1.1.proj_in.weight")
    return (
        projection is not None
        and len(projection) == 4
        and any(name.startswith(TEXT) for name in header.tensors)
    )


SD1 = Family(
    name="sd1",
    title="SD 1.x",
    size=512,
    matches=matches,
    text=(TextPart((TEXT,)),),
    latent_scale=0.18215,
    heads=8,
)
