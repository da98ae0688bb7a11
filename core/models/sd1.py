"""SD 1.x: one CLIP text encoder of transformers' layout, eps-prediction, 8 attention heads."""

from __future__ import annotations

from core.models.family import UNET, Family, TextPart
from core.models.files import Header

TEXT = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
"""Beside it the same U-Net is SD 2's, which some old files hold with convolutions."""


def matches(header: Header) -> bool:
    """A U-Net that projects by convolutions and takes no vector."""
    projection = header.shape(UNET + "input_blocks.1.1.proj_in.weight")
    return (
        projection is not None
        and len(projection) == 4
        and UNET + "label_emb.0.0.weight" not in header.tensors
        and not any(name.startswith(OPEN_CLIP) for name in header.tensors)
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
