"""Models that lack a part: what they borrow, from whom, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.engine.answers import exhausted
from core.errors import FileError
from core.models.catalog import FAMILIES, Catalog
from core.models.family import Card, recognised, unet_config
from core.models.files import Header, TensorInfo
from core.models.layouts import read_model_header, unet_names
from core.models.store import Store
from core.settings import Settings, default_settings
from tests.core.models.test_layouts import ASKED, house_in, painted
from tests.core.models.test_manifests import header_of, manifest
from tests.core.nn.test_parity import diffusers_unet_keys
from tests.tiny import UNET_CONFIG, checkpoint_tensors, write_checkpoint

UNET = "model.diffusion_model."
TEXT = {
    "sd1": "cond_stage_model.",
    "sd2": "cond_stage_model.",
    "sdxl": "conditioner.",
    "sdxl-refiner": "conditioner.",
}


def unet_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(UNET) :]: t for name, t in tensors.items() if name.startswith(UNET)}


def other_unet() -> dict[str, Tensor]:
    return {name: tensor * 0.9 for name, tensor in unet_of(checkpoint_tensors("sd1")).items()}


def write(settings: Settings, name: str, tensors: dict[str, Tensor]) -> Path:
    path = settings.models_dir / f"Stable-diffusion/{name}.safetensors"
    return write_checkpoint(path, tensors)


LAYOUTS = {
    "bare": lambda unet: unet,
    "prefixed": lambda unet: {UNET + name: tensor for name, tensor in unet.items()},
    "model": lambda unet: {"model." + name: tensor for name, tensor in unet.items()},
    "diffusers": lambda unet: diffusers_unet_keys(unet, UNET_CONFIG),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_unet_alone_paints_with_the_rest_of_another_checkpoint(
    layout: str, tmp_path: Path
) -> None:
    settings = default_settings(tmp_path)
    whole = checkpoint_tensors("sd1")
    write(settings, "whole", whole)
    merged = whole | {UNET + name: tensor for name, tensor in other_unet().items()}
    write(settings, "merged", merged)
    write(settings, "alone", LAYOUTS[layout](other_unet()))
    house = house_in(tmp_path)
    expected = painted(house, replace(ASKED, checkpoint="merged"))
    assert painted(house, replace(ASKED, checkpoint="alone")) == expected
    assert painted(house, replace(ASKED, checkpoint="whole")) != expected
    model = exhausted(house.store.loaded("alone"))
    assert model.remarks == ("alone has no text encoder and VAE inside; merged's are used",)


def test_the_default_lends_its_parts_before_others(settings: Settings) -> None:
    for name in ("a", "b"):
        write(settings, name, checkpoint_tensors("sd1"))
    write(settings, "alone", other_unet())
    catalog = Catalog(replace(settings, checkpoint="b"))
    donor = catalog.checkpoint("alone").donor
    assert donor is not None
    assert donor.name == "b"


def test_only_a_fitting_checkpoint_of_the_family_lends(settings: Settings) -> None:
    write(settings, "v2", checkpoint_tensors("sd2"))
    write(settings, "alone", other_unet())
    catalog = Catalog(settings)
    with pytest.raises(FileError, match=r"no text encoder and no VAE inside.*SD 1\.x checkpoint"):
        catalog.checkpoint("alone")
    assert "alone" in catalog.unreadable()
    assert "alone" not in {c.name for c in catalog.checkpoints()}
    write(settings, "v1", checkpoint_tensors("sd1"))
    assert catalog.checkpoint("alone").donor is not None
    assert "alone" not in catalog.unreadable()


def test_a_new_donor_is_read_where_the_old_one_changed(settings: Settings) -> None:
    whole = checkpoint_tensors("sd1")
    path = write(settings, "whole", whole)
    write(settings, "alone", other_unet())
    store = Store(settings, Catalog(settings))
    first = exhausted(store.loaded("alone"))
    assert exhausted(store.loaded("alone")) is first
    name = next(n for n in whole if n.endswith("final_layer_norm.bias"))
    write_checkpoint(path, whole | {name: whole[name] + 1})
    assert exhausted(store.loaded("alone")) is not first


def test_a_text_encoder_alone_is_borrowed_and_the_own_vae_kept(settings: Settings) -> None:
    whole = checkpoint_tensors("sd1")
    write(settings, "whole", whole)
    bias = "first_stage_model.decoder.conv_out.bias"
    pruned = {n: t for n, t in whole.items() if not n.startswith(TEXT["sd1"])}
    write(settings, "pruned", pruned | {bias: whole[bias] + 1})
    model = exhausted(Store(settings, Catalog(settings)).loaded("pruned"))
    assert model.remarks == ("pruned has no text encoder inside; whole's is used",)
    assert torch.equal(model.vae.decoder.conv_out.bias, whole[bias] + 1)


def test_a_checkpoint_without_vae_asks_for_one(settings: Settings) -> None:
    whole = checkpoint_tensors("sd1")
    write(settings, "whole", whole)
    write(settings, "pruned", {n: t for n, t in whole.items() if "first_stage" not in n})
    catalog = Catalog(settings)
    assert catalog.checkpoint("pruned").lacks == ("VAE",)
    with pytest.raises(FileError, match=r"pruned.safetensors has no VAE inside; choose one"):
        exhausted(Store(settings, catalog).loaded("pruned"))


@pytest.mark.parametrize(
    ("name", "family"), [("unet-sd15-diffusers", "sd1"), ("unet-sdxl-diffusers", "sdxl")]
)
def test_real_unets_alone_are_recognised(name: str, family: str) -> None:
    keys = manifest(name)
    names = unet_names(keys)
    tensors = {
        UNET + names[old]: TensorInfo(dtype, tuple(shape), 0, 0, Path())
        for old, (shape, dtype) in keys.items()
    }
    header = Header(Path("unet.safetensors"), tensors, {})
    found = recognised(header, FAMILIES)
    assert found.name == family
    assert unet_config(header, found.heads, Card()).context == {"sd1": 768, "sdxl": 2048}[family]


@pytest.mark.parametrize(
    ("name", "family"),
    [("sd15", "sd1"), ("sd21-v", "sd2"), ("sdxl-base", "sdxl"), ("sdxl-refiner", "sdxl-refiner")],
)
def test_a_family_is_told_by_its_unet_alone(name: str, family: str) -> None:
    keys = {n: e for n, e in manifest(name).items() if n.startswith(UNET)}
    assert recognised(header_of(keys), FAMILIES).name == family


def test_text_encoders_alone_can_not_paint(settings: Settings) -> None:
    whole = checkpoint_tensors("sd1")
    path = write(settings, "text", {n: t for n, t in whole.items() if n.startswith(TEXT["sd1"])})
    with pytest.raises(FileError, match="no U-Net inside"):
        recognised(read_model_header(path), FAMILIES)


def test_memory_settings_without_effect_are_said_once(settings: Settings) -> None:
    for name in ("one", "other"):
        write(settings, name, checkpoint_tensors("sd1"))
    asked = replace(settings, memory="lowvram", device="cpu")
    store = Store(asked, Catalog(asked))
    assert exhausted(store.loaded("one")).remarks == (
        "lowvram has no effect on a CPU: there is one memory for everything",
    )
    assert exhausted(store.loaded("other")).remarks == ()
