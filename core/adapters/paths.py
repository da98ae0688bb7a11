"""A U-Net's layers under diffusers' names, read off the network itself."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from core.nn.attention import SpatialTransformer
from core.nn.blocks import Downsample, ResBlock, Upsample
from core.nn.unet import UNet

_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def diffusers_paths(unet: UNet) -> dict[str, str]:
    """Original path → diffusers' path, of every layer with weights."""
    starts = dict(_blocks(unet))
    paths = dict(_ENDS)
    for start, theirs in starts.items():
        block = unet.get_submodule(start)
        for path, module in block.named_modules():
            if "weight" in module._parameters:
                inner = _RESNET.get(path, path) if isinstance(block, ResBlock) else path
                inner = "conv" if isinstance(block, Downsample | Upsample) else inner
                paths[f"{start}.{path}"] = f"{theirs}.{inner}"
    return paths


def _blocks(unet: UNet) -> Iterator[tuple[str, str]]:
    yield from _numbered("input_blocks", "down_blocks", unet.input_blocks, Downsample)
    yield from _numbered("output_blocks", "up_blocks", unet.output_blocks, Upsample)
    resnets = 0
    for j, module in enumerate(unet.middle_block):
        if isinstance(module, SpatialTransformer):
            yield f"middle_block.{j}", "mid_block.attentions.0"
        else:
            yield f"middle_block.{j}", f"mid_block.resnets.{resnets}"
            resnets += 1


def _numbered(
    ours: str, theirs: str, blocks: nn.ModuleList, ends: type[nn.Module]
) -> Iterator[tuple[str, str]]:
    """The blocks of one side. A level ends with a layer of the kind `ends`."""
    kinds: dict[type[nn.Module], str] = {ResBlock: "resnets", SpatialTransformer: "attentions"}
    level = i = 0
    for n, block in enumerate(blocks):
        assert isinstance(block, nn.ModuleList)
        ended = False
        for j, module in enumerate(block):
            if isinstance(module, ends):
                sampler = "downsamplers" if ends is Downsample else "upsamplers"
                yield f"{ours}.{n}.{j}", f"{theirs}.{level}.{sampler}.0"
                ended = True
            elif kind := kinds.get(type(module)):
                yield f"{ours}.{n}.{j}", f"{theirs}.{level}.{kind}.{i}"
        if ended:
            level, i = level + 1, 0
        elif any(type(module) in kinds for module in block):
            i += 1
