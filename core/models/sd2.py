"""SD 2.x: OpenCLIP's ViT-H, read one layer before its end; eps- or v-prediction."""

from __future__ import annotations

from core.models.family import UNET, Family, TextPart
from core.models.files import Header

TEXT = TextPart(
    ("cond_stage_model.model.", "conditioner.embedders.0.model."), "open_clip", layer=-2
)


def matches(header: Header) -> bool:
    """A U-Net that projects by linear layers and takes no vector."""
    projection = header.shape(UNET + "input_blocks.1.1.proj_in.weight")
    return (
        projection is not None
        and UNET + "label_emb.0.0.weight" not in header.tensors
        and (len(projection) == 2 or TEXT.prefix(header) is not None)
    )


SD2 = Family(
    name="sd2",
    title="SD 2.x",
    size=512,
    matches=matches,
    text=(TEXT,),
    latent_scale=0.18215,
    may_predict_v=True,
)
