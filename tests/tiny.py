"""Tiny random models of the real classes under the real key names, for tests that need a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.models.family import CONFIG_KEY, UNET, VAE
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


def text_weights(seed: int = 2, width: int = WIDTH) -> dict[str, Tensor]:
    """A CLIP text encoder in transformers' names, below `text_model.`."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        spread = 1 / shape[-1] ** 0.5 if len(shape) > 1 else 0.1
        return torch.randn(shape, generator=generator) * spread

    weights = {
        "embeddings.token_embedding.weight": drawn(VOCABULARY, width),
        "embeddings.position_embedding.weight": drawn(POSITIONS, width) * 0.1,
        "final_layer_norm.weight": 1 + drawn(width),
        "final_layer_norm.bias": drawn(width),
    }
    for layer in range(LAYERS):
        place = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights[f"{place}self_attn.{part}.weight"] = drawn(width, width)
            weights[f"{place}self_attn.{part}.bias"] = drawn(width)
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"{place}{norm}.weight"] = 1 + drawn(width)
            weights[f"{place}{norm}.bias"] = drawn(width)
        weights[f"{place}mlp.fc1.weight"] = drawn(width * 4, width)
        weights[f"{place}mlp.fc1.bias"] = drawn(width * 4)
        weights[f"{place}mlp.fc2.weight"] = drawn(width, width * 4)
        weights[f"{place}mlp.fc2.bias"] = drawn(width)
    return {"text_model." + name: tensor for name, tensor in weights.items()}


def open_clip_weights(width: int, seed: int) -> dict[str, Tensor]:
    """The same kind of encoder in OpenCLIP's names, with a projection."""
    hf = {n.removeprefix("text_model."): t for n, t in text_weights(seed, width).items()}
    weights = {
        "token_embedding.weight": hf["embeddings.token_embedding.weight"],
        "positional_embedding": hf["embeddings.position_embedding.weight"],
        "ln_final.weight": hf["final_layer_norm.weight"],
        "ln_final.bias": hf["final_layer_norm.bias"],
        "text_projection": torch.eye(width) + hf["encoder.layers.0.self_attn.q_proj.weight"] * 0.1,
    }
    for layer in range(LAYERS):
        theirs, ours = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [hf[f"{ours}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            weights[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
            weights[f"{theirs}attn.out_proj.{kind}"] = hf[f"{ours}self_attn.out_proj.{kind}"]
            weights[f"{theirs}mlp.c_fc.{kind}"] = hf[f"{ours}mlp.fc1.{kind}"]
            weights[f"{theirs}mlp.c_proj.{kind}"] = hf[f"{ours}mlp.fc2.{kind}"]
            for n in "12":
                weights[f"{theirs}ln_{n}.{kind}"] = hf[f"{ours}layer_norm{n}.{kind}"]
    return weights


XL_NUMBERS = {"sdxl": 6, "sdxl-refiner": 5}


def unet_config_of(family: str, in_channels: int = 4) -> UNetConfig:
    """A tiny U-Net of each family."""
    linear = replace(UNET_CONFIG, in_channels=in_channels, linear_projection=True)
    if family == "sd1":
        return replace(UNET_CONFIG, in_channels=in_channels)
    if family == "sd2":
        return linear
    vector = WIDTH + 256 * XL_NUMBERS[family]
    if family == "sdxl":
        levels = replace(linear, multipliers=(1, 2, 2), depths=(0, 1, 2), middle_depth=2)
        return replace(levels, context=2 * WIDTH, vector=vector)
    return replace(linear, depths=(0, 1, 1, 0), vector=vector)


def checkpoint_tensors(family: str, in_channels: int = 4) -> dict[str, Tensor]:
    """Every tensor of a tiny single file of a family."""
    text: dict[str, Tensor] = {}
    match family:
        case "sd1":
            text = below("cond_stage_model.transformer.", text_weights())
        case "sd2":
            text = below("cond_stage_model.model.", open_clip_weights(WIDTH, 5))
        case "sdxl":
            text = below("conditioner.embedders.0.transformer.", text_weights())
            text |= below("conditioner.embedders.1.model.", open_clip_weights(WIDTH, 5))
        case "sdxl-refiner":
            text = below("conditioner.embedders.0.model.", open_clip_weights(WIDTH, 5))
    return {
        **below(UNET, tiny_unet(unet_config_of(family, in_channels)).state_dict()),
        **below(VAE, tiny_vae().state_dict()),
        **text,
    }


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def sd1_tensors() -> dict[str, Tensor]:
    """Every tensor of a tiny SD 1.x single file."""
    return checkpoint_tensors("sd1")


def write_sd1(path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """A tiny SD 1.x checkpoint at `path`."""
    return write_checkpoint(path, sd1_tensors() if tensors is None else tensors)


def write_checkpoint(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        path,
        metadata={CONFIG_KEY: json.dumps(CARD)},
    )
    return path
