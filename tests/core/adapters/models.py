"""Tiny models of each family, and the full-size ones without memory, as LoRAs see them."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from core.models.families import FAMILIES
from core.models.family import Card, recognised, unet_config
from core.nn.unet import UNet
from core.text.encoders import TextEncoder, clip_text_model, open_clip_text_model
from tests.core.models.test_manifests import header_of, manifest
from tests.tiny import WIDTH, open_clip_weights, text_weights, tiny_unet, unet_config_of


def parts_of(family: str = "sd1", dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    """A tiny model's networks, fresh each time."""
    unet: nn.Module = tiny_unet(unet_config_of(family))
    encoders: list[TextEncoder] = []
    if family != "sd2":
        encoders.append(clip_text_model(text_weights(), heads=2))
    if family != "sd1":
        encoders.append(open_clip_text_model(open_clip_weights(WIDTH, 5), heads=2))
    names = ["text"] if len(encoders) == 1 else ["text_1", "text_2"]
    parts = {"unet": unet, **dict(zip(names, encoders, strict=True))}
    return {name: part.to(dtype) for name, part in parts.items()}


@cache
def full_size(name: str) -> dict[str, nn.Module]:
    """The networks of a real checkpoint by its manifest, on the meta device."""
    keys = manifest(name)
    header = header_of(keys)
    family = recognised(header, FAMILIES)
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {"unet": UNet(unet_config(header, family.heads, Card()))}
    for number, part in enumerate(family.text, start=1):
        prefix = part.prefix(header)
        assert prefix is not None
        weights = {
            n[len(prefix) :]: torch.empty(shape, device="meta")
            for n, (shape, _) in keys.items()
            if n.startswith(prefix) and not n.endswith("logit_scale")
        }
        build = open_clip_text_model if part.layout == "open_clip" else clip_text_model
        encoder = build(weights, pooled=part.pooled)
        parts["text" if len(family.text) == 1 else f"text_{number}"] = encoder
    return parts
