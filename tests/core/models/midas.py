"""MiDaS's DPT-hybrid as its papers draw it, over a checkpoint's own names: a second way to the same
numbers. arXiv:2103.13413 (DPT), arXiv:1912.11370 (BiT, the trunk), arXiv:2010.11929 (ViT).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as f

GROUPS = 32
HEAD_WIDTH = 64

Weights = Mapping[str, Tensor]


def depth(w: Weights, x: Tensor) -> Tensor:
    """(1 h w) of x (1 3 h w): the whole network, from names below "depth_model.model."."""
    trunk = "pretrained.model.patch_embed.backbone."
    x = standardised(w, trunk + "stem.conv", x, stride=2)
    x = normed(w, trunk + "stem.norm", x).relu()
    x = f.max_pool2d(padded(x, 3, 2), 3, 2)
    seen = []
    for number in range(3):
        x = stage(w, f"{trunk}stages.{number}.", x, 1 if number == 0 else 2)
        seen.append(x)
    first, second = seen[:2]
    third, fourth = transformer(w, x)
    third = conv(w, "pretrained.act_postprocess3.3", readout(w, 3, third, x))
    fourth = conv(w, "pretrained.act_postprocess4.3", readout(w, 4, fourth, x))
    fourth = conv(w, "pretrained.act_postprocess4.4", fourth, stride=2)
    path = None
    for number, layer in ((4, fourth), (3, third), (2, second), (1, first)):
        path = fused(w, number, conv(w, f"scratch.layer{number}_rn", layer), path)
    assert path is not None
    out = doubled(conv(w, "scratch.output_conv.0", path))
    out = conv(w, "scratch.output_conv.2", out).relu()
    return conv(w, "scratch.output_conv.4", out).relu()[:, 0]


def stage(w: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    number = 0
    while f"{name}blocks.{number}.conv1.weight" in w:
        block, step = f"{name}blocks.{number}.", stride if number == 0 else 1
        beside = x
        if block + "downsample.conv.weight" in w:
            beside = standardised(w, block + "downsample.conv", x, step)
            beside = normed(w, block + "downsample.norm", beside)
        y = normed(w, block + "norm1", standardised(w, block + "conv1", x)).relu()
        y = normed(w, block + "norm2", standardised(w, block + "conv2", y, step)).relu()
        x = (normed(w, block + "norm3", standardised(w, block + "conv3", y)) + beside).relu()
        number += 1
    return x


def transformer(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out at three quarters of the blocks and at their end: (1 1+n d)."""
    name = "pretrained.model."
    tokens = rearrange(conv(w, name + "patch_embed.proj", x), "1 d h w -> 1 (h w) d")
    tokens = torch.cat([w[name + "cls_token"], tokens], 1) + w[name + "pos_embed"]
    outs = []
    while (block := f"{name}blocks.{len(outs)}.") + "norm1.weight" in w:
        y = layer_normed(w, block + "norm1", tokens)
        q, k, v = linear(w, block + "attn.qkv", y).chunk(3, dim=-1)
        q, k, v = (rearrange(t, "1 n (heads d) -> heads n d", d=HEAD_WIDTH) for t in (q, k, v))
        looked = ((q @ k.transpose(1, 2)) / HEAD_WIDTH**0.5).softmax(-1) @ v
        tokens = tokens + linear(w, block + "attn.proj", rearrange(looked, "m n d -> 1 n (m d)"))
        y = f.gelu(linear(w, block + "mlp.fc1", layer_normed(w, block + "norm2", tokens)))
        tokens = tokens + linear(w, block + "mlp.fc2", y)
        outs.append(tokens)
    return outs[len(outs) * 3 // 4 - 1], outs[-1]


def readout(w: Weights, number: int, tokens: Tensor, like: Tensor) -> Tensor:
    """Each place is told what stands for the whole."""
    places, whole = tokens[:, 1:], tokens[:, :1]
    both = torch.cat([places, whole.expand_as(places)], dim=-1)
    said = f.gelu(linear(w, f"pretrained.act_postprocess{number}.0.project.0", both))
    return rearrange(said, "1 (h w) d -> 1 d h w", h=like.shape[-2])


def fused(w: Weights, number: int, layer: Tensor, path: Tensor | None) -> Tensor:
    name = f"scratch.refinenet{number}."
    out = layer if path is None else path + unit(w, name + "resConfUnit1.", layer)
    return conv(w, name + "out_conv", doubled(unit(w, name + "resConfUnit2.", out)))


def unit(w: Weights, name: str, x: Tensor) -> Tensor:
    return x + conv(w, name + "conv2", conv(w, name + "conv1", x.relu()).relu())


def doubled(x: Tensor) -> Tensor:
    return f.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def conv(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = w[name + ".weight"]
    return f.conv2d(x, weight, w.get(name + ".bias"), stride, weight.shape[-1] // 2)


def standardised(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution whose weights have mean 0 and variance 1; arXiv:1903.10520."""
    weight = w[name + ".weight"]
    mean = weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), keepdim=True, unbiased=False)
    weight = (weight - mean) / (variance + 1e-6).sqrt()
    return f.conv2d(padded(x, weight.shape[-1], stride), weight, stride=stride)


def padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """As TensorFlow's "same": the odd pixel comes last."""
    more = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[:1:-1]]
    return f.pad(x, [part for one in more for part in (one // 2, one - one // 2)])


def normed(w: Weights, name: str, x: Tensor) -> Tensor:
    return f.group_norm(x, GROUPS, w[name + ".weight"], w[name + ".bias"], 1e-5)


def layer_normed(w: Weights, name: str, x: Tensor) -> Tensor:
    return f.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)
