"""Real LoRAs' names and shapes against the full-size networks: every layer has its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.adapters.lora import Lora, lora
from core.adapters.names import role_of
from core.adapters.patch import Use, applied, layers
from core.adapters.paths import diffusers_paths
from core.errors import AdapterError
from core.models.layouts import unet_names
from core.nn.unet import UNet
from tests.core.adapters.models import full_size
from tests.core.models.test_manifests import FORMATS, manifest

DTYPES = {"F16": torch.float16, "F32": torch.float32}
LORAS = sorted(path.name.removesuffix(".json.gz") for path in FORMATS.glob("lora-*.json.gz"))
BASES = {"SD 1.x": "sd15", "SDXL": "sdxl-base", "SD 2.x": "sd21-base"}


def lora_of(name: str) -> Lora:
    """With tensors of one number, which take no memory."""
    tensors = {
        key: torch.zeros((), dtype=DTYPES[dtype]).expand(shape)
        for key, (shape, dtype) in manifest(name).items()
    }
    return lora(name, tensors, {})


@pytest.mark.parametrize("name", LORAS)
def test_a_real_lora_has_no_layer_unexplained(name: str) -> None:
    found = lora_of(name)
    title = "SDXL" if "sdxl" in name else "SD 1.x"
    assert found.base.title == title
    report = applied(full_size(BASES[title]), Use(found))
    assert report.unmatched == ()
    named = {role[0] for key in manifest(name) if (role := role_of(key))}
    assert len(report.matched) == len(named)


@pytest.mark.parametrize("name", LORAS)
def test_a_real_lora_is_refused_by_another_family_with_its_own_named(name: str) -> None:
    title, other = ("SDXL", "sd15") if "sdxl" in name else ("SD 1.x", "sd21-base")
    with pytest.raises(AdapterError, match=f"(?=.*is for {title})(?=.*this model is SD)"):
        applied(full_size(other), Use(lora_of(name)))


@pytest.mark.parametrize("base", BASES.values())
def test_no_two_layers_are_spelled_alike(base: str) -> None:
    parts = full_size(base)
    table = layers(parts)
    count = sum("weight" in m._parameters for part in parts.values() for m in part.modules())
    assert len({id(layer.module) for layer in table.values()}) == count
    for name, layer in table.items():
        if name.startswith("lora_unet_"):
            endings = (layer.path.replace(".", "_"), _diffusers(parts, layer.path))
            assert name.removeprefix("lora_unet_") in endings


def _diffusers(parts: dict[str, nn.Module], path: str) -> str:
    unet = parts["unet"]
    assert isinstance(unet, UNet)
    return diffusers_paths(unet)[path].replace(".", "_")


@pytest.mark.parametrize(("base", "folder"), [("sd15", "sd15"), ("sdxl-base", "sdxl")])
def test_diffusers_names_are_those_of_diffusers_files(base: str, folder: str) -> None:
    """The map for checkpoints in diffusers' layout was made the other way round."""
    unet = full_size(base)["unet"]
    assert isinstance(unet, UNet)
    theirs = [n.rpartition(".")[0] for n in manifest(f"unet-{folder}-diffusers")]
    assert set(diffusers_paths(unet).values()) >= set(theirs)
    expected = {ours.rpartition(".")[0]: name for name, ours in _renamed(theirs).items()}
    paths = diffusers_paths(unet)
    assert {path: paths[path] for path in expected} == expected


def _renamed(paths: list[str]) -> dict[str, str]:
    full = unet_names([f"{path}.weight" for path in paths])
    return {name.rpartition(".")[0]: ours for name, ours in full.items()}
