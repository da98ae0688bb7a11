"""diffusers' layout and VAEs alone: the same model under other names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import FileError, RequestError
from core.events import ImageDone
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.family import VAE
from core.models.layouts import unet_names, vae_names
from core.models.store import Store
from core.nn.unet import UNetConfig
from core.nn.vae import VAEConfig
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import default_settings
from tests.core.models.test_manifests import manifest
from tests.core.nn.test_parity import diffusers_unet_keys, diffusers_vae_keys
from tests.tiny import (
    WIDTH,
    below,
    checkpoint_tensors,
    text_weights,
    tiny_unet,
    tiny_vae,
    write_checkpoint,
)

ASKED = GenerationRequest(
    prompt="an apple", checkpoint="tiny", seed=7, steps=2, width=64, height=32
)
UNET = "model.diffusion_model."


def house_in(root: Path) -> House:
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(built_in(), catalog, Store(settings, catalog))


def painted(house: House, request: GenerationRequest = ASKED) -> bytes:
    (done,) = [e for e in generate(request, house) if isinstance(e, ImageDone)]
    return done.image.tobytes()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("unet-sd15-diffusers", "sd15"), ("unet-sdxl-diffusers", "sdxl-base")],
)
def test_every_unet_name_of_diffusers_becomes_the_original_one(theirs: str, ours: str) -> None:
    original = {n: s for n, (s, _) in manifest(ours).items() if n.startswith(UNET)}
    keys = manifest(theirs)
    names = unet_names(keys)
    assert {UNET + new: keys[old][0] for old, new in names.items()} == original


def test_every_vae_name_of_diffusers_becomes_the_original_one() -> None:
    keys = manifest("vae-kl-f8-diffusers")
    original = {n: s for n, (s, _) in manifest("vae-kl-f8").items() if "model_ema" not in n}
    renamed = {new: keys[old][0] for old, new in vae_names(keys).items()}
    assert renamed.keys() == original.keys()
    for name, shape in original.items():
        assert shape == renamed[name] or shape == [*renamed[name], 1, 1], name


CONFIG = UNetConfig(channels=64, multipliers=(1, 1, 1, 1), context=WIDTH)
"""As small as SD 1.x's own 32 groups and 8 heads allow: a folder can't carry our card."""


def plain_tensors() -> dict[str, Tensor]:
    unet = tiny_unet(CONFIG)
    vae = tiny_vae(VAEConfig(channels=32, multipliers=(1, 1, 1, 1)))
    return {
        **below(UNET, unet.state_dict()),
        **below(VAE, vae.state_dict()),
        **below("cond_stage_model.transformer.", text_weights()),
    }


def write_folder(root: Path) -> None:
    """A tiny SD 1.x model as diffusers would store it."""
    tensors = plain_tensors()
    folder = root / "models/Stable-diffusion/tiny"

    def part(prefix: str) -> dict[str, Tensor]:
        return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}

    parts = {
        "unet": diffusers_unet_keys(part(UNET), CONFIG),
        "vae": diffusers_vae_keys(part(VAE)),
        "text_encoder": part("cond_stage_model.transformer."),
    }
    for name, weights in parts.items():
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        write_plain(folder / name / f"{stem}.safetensors", weights)
    (folder / "model_index.json").write_text("{}")
    (folder / "scheduler").mkdir()
    config = {"prediction_type": "epsilon"}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))


def write_plain(path: Path, weights: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True)
    save_file({name: t.contiguous().clone() for name, t in weights.items()}, path)


def test_a_folder_in_diffusers_layout_paints_what_the_single_file_paints(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    path = tmp_path / "single/models/Stable-diffusion/tiny.safetensors"
    write_plain(path, plain_tensors())
    assert painted(house_in(tmp_path / "folder")) == painted(house_in(tmp_path / "single"))


def test_a_folder_is_found_once_and_a_missing_part_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    house = house_in(tmp_path)
    names = [c.name for c in house.catalog.checkpoints()]
    assert names.count("tiny") == 1
    assert house.catalog.checkpoint("tiny").prediction == "eps"
    folder = tmp_path / "models/Stable-diffusion/tiny"
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    assert "no unet" in house_in(tmp_path).catalog.unreadable()["tiny"]


@pytest.mark.parametrize("layout", ["prefixed", "bare", "diffusers"])
def test_a_vae_of_its_own_takes_the_place_of_the_one_inside(layout: str, tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "models/Stable-diffusion/tiny.safetensors", checkpoint_tensors("sd1")
    )
    other = tiny_vae(seed=9).state_dict()
    stored = {
        "prefixed": {VAE + n: t for n, t in other.items()},
        "bare": {**other, "loss.logvar": torch.zeros(1)},
        "diffusers": diffusers_vae_keys(other),
    }[layout]
    write_checkpoint(tmp_path / "models/VAE/other.safetensors", stored)
    house = house_in(tmp_path)
    inside = painted(house)
    chosen = painted(house, replace(ASKED, vae="other"))
    assert chosen != inside
    assert painted(house) == inside
    expected = checkpoint_tensors("sd1") | {VAE + n: t for n, t in other.items()}
    write_checkpoint(tmp_path / "models/Stable-diffusion/merged.safetensors", expected)
    assert painted(house, replace(ASKED, checkpoint="merged")) == chosen


def test_a_vae_beside_its_checkpoint_is_used_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "models/Stable-diffusion"
    tensors = checkpoint_tensors("sd1")
    other = {VAE + n: t for n, t in tiny_vae(seed=9).state_dict().items()}
    write_checkpoint(folder / "merged.safetensors", tensors | other)
    pruned = {n: t for n, t in tensors.items() if not n.startswith(VAE)}
    write_checkpoint(folder / "tiny.safetensors", pruned)
    with pytest.raises(FileError, match="no VAE inside"):
        painted(house_in(tmp_path))
    write_checkpoint(folder / "tiny.vae.safetensors", other)
    house = house_in(tmp_path)
    assert [c.name for c in house.catalog.checkpoints()][:2] == ["merged", "tiny"]
    assert painted(house) == painted(house, replace(ASKED, checkpoint="merged"))


def test_an_unknown_vae_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "models/Stable-diffusion/tiny.safetensors", checkpoint_tensors("sd1")
    )
    write_checkpoint(tmp_path / "models/VAE/odd.safetensors", {"lora_x": torch.ones(2)})
    house = house_in(tmp_path)
    with pytest.raises(RequestError, match="odd"):
        painted(house, replace(ASKED, vae="nonesuch"))
    with pytest.raises(FileError, match="is no VAE"):
        painted(house, replace(ASKED, vae="odd"))
