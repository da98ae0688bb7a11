"""Tiny random models of the real classes under the real key names, for tests that need a file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.models.family import CONFIG_KEY, UNET, VAE
from core.models.sd1 import TEXT
from core.nn.unet import UNet, UNetConfig
from core.nn.vae import VAE as VAENetwork
from core.nn.vae import VAEConfig

UNET_CONFIG = UNetConfig(
    channels=32, multipliers=(1, 2, 2, 2), context=32, heads=None, head_width=16, groups=16
)
VAE_CONFIG = VAEConfig(channels=16, multipliers=(1, 2, 2, 2), groups=8)
CARD = {
    "unet": {"head_width": 16, "groups": 16},
    "vae": {"groups": 8},
    "text": {"heads": 2},
    "size": 64,
    "cfg_scale": 5.0,
    "steps": 6,
    "description": "random weights",
    "concepts": ["noise"],
    "examples": ["a noise on a noise"],
}
WIDTH, LAYERS, VOCABULARY, POSITIONS = 32, 2, 49408, 77


def seeded(module: nn.Module, seed: int, scale: float = 1.0) -> nn.Module:
    """The module with every parameter drawn from `seed`, lively but bounded."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                spread = scale / parameter[0].numel() ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            elif "norm" in name or name.endswith(("0.weight",)):
                parameter.copy_(1 + torch.randn(parameter.shape, generator=generator) * 0.1)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval().requires_grad_(False)


def tiny_unet(config: UNetConfig = UNET_CONFIG, seed: int = 0) -> UNet:
    unet = seeded(UNet(config), seed)
    assert isinstance(unet, UNet)
    return unet


def tiny_vae(config: VAEConfig = VAE_CONFIG, seed: int = 1) -> VAENetwork:
    vae = seeded(VAENetwork(config), seed)
    assert isinstance(vae, VAENetwork)
    return vae


def text_weights(seed: int = 2) -> dict[str, Tensor]:
    """A CLIP text encoder in transformers' names, below `text_model.`."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        spread = 1 / shape[-1] ** 0.5 if len(shape) > 1 else 0.1
        return torch.randn(shape, generator=generator) * spread

    weights = {
        "embeddings.token_embedding.weight": drawn(VOCABULARY, WIDTH),
        "embeddings.position_embedding.weight": drawn(POSITIONS, WIDTH) * 0.1,
        "final_layer_norm.weight": 1 + drawn(WIDTH),
        "final_layer_norm.bias": drawn(WIDTH),
    }
    for layer in range(LAYERS):
        place = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights[f"{place}self_attn.{part}.weight"] = drawn(WIDTH, WIDTH)
            weights[f"{place}self_attn.{part}.bias"] = drawn(WIDTH)
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"{place}{norm}.weight"] = 1 + drawn(WIDTH)
            weights[f"{place}{norm}.bias"] = drawn(WIDTH)
        weights[f"{place}mlp.fc1.weight"] = drawn(WIDTH * 4, WIDTH)
        weights[f"{place}mlp.fc1.bias"] = drawn(WIDTH * 4)
        weights[f"{place}mlp.fc2.weight"] = drawn(WIDTH, WIDTH * 4)
        weights[f"{place}mlp.fc2.bias"] = drawn(WIDTH)
    return {"text_model." + name: tensor for name, tensor in weights.items()}


def sd1_tensors() -> dict[str, Tensor]:
    """Every tensor of a tiny SD 1.x single file."""
    return {
        **{UNET + name: tensor for name, tensor in tiny_unet().state_dict().items()},
        **{VAE + name: tensor for name, tensor in tiny_vae().state_dict().items()},
        **{TEXT + name: tensor for name, tensor in text_weights().items()},
    }


def write_sd1(path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """A tiny SD 1.x checkpoint at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = sd1_tensors() if tensors is None else tensors
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in chosen.items()},
        path,
        metadata={CONFIG_KEY: json.dumps(CARD)},
    )
    return path
