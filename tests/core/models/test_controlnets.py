"""Files that guide: every published layout, and what is said about those that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import AdapterError, FileError
from core.models.catalog import FAMILIES
from core.models.controlnets import (
    GuideFile,
    Guiding,
    control_net,
    filled,
    ip_adapter,
    read_guide_file,
    recognised,
    t2i_adapter,
)
from core.models.family import Card, unet_config
from core.models.family import recognised as recognised_family
from core.nn.controlnet import ControlNet
from core.nn.ip_adapter import sites
from core.nn.unet import UNet, UNetConfig
from tests.core.models.test_manifests import header_of, manifest
from tests.core.nn.test_controlnet import (
    control_net as tiny_control_net,
)
from tests.core.nn.test_controlnet import (
    diffusers_adapter_keys,
    diffusers_control_keys,
)
from tests.core.nn.test_parity import TINY_UNETS
from tests.tiny import seeded

MANIFESTS = {
    "controlnet-sd15": ("sd15", Guiding.CONTROLNET),
    "controlnet-sd15-fp16": ("sd15", Guiding.CONTROLNET),
    "controlnet-sd15-diffusers": ("sd15", Guiding.CONTROLNET),
    "controlnet-sdxl-diffusers": ("sdxl-base", Guiding.CONTROLNET),
    "t2iadapter-sd15": ("sd15", Guiding.T2I_ADAPTER),
    "t2iadapter-sdxl": ("sdxl-base", Guiding.T2I_ADAPTER),
    "ipadapter-sd15": ("sd15", Guiding.IP_ADAPTER),
    "ipadapter-plus-sd15": ("sd15", Guiding.IP_ADAPTER),
    "ipadapter-sdxl": ("sdxl-base", Guiding.IP_ADAPTER),
    "ipadapter-sdxl-vit-h": ("sdxl-base", Guiding.IP_ADAPTER),
}
BUILD = {
    Guiding.CONTROLNET: control_net,
    Guiding.T2I_ADAPTER: t2i_adapter,
    Guiding.IP_ADAPTER: ip_adapter,
}


def unet_of(name: str) -> UNet:
    """The U-Net of a manifest, without memory."""
    header = header_of(manifest(name))
    family = recognised_family(header, FAMILIES)
    with torch.device("meta"):
        return UNet(unet_config(header, family.heads, Card()))


def built(file: GuideFile, unet: UNet) -> nn.Module:
    with torch.device("meta"):
        return BUILD[file.kind](file, unet)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_tensor_of_a_published_file_has_its_place_and_none_is_left(name: str) -> None:
    base, kind = MANIFESTS[name]
    keys = manifest(name)
    file = recognised(header_of(keys))
    assert file.kind is kind
    assert len(file.header.tensors) == len(keys)
    network = built(file, unet_of(base))
    wanted = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    assert {n: info.shape for n, info in file.header.tensors.items()} == wanted


def test_the_sites_of_an_ip_adapter_go_down_up_and_end_in_the_middle() -> None:
    found = [site for site, _ in sites(unet_of("sd15"))]
    assert [site.part for site in found] == ["input"] * 6 + ["output"] * 9 + ["middle"]
    assert {site.kind for site in found} == {"cross"}


@pytest.mark.parametrize("name", [n for n, (base, _) in MANIFESTS.items() if base != "sd15"])
def test_a_file_for_xl_gets_its_sentence_on_sd1(name: str) -> None:
    with pytest.raises(AdapterError, match="SDXL"):
        built(recognised(header_of(manifest(name))), unet_of("sd15"))


@pytest.mark.parametrize("name", [n for n, (base, _) in MANIFESTS.items() if base == "sd15"])
def test_a_file_for_sd1_gets_its_sentence_on_xl(name: str) -> None:
    with pytest.raises(AdapterError, match=r"SD 1\.x"):
        built(recognised(header_of(manifest(name))), unet_of("sdxl-base"))


def test_a_controlnet_for_sd2_is_told_from_one_for_sd1() -> None:
    with pytest.raises(AdapterError, match=r"made for SD 1\.x, and this checkpoint is of SD 2\.x"):
        built(recognised(header_of(manifest("controlnet-sd15"))), unet_of("sd21-base"))


CONFIG = TINY_UNETS["sd1"]


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path)
    return path


def loaded(path: Path, unet: UNet) -> nn.Module:
    file = read_guide_file(path)
    network = built(file, unet)
    filled(network, file, torch.float32, unet.state_dict())
    return network


def layouts(net: ControlNet, unet: UNet) -> dict[str, dict[str, Tensor]]:
    """One ControlNet as each layout stores it."""
    state = net.state_dict()
    own = unet.state_dict()
    difference = {n: t - own[n] if n in own else t for n, t in state.items()}
    below = {"control_model." + n: t for n, t in state.items()}
    whole = {"model.diffusion_model." + n: t for n, t in own.items()}
    return {
        "prefixed": below,
        "bare": dict(state),
        "diffusers": diffusers_control_keys(state, net.config),
        "whole model": below | whole,
        "difference": {"control_model." + n: t for n, t in difference.items()}
        | {"difference": torch.zeros(1)},
        "linear as convolution": {
            n: t[..., None, None] if "proj_in.weight" in n and t.ndim == 2 else t
            for n, t in below.items()
        },
    }


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_layout_reads_as_the_same_network(family: str, tmp_path: Path) -> None:
    unet = seeded(UNet(TINY_UNETS[family]), 0)
    assert isinstance(unet, UNet)
    net = tiny_control_net(TINY_UNETS[family])
    for name, tensors in layouts(net, unet).items():
        read = loaded(save(tmp_path / f"{name}.safetensors", tensors), unet).state_dict()
        for key, tensor in net.state_dict().items():
            torch.testing.assert_close(read[key], tensor, atol=1e-6, rtol=0)


def test_half_precision_and_torch_files_are_read(tmp_path: Path) -> None:
    unet = seeded(UNet(CONFIG), 0)
    assert isinstance(unet, UNet)
    net = tiny_control_net(CONFIG)
    halves = {"control_model." + n: t.half() for n, t in net.state_dict().items()}
    torch.save(halves, tmp_path / "half.pth")
    read = loaded(tmp_path / "half.pth", unet).state_dict()
    for name, tensor in net.state_dict().items():
        assert torch.equal(read[name], tensor.half().float())


def test_a_t2i_adapter_in_diffusers_names_is_the_same(tmp_path: Path) -> None:
    from core.nn.t2i_adapter import AdapterConfig, T2IAdapter

    widths = tuple(CONFIG.channels * m for m in CONFIG.multipliers)
    net = seeded(T2IAdapter(AdapterConfig(1, 8, widths)), 3)
    unet = seeded(UNet(CONFIG), 0)
    assert isinstance(unet, UNet)
    for name, tensors in (
        ("plain", net.state_dict()),
        ("theirs", diffusers_adapter_keys(net.state_dict())),
    ):
        read = loaded(save(tmp_path / f"{name}.safetensors", tensors), unet).state_dict()
        assert all(torch.equal(read[key], tensor) for key, tensor in net.state_dict().items())


def control_tensors() -> dict[str, Tensor]:
    return dict(tiny_control_net(CONFIG).state_dict())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("zero_convs.3.0.weight"), r"lacks 1 tensors: zero_convs\.3\.0\.weight"),
        (lambda t: t.update(stranger=torch.ones(1)), "unknown tensors: stranger"),
        (lambda t: t.update({"time_embed.0.bias": torch.ones(3)}), "other shapes"),
        (lambda t: t.update(lora_controlnet=torch.ones(1)), "a Control-LoRA"),
        (lambda t: t.update(task_embedding=torch.ones(1)), "a union ControlNet"),
    ],
)
def test_damaged_and_foreign_files_get_their_sentence(change, sentence, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tensors = control_tensors()
    change(tensors)
    unet = seeded(UNet(CONFIG), 0)
    assert isinstance(unet, UNet)
    with pytest.raises((FileError, AdapterError), match=sentence):
        loaded(save(tmp_path / "net.safetensors", tensors), unet)


def test_what_guides_nothing_is_said_to(tmp_path: Path) -> None:
    path = save(tmp_path / "lora.safetensors", {"lora_unet_x.lora_down.weight": torch.ones(1, 2)})
    with pytest.raises(FileError, match=r"is a LoRA, not a ControlNet.*IP-Adapter"):
        read_guide_file(path)


def test_a_network_of_another_width_is_refused(tmp_path: Path) -> None:
    other = UNetConfig(channels=64, multipliers=(1, 2, 2, 2), context=24, heads=8)
    unet = seeded(UNet(other), 0)
    assert isinstance(unet, UNet)
    with pytest.raises(AdapterError, match="32 channels, and this checkpoint's has 64"):
        loaded(save(tmp_path / "net.safetensors", control_tensors()), unet)
