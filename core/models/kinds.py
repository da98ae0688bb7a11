"""What model files are for, told by the names of their tensors; and where each kind belongs."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping

from core.models.files import Header


class Kind(enum.StrEnum):
    """What a model file is for, as people call it."""

    CHECKPOINT = "checkpoint"
    VAE = "VAE"
    LORA = "LoRA"
    EMBEDDING = "embedding"
    HYPERNETWORK = "hypernetwork"
    UPSCALER = "upscaler"
    CONTROLNET = "ControlNet"
    """A ControlNet, T2I adapter or IP adapter: what reads a picture beside the prompt."""
    IMAGE_ENCODER = "image encoder"
    """What an IP adapter sees a picture with."""
    TINY_VAE = "tiny VAE"
    """Makes small previews of latents."""
    DEPTH = "depth estimator"
    """Says how near each place of a picture is: transformers' file, its config.json beside it."""
    POSE = "pose estimator"
    """Says where the parts of a body are; likewise."""
    DETECTOR = "detector of people"
    """Says where in a picture people are; likewise."""

    @property
    def with_article(self) -> str:
        return f"{'an' if self[0] in 'eu' else 'a'} {self.value}"


FOLDERS: Mapping[Kind, tuple[str, ...]] = {
    Kind.CHECKPOINT: ("Stable-diffusion", "checkpoints", "diffusion_models", "unet"),
    Kind.VAE: ("VAE", "vae"),
    Kind.LORA: ("Lora", "LyCORIS", "loras"),
    Kind.EMBEDDING: ("embeddings", "../embeddings"),
    Kind.HYPERNETWORK: ("hypernetworks",),
    Kind.UPSCALER: ("ESRGAN", "RealESRGAN", "upscale_models"),
    Kind.CONTROLNET: ("ControlNet", "controlnet", "t2i_adapter", "ipadapter"),
    Kind.IMAGE_ENCODER: ("clip_vision",),
    Kind.TINY_VAE: ("VAE-approx", "vae_approx"),
    Kind.DEPTH: ("Depth", "depth"),
    Kind.POSE: ("Pose", "pose"),
    Kind.DETECTOR: ("Detection", "detection"),
}
"""A1111's names and ComfyUI's, below the models folder; the first is where a file belongs."""

_MARKS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        Kind.LORA,
        re.compile(
            r"^lora_(unet|te)|^lycoris_|lora_(down|up|mid|A|B)\b|\blora\.(down|up)\b"
            r"|lora_linear_layer|hada_[wt][12]|lokr_[wt][12]|to_\w+_lora\.|dora_scale$"
        ),
    ),
    (Kind.EMBEDDING, re.compile(r"^(emb_params|clip_[lg]|string_to_param\..*|<.*>)$")),
    (
        Kind.CONTROLNET,
        re.compile(
            r"^(control_model|input_hint_block|image_proj|ip_adapter|adapter\.body)\.|^controlnet_"
            r"|^lora_controlnet$|^body\.\d+\.(block1|resnets)\."
        ),
    ),
    (Kind.IMAGE_ENCODER, re.compile(r"^(vision_model\.|visual_projection\.|visual\.)")),
    (
        Kind.CHECKPOINT,
        re.compile(
            r"^(model\.)?(diffusion_model\.|input_blocks\.)|^down_blocks\.\d+\.resnets\."
            r"|^(cond_stage_model|conditioner)\."
        ),
    ),
    (Kind.VAE, re.compile(r"^(first_stage_model\.)?(en|de)coder\.(conv_in|down|up|mid)")),
    (Kind.HYPERNETWORK, re.compile(r"^\d+\.[01]\.linear")),
    (Kind.TINY_VAE, re.compile(r"^((en|de)coder\.)?(layers\.)?\d+\.conv\.\d\.weight$")),
    (
        Kind.UPSCALER,
        re.compile(
            r"^(model\.\d+\.|RRDB_trunk\.|conv_first\.|body\.\d+\.(rdb1\.|weight)|layers\.0\.)"
        ),
    ),
)


def kind_of(header: Header) -> Kind | None:
    """What a file is by the names in it; None where they tell nothing."""
    for kind, mark in _MARKS:
        if any(mark.search(name) for name in header.tensors):
            return kind
    few = 1 <= len(header.tensors) <= 2
    if few and all(len(info.shape) in (1, 2) for info in header.tensors.values()):
        return Kind.EMBEDDING  # diffusers: the tensor's name is the word itself
    return None


def place_of(kind: Kind) -> str:
    """The folder where files of a kind belong, as a person would say it."""
    return "embeddings" if kind is Kind.EMBEDDING else f"models/{FOLDERS[kind][0]}"


def misplaced(header: Header, wanted: Kind) -> str | None:
    """The sentence for a file that is of another kind; None if it may be of the wanted one."""
    kind = kind_of(header)
    if kind is None or kind is wanted:
        return None
    return (
        f"{header.path.name} is {kind.with_article}, not {wanted.with_article}: "
        f"put it into {place_of(kind)}"
    )
