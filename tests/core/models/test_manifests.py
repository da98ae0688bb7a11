"""Our networks against the names and shapes in real files: nothing missing, nothing unexplained."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from core.models.catalog import FAMILIES
from core.models.checkpoint import INPUTS
from core.models.family import UNET, VAE, Card, recognised, unet_config, vae_config
from core.models.files import Header, TensorInfo
from core.models.reading import DERIVED, LEFTOVER, text_encoder_of
from core.nn.unet import UNet, UNetConfig
from core.nn.vae import VAE as VAENetwork
from core.nn.vae import VAEConfig

FORMATS = Path(__file__).parents[2] / "formats"
CHECKPOINTS = {
    "sd15": "sd1",
    "sd15-fp16-pruned": "sd1",
    "sd15-inpaint": "sd1",
    "sd15-with-ema": "sd1",
    "sd2-depth": "sd2",
    "sd2-inpaint": "sd2",
    "sd21-base": "sd2",
    "sd21-v": "sd2",
    "sdxl-base": "sdxl",
    "sdxl-inpaint": "sdxl",
    "sdxl-vpred": "sdxl",
    "sdxl-refiner": "sdxl-refiner",
}
NOT_READ = re.compile(
    r"model_ema\."  # a second copy of the U-Net, or counters of training
    r"|depth_model\."  # the depth estimator of SD 2 depth
    r"|(v_pred|ztsnr)$"  # marks without content
    r"|denoiser\.sigmas$|.*(logit_scale|position_ids)$"
)


def manifest(name: str) -> dict[str, Any]:
    with gzip.open(FORMATS / f"{name}.json.gz", "rt") as file:
        keys = json.load(file)
    del keys["__info__"]
    return keys


def header_of(keys: dict[str, Any]) -> Header:
    tensors = {
        n: TensorInfo(dtype, tuple(shape), 0, 0, Path()) for n, (shape, dtype) in keys.items()
    }
    return Header(Path("manifest.safetensors"), tensors, {})


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_real_file_has_every_tensor_we_ask_for_and_none_unexplained(name: str) -> None:
    keys = manifest(name)
    header = header_of(keys)
    family = recognised(header, FAMILIES)
    assert family.name == CHECKPOINTS[name]
    with torch.device("meta"):
        parts = {
            UNET: UNet(unet_config(header, family.heads, Card())),
            VAE: VAENetwork(vae_config(header, Card())),
        }
    assert parts[UNET].config.in_channels in INPUTS
    explained = set()
    for prefix, network in parts.items():
        for tensor_name, tensor in network.state_dict().items():
            assert list(tensor.shape) == keys[prefix + tensor_name][0], tensor_name
            explained.add(prefix + tensor_name)
    for part in family.text:
        prefix = part.prefix(header)
        assert prefix is not None
        weights = {
            n[len(prefix) :]: torch.empty(shape, device="meta")
            for n, (shape, _) in keys.items()
            if n.startswith(prefix) and not n[len(prefix) :].startswith(LEFTOVER)
            if not n.endswith(DERIVED)
        }
        text_encoder_of(part, weights, None)  # raises for what is missing or not known
        explained |= {prefix + n for n in weights}
    rest = [n for n in keys if n not in explained and not NOT_READ.match(n)]
    assert all(keys[n][0] == [1000] for n in rest), rest  # the schedule, which is computed


def test_sd15_is_the_network_its_defaults_describe() -> None:
    header = header_of(manifest("sd15"))
    assert unet_config(header, 8, Card()) == UNetConfig()
    assert vae_config(header, Card()) == VAEConfig()


def test_xl_is_the_network_of_its_paper() -> None:
    """arXiv:2307.01952, table 1."""
    config = unet_config(header_of(manifest("sdxl-base")), None, Card())
    assert config.multipliers == (1, 2, 4)
    assert config.depths == (0, 2, 10)
    assert config.context == 2048
    assert config.vector == 2816
