"""Image encoders that IP-Adapters look through: transformers' CLIP vision models, from local files.

A file holds transformers' names (`vision_model.…`, `visual_projection.weight`); the numbers are
read off the shapes, and off a `config.json` beside it where there is one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.errors import FileError
from core.images.hints import middle_square
from core.models.files import Header, read_tensors
from core.models.layouts import read_file_header

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's pictures were normalised by; arXiv:2103.00020."""
HEADS = {1024: 16, 1280: 16, 1664: 16}
"""Of the published towers wider than ViT-B; others have heads of 64 features."""
OPENAI_WIDTHS = (768, 1024)
"""Widths whose towers use OpenAI's quick gelu."""
MAX_CONFIG = 2**16


@dataclass(frozen=True)
class EncoderFacts:
    """The numbers of an encoder."""

    width: int
    projection: int
    layers: int
    inner: int
    patch: int
    image: int
    """Pixels on each side of what it sees."""


def encoder_facts(header: Header) -> EncoderFacts:
    """Raises FileError where the file is no encoder in transformers' names."""
    patch = header.shape("vision_model.embeddings.patch_embedding.weight")
    places = header.shape("vision_model.embeddings.position_embedding.weight")
    inner = header.shape("vision_model.encoder.layers.0.mlp.fc1.weight")
    projection = header.shape("visual_projection.weight")
    if not (patch and places and inner and projection) or len(patch) != 4:
        few = ", ".join(sorted(header.tensors)[:3]) or "none"
        raise FileError(
            f"{header.path.name} is no image encoder in transformers' names "
            f"(CLIPVisionModelWithProjection); its first tensors are: {few}"
        )
    found = (re.match(r"vision_model\.encoder\.layers\.(\d{1,3})\.", n) for n in header.tensors)
    return EncoderFacts(
        width=patch[0],
        projection=projection[0],
        layers=1 + max(int(match[1]) for match in found if match),
        inner=inner[0],
        patch=patch[2],
        image=round((places[0] - 1) ** 0.5) * patch[2],
    )


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """One encoder, ready to look."""

    name: str
    network: nn.Module
    facts: EncoderFacts

    def embedding(self, picture: Image) -> Tensor:
        """(1 projection) float32 of a picture as a whole."""
        return self._answer(self._pixels(picture)).image_embeds.float()

    def places(self, picture: Image | None) -> Tensor:
        """(1 n width) float32 of all places, one layer before the last; None: black pixels after
        normalising, which stand for no picture."""
        pixels = None if picture is None else self._pixels(picture)
        if pixels is None:
            side = self.facts.image
            pixels = torch.zeros(1, 3, side, side)
        return self._answer(pixels).hidden_states[-2].float()

    def _answer(self, pixels: Tensor) -> Any:
        one = next(self.network.parameters())
        return self.network(pixels.to(one), output_hidden_states=True)

    def _pixels(self, picture: Image) -> Tensor:
        """The middle square, normalised: (1 3 image image)."""
        mean, spread = (torch.tensor(t)[:, None, None] for t in (MEAN, SPREAD))
        return (middle_square(picture, self.facts.image) - mean) / spread


def read_image_encoder(path: Path, dtype: torch.dtype) -> ImageEncoder:
    """The encoder of a file, on the CPU.

    Raises:
        FileError: it can't be read, or is no such encoder, or lacks tensors.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    header = read_file_header(path)
    facts = encoder_facts(header)
    told = _config_beside(path)
    config = CLIPVisionConfig(
        hidden_size=facts.width,
        intermediate_size=facts.inner,
        projection_dim=facts.projection,
        num_hidden_layers=facts.layers,
        num_attention_heads=told.get("num_attention_heads")
        or HEADS.get(facts.width, max(1, facts.width // 64)),
        image_size=facts.image,
        patch_size=facts.patch,
        hidden_act=told.get("hidden_act")
        or ("quick_gelu" if facts.width in OPENAI_WIDTHS else "gelu"),
    )
    with torch.device("meta"):
        network = CLIPVisionModelWithProjection(config)
    wanted = network.state_dict().keys()
    # transformers has moved the tower's names below another one and back.
    own = {name: name if name in wanted else f"vision_model.{name}" for name in header.tensors}
    names = {old: new for old, new in own.items() if new in wanted}
    if missing := sorted(wanted - set(names.values())):
        raise FileError(f"{path.name} lacks {len(missing)} tensors: {', '.join(missing[:3])}")
    weights = {name: tensor.to(dtype) for name, tensor in read_tensors(header, names)}
    network.load_state_dict(weights, assign=True)
    # Numbers of places are computed, not stored, and lie on the meta device until now.
    for module in network.modules():
        if "position_ids" in module._buffers:
            count = module._buffers["position_ids"].shape[-1]
            module._buffers["position_ids"] = torch.arange(count)[None]
    network.eval().requires_grad_(False)
    return ImageEncoder(path.stem, network, facts)


def _config_beside(path: Path) -> dict[str, Any]:
    """The tower's numbers in a `config.json` in the same folder; {} where there is none."""
    config = path.parent / "config.json"
    try:
        if config.stat().st_size > MAX_CONFIG:
            return {}
        told = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    told = told.get("vision_config", told)
    return told if isinstance(told, dict) else {}
