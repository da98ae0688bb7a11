"""SD 1.x: one CLIP text encoder of transformers' layout, eps-prediction, 8 attention heads."""

from __future__ import annotations

from core.models.family import UNET, Family
from core.models.files import Header

TEXT = "cond_stage_model.transformer."


def matches(header: Header) -> bool:
    """A 4-channel U-Net that projects by convolutions, beside a CLIP of transformers' names."""
    first = UNET + "input_blocks.1.1."
    projection = header.shape(first + "proj_in.weight")
    channels = header.shape(UNET + "input_blocks.0.0.weight")
    embedding = header.shape(TEXT + "text_model.embeddings.token_embedding.weight")
    context = header.shape(first + "transformer_blocks.0.attn2.to_k.weight")
    return (
        projection is not None
        and len(projection) == 4
        and channels is not None
        and channels[1] == 4
        and embedding is not None
        and context is not None
        and context[1] == embedding[1]
    )


SD1 = Family(
    name="sd1",
    title="SD 1.x",
    size=512,
    matches=matches,
    text_prefix=TEXT,
    latent_scale=0.18215,
    heads=8,
)
