"""Our networks against the names and shapes in real files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

from core.models.family import UNET, VAE, Card, unet_config, vae_config
from core.models.files import Header, TensorInfo
from core.models.sd1 import SD1, TEXT, matches
from core.nn.unet import UNet, UNetConfig
from core.nn.vae import VAE as VAENetwork
from core.nn.vae import VAEConfig

LEFT_BY_TRAINING = {"model_ema.decay", "model_ema.num_updates"}
FORMATS = Path(__file__).parents[2] / "formats"


def manifest(name: str) -> dict[str, Any]:
    with gzip.open(FORMATS / f"{name}.json.gz", "rt") as file:
        keys = json.load(file)
    del keys["__info__"]
    return keys


def header_of(keys: dict[str, Any]) -> Header:
    tensors = {n: TensorInfo(dtype, tuple(shape), 0, 0) for n, (shape, dtype) in keys.items()}
    return Header(Path("manifest.safetensors"), tensors, {})


def test_a_real_sd15_file_has_every_tensor_we_ask_for_and_none_unexplained() -> None:
    keys = manifest("sd15")
    header = header_of(keys)
    assert matches(header)
    unet, vae = unet_config(header, SD1.heads, Card()), vae_config(header, Card())
    assert unet == UNetConfig()
    assert vae == VAEConfig()
    with torch.device("meta"):
        parts = {UNET: UNet(unet), VAE: VAENetwork(vae)}
    explained = set()
    for prefix, network in parts.items():
        for name, tensor in network.state_dict().items():
            assert list(tensor.shape) == keys[prefix + name][0], name
            explained.add(prefix + name)
    rest = [n for n in keys if n not in explained and not n.startswith(TEXT)]
    schedule = [n for n in rest if keys[n][0] == [1000]]  # computed, not read
    assert len(schedule) == 12
    assert set(rest) - set(schedule) == LEFT_BY_TRAINING
