"""The depth estimator inside SD 2's depth checkpoints: MiDaS's DPT-hybrid, by transformers.

arXiv:2103.13413 (DPT), arXiv:1907.01341 (MiDaS). Near is high.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from core.errors import FileError
from core.images.pixels import pixels
from core.models.files import Header, read_tensors

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

PREFIX = "depth_model.model."
UNREAD = ("pretrained.model.head.",)
"""What the estimator's backbone was trained with and depth does not need: names of 1000 things."""
HEAD_WIDTH = 64
_RULES = (
    (r"^pretrained\.model\.cls_token$", "dpt.embeddings.cls_token"),
    (r"^pretrained\.model\.pos_embed$", "dpt.embeddings.position_embeddings"),
    (r"^pretrained\.model\.patch_embed\.proj\.", "dpt.embeddings.projection."),
    (
        r"^pretrained\.model\.patch_embed\.backbone\.stem\.conv\.",
        "dpt.embeddings.backbone.bit.embedder.convolution.",
    ),
    (
        r"^pretrained\.model\.patch_embed\.backbone\.stem\.norm\.",
        "dpt.embeddings.backbone.bit.embedder.norm.",
    ),
    (
        r"^pretrained\.model\.patch_embed\.backbone\.stages\.(\d+)\.blocks\.",
        r"dpt.embeddings.backbone.bit.encoder.stages.\1.layers.",
    ),
    (r"^pretrained\.model\.norm\.", "dpt.layernorm."),
    (r"^pretrained\.model\.blocks\.(\d+)\.norm1\.", r"dpt.encoder.layer.\1.layernorm_before."),
    (r"^pretrained\.model\.blocks\.(\d+)\.norm2\.", r"dpt.encoder.layer.\1.layernorm_after."),
    (
        r"^pretrained\.model\.blocks\.(\d+)\.attn\.qkv\.",
        r"dpt.encoder.layer.\1.attention.attention.qkv.",
    ),
    (
        r"^pretrained\.model\.blocks\.(\d+)\.attn\.proj\.",
        r"dpt.encoder.layer.\1.attention.output.dense.",
    ),
    (r"^pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.", r"dpt.encoder.layer.\1.intermediate.dense."),
    (r"^pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.", r"dpt.encoder.layer.\1.output.dense."),
    (r"^scratch\.output_conv\.", "head.head."),
)
_INSIDE = {
    "out_conv": "projection",
    "resConfUnit1": "residual_layer1",
    "resConfUnit2": "residual_layer2",
    "conv1": "convolution1",
    "conv2": "convolution2",
}


def depth_names(names: Iterator[str] | Mapping[str, Any]) -> dict[str, str]:
    """Name in a checkpoint → transformers', for each tensor that is read.

    `…attention.qkv.…` stands for query, key and value, one below the other.
    """
    below = {n: n.removeprefix(PREFIX) for n in names if n.startswith(PREFIX)}
    return {old: _new(name) for old, name in below.items() if not name.startswith(UNREAD)}


def _new(name: str) -> str:
    if match := re.match(r"pretrained\.act_postprocess([34])\.(0\.project\.0|[34])\.(\w+)$", name):
        layer = int(match[1]) - 1
        if match[2].startswith("0"):
            return f"neck.reassemble_stage.readout_projects.{layer}.0.{match[3]}"
        part = "projection" if match[2] == "3" else "resize"
        return f"neck.reassemble_stage.layers.{layer}.{part}.{match[3]}"
    if match := re.match(r"scratch\.layer([1-4])_rn\.(\w+)$", name):
        return f"neck.convs.{int(match[1]) - 1}.{match[2]}"
    if match := re.match(r"scratch\.refinenet([1-4])\.(.+)$", name):
        inside = ".".join(_INSIDE.get(part, part) for part in match[2].split("."))
        return f"neck.fusion_stage.layers.{4 - int(match[1])}.{inside}"
    for pattern, new in _RULES:
        name, count = re.subn(pattern, new, name)
        if count:
            break
    return name


@dataclass(frozen=True, eq=False)
class DepthEstimator:
    """Says how near each place of a picture is."""

    network: PreTrainedModel

    def depth(self, picture: Image) -> Tensor:
        """(1 1 h w) float32 of the picture stretched to the estimator's own size; high is near."""
        side = self.network.config.image_size
        one = next(self.network.parameters())
        # transformers' network takes squares alone; cubic and not antialiased, as it was trained.
        given = functional.interpolate(pixels(picture)[None], size=(side, side), mode="bicubic")
        answer = self.network(given.clamp(-1, 1).to(one))
        return answer.predicted_depth.float()[:, None]


def has_estimator(header: Header) -> bool:
    return any(name.startswith(PREFIX) for name in header.tensors)


def depth_config(header: Header) -> Any:
    """transformers' configuration, from the shapes.

    Raises:
        FileError: a tensor is missing.
    """
    from transformers import BitConfig, DPTConfig

    def shape(name: str) -> tuple[int, ...]:
        found = header.shape(PREFIX + name)
        if found is None:
            raise FileError(f"{header.path.name}: its depth estimator lacks {name}")
        return found

    trunk = "pretrained.model.patch_embed.backbone."
    stages = [_count(header, rf"{trunk}stages\.{i}\.blocks\.") for i in range(3)]
    widths = [shape(f"{trunk}stages.{i}.blocks.0.conv3.weight")[0] for i in range(3)]
    layers = _count(header, r"pretrained\.model\.blocks\.")
    places, width = shape("pretrained.model.pos_embed")[1:]
    side = round((places - 1) ** 0.5)
    return DPTConfig(
        is_hybrid=True,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD_WIDTH),
        intermediate_size=shape("pretrained.model.blocks.0.mlp.fc1.weight")[0],
        image_size=side * 16,
        patch_size=16,
        layer_norm_eps=1e-6,
        readout_type="project",
        # The last two are read from the transformer, at three quarters and at its end.
        backbone_out_indices=[0, 1, layers * 3 // 4 - 1, layers - 1],
        neck_ignore_stages=[0, 1],
        neck_hidden_sizes=[shape(f"scratch.layer{i}_rn.weight")[1] for i in (1, 2, 3, 4)],
        fusion_hidden_size=shape("scratch.layer1_rn.weight")[0],
        reassemble_factors=[1, 1, 1, 0.5],
        backbone_featmap_shape=[1, widths[-1], side, side],
        backbone_config=BitConfig(
            global_padding="same",
            layer_type="bottleneck",
            depths=stages,
            embedding_size=shape(trunk + "stem.conv.weight")[0],
            hidden_sizes=widths,
            out_features=["stage1", "stage2", "stage3"],
            embedding_dynamic_padding=True,
        ),
        use_batch_norm_in_fusion_residual=False,
    )


def empty_estimator(header: Header) -> PreTrainedModel:
    """The network of a file's size, without memory."""
    from transformers import DPTForDepthEstimation

    config = depth_config(header)
    with torch.device("meta"):
        return DPTForDepthEstimation(config).eval()


def read_depth_estimator(header: Header) -> DepthEstimator:
    """The estimator inside a checkpoint, float32, on the CPU.

    Raises:
        FileError: it lacks tensors, or holds unknown ones, or of other shapes.
    """
    network = empty_estimator(header)
    weights: dict[str, Tensor] = {}
    for name, tensor in read_tensors(header, depth_names(header.tensors)):
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                weights[name.replace("qkv", part)] = third.float().clone()
        else:
            weights[name] = tensor.float()
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    path = header.path.name
    if wrong := sorted(n for n in wanted.keys() | weights.keys() if _differs(n, wanted, weights)):
        raise FileError(f"{path}: its depth estimator is not as it should be at {wrong[0]}")
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False)
    return DepthEstimator(network)


def _differs(name: str, wanted: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> bool:
    there = weights.get(name)
    return there is None or wanted.get(name) != there.shape


def _count(header: Header, pattern: str) -> int:
    found = (re.match(re.escape(PREFIX) + pattern + r"(\d{1,3})\.", n) for n in header.tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def normalised_depth(depth: Tensor, rows: int, columns: int) -> Tensor:
    """(1 1 H W) of any range, high is near -> (1 1 rows columns) in [-1, 1]; even depth is 0.

    As SD 2's depth model was trained: scaled first, then spread over the whole range.
    """
    scaled = functional.interpolate(depth.float(), size=(rows, columns), mode="bicubic")
    far, near = scaled.amin(), scaled.amax()
    if near - far < 1e-6:
        return torch.zeros_like(scaled)
    return 2 * (scaled - far) / (near - far) - 1
