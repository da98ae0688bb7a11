"""The models that are measured: read by our store as every request's are, and as diffusers' own.

Both hold the numbers of one file, so what they answer can be compared. The usual one is an SD 1.5
of real size with random weights, written once.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.engine.answers import exhausted
from core.models.catalog import Catalog, CheckpointFile
from core.models.checkpoint import Checkpoint
from core.models.family import UNET, VAE
from core.models.store import Store
from core.nn.unet import UNetConfig
from core.nn.vae import VAEConfig
from core.settings import Precision, Settings, default_settings


def written(folder: Path) -> Path:
    """The file of 2.1 GB in fp16, written if it is not there yet."""
    from tests.full_size import write_full_size

    path = folder / "models" / "Stable-diffusion" / "benchmark.safetensors"
    if not path.exists():
        unfinished = path.with_suffix(".tmp")
        write_full_size(unfinished, "sd15-fp16-pruned")
        os.replace(unfinished, path)
    return path


def lora_written(folder: Path) -> Path:
    """A LoRA of rank 16 over SD 1.5's 264 layers, written if it is not there yet."""
    from tests.full_size import manifest

    path = folder / "rank-16.safetensors"
    if not path.exists():
        generator = torch.Generator().manual_seed(3)
        tensors = {
            key: torch.randn(shape, generator=generator) * 0.01 if shape else torch.tensor(8.0)
            for key, (shape, _) in manifest("lora-kohya-sd15").items()
        }
        unfinished = path.with_suffix(".tmp")
        save_file(tensors, unfinished)
        os.replace(unfinished, path)
    return path


def settings_for(file: Path | None, folder: Path, precision: str = "float32") -> Settings:
    """A house on the CPU with this checkpoint as its default; None: the one that ships."""
    assert precision in get_args(Precision)
    as_asked = cast(Precision, precision)
    house = replace(
        default_settings(folder), device="cpu", precision=as_asked, vae_precision=as_asked
    )
    if file is None:
        return replace(house, checkpoint="pocket", models_dir=folder / "none")
    return replace(house, checkpoint=file.stem, checkpoints_dir=file.parent)


def found(file: Path | None, folder: Path) -> CheckpointFile:
    settings = settings_for(file, folder)
    return Catalog(settings).checkpoint(settings.checkpoint)


def ours(file: Path | None, folder: Path, precision: str) -> Checkpoint:
    settings = settings_for(file, folder, precision)
    assert settings.checkpoint is not None
    return exhausted(Store(settings, Catalog(settings)).loaded(settings.checkpoint))


def diffusers_unet(path: Path, config: UNetConfig, dtype: torch.dtype) -> Any:
    """diffusers' U-Net with the weights of a single safetensors file."""
    from tests.core.nn import test_parity as theirs

    with torch.device("meta"):
        network = theirs.diffusers_unet(config)
    return _filled(network, theirs.diffusers_unet_keys(_state(path, UNET), config), dtype)


def diffusers_vae(path: Path, config: VAEConfig, dtype: torch.dtype) -> Any:
    from tests.core.nn import test_parity as theirs

    with torch.device("meta"):
        network = theirs.diffusers_vae(config)
    return _filled(network, theirs.diffusers_vae_keys(_state(path, VAE)), dtype)


def _state(path: Path, prefix: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def _filled(network: nn.Module, named: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    placed = {name: tensor.reshape(shapes[name]).to(dtype) for name, tensor in named.items()}
    network.load_state_dict(placed, assign=True)
    return network.eval().requires_grad_(False)
