"""The depth estimator of SD 2's depth checkpoints, and runs that it guides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from core.errors import RequestError
from core.events import Finished, Step
from core.generate import House, generate
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.models.depth import (
    PREFIX,
    depth_names,
    empty_estimator,
    has_estimator,
    normalised_depth,
    read_depth_estimator,
)
from core.models.files import read_header
from core.models.layouts import read_model_header
from core.models.store import Store
from core.passes import kept_intervals
from core.registry import built_in
from core.request import Enlarge, GenerationRequest, StartImage
from core.settings import default_settings
from tests.core.models import midas
from tests.core.models.test_manifests import header_of, manifest
from tests.tiny import checkpoint_tensors, write_checkpoint

WIDTHS = {"stem": 32, "stage": 128, "vit": 128, "fusion": 32}
LAYERS = 4
ASKED = GenerationRequest(
    prompt="an apple", checkpoint="depth", seed=7, steps=4, width=64, height=64, sampler="euler"
)


def test_every_tensor_of_the_published_estimator_has_its_place() -> None:
    header = header_of(manifest("sd2-depth"))
    assert has_estimator(header)
    names = depth_names(header.tensors)
    unread = [n for n in header.tensors if n.startswith(PREFIX) and n not in names]
    assert unread == [PREFIX + f"pretrained.model.head.{kind}" for kind in ("weight", "bias")]
    placed: dict[str, tuple[int, ...]] = {}
    for old, new in names.items():
        shape = header.tensors[old].shape
        if ".qkv." in new:
            third = (shape[0] // 3, *shape[1:])
            placed |= {new.replace("qkv", part): third for part in ("query", "key", "value")}
        else:
            placed[new] = shape
    wanted = {n: tuple(t.shape) for n, t in empty_estimator(header).state_dict().items()}
    assert placed == wanted


def estimator_tensors(seed: int = 0) -> dict[str, Tensor]:
    """A tiny estimator in the checkpoint's names, 32 pixels on each side."""
    generator = torch.Generator().manual_seed(seed)
    stem, stage, vit, fusion = WIDTHS.values()
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, vit),
        "pos_embed": (1, 5, vit),
        "patch_embed.backbone.stem.conv.weight": (stem, 3, 7, 7),
        "patch_embed.proj.weight": (vit, stage, 1, 1),
        "patch_embed.proj.bias": (vit,),
        "head.weight": (10, vit),
        "head.bias": (10,),
        "norm.weight": (vit,),
        "norm.bias": (vit,),
    }
    shapes |= norm("patch_embed.backbone.stem.norm", stem)
    for i in range(3):
        block = f"patch_embed.backbone.stages.{i}.blocks.0."
        given, inner = (stem if i == 0 else stage), stage // 4
        shapes |= {
            block + "downsample.conv.weight": (stage, given, 1, 1),
            block + "conv1.weight": (inner, given, 1, 1),
            block + "conv2.weight": (inner, inner, 3, 3),
            block + "conv3.weight": (stage, inner, 1, 1),
            **norm(block + "downsample.norm", stage),
            **norm(block + "norm1", inner),
            **norm(block + "norm2", inner),
            **norm(block + "norm3", stage),
        }
    for i in range(LAYERS):
        shapes |= {
            **norm(f"blocks.{i}.norm1", vit),
            **norm(f"blocks.{i}.norm2", vit),
            **linear(f"blocks.{i}.attn.qkv", 3 * vit, vit),
            **linear(f"blocks.{i}.attn.proj", vit, vit),
            **linear(f"blocks.{i}.mlp.fc1", 2 * vit, vit),
            **linear(f"blocks.{i}.mlp.fc2", vit, 2 * vit),
        }
    shapes = {"pretrained.model." + name: shape for name, shape in shapes.items()}
    for i in (3, 4):
        post = f"pretrained.act_postprocess{i}."
        shapes |= linear(post + "0.project.0", vit, 2 * vit)
        shapes |= linear(post + "3", vit, vit, 1, 1)
    shapes |= linear("pretrained.act_postprocess4.4", vit, vit, 3, 3)
    for i, width in enumerate((stage, stage, vit, vit), start=1):
        shapes[f"scratch.layer{i}_rn.weight"] = (fusion, width, 3, 3)
        fuse = f"scratch.refinenet{i}."
        shapes |= linear(fuse + "out_conv", fusion, fusion, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                shapes |= linear(f"{fuse}resConfUnit{unit}.conv{conv}", fusion, fusion, 3, 3)
    shapes |= linear("scratch.output_conv.0", fusion // 2, fusion, 3, 3)
    shapes |= linear("scratch.output_conv.2", 32, fusion // 2, 3, 3)
    shapes |= linear("scratch.output_conv.4", 1, 32, 1, 1)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.3 * torch.randn(shape, generator=generator)
        spread = 1 / float(np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        return torch.randn(shape, generator=generator) * spread + ("output_conv.4.b" in name) * 3

    return {PREFIX + name: drawn(name, shape) for name, shape in shapes.items()}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {name + ".weight": (width,), name + ".bias": (width,)}


def linear(name: str, out: int, given: int, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {name + ".weight": (out, given, *kernel), name + ".bias": (out,)}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    folder = root / "models/Stable-diffusion"
    tensors = checkpoint_tensors("sd2", 5)
    write_checkpoint(folder / "depth.safetensors", tensors | estimator_tensors())
    write_checkpoint(folder / "blind.safetensors", tensors)
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(built_in(), catalog, Store(settings, catalog), Inputs(root / "inputs"))


def ramp() -> Image.Image:
    levels = np.linspace(0, 255, 64)[None] * np.ones((64, 1))
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def noisy() -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def added(house: House, picture: Image.Image) -> str:
    assert house.inputs is not None
    return house.inputs.add(picture)


def test_an_estimator_says_something_of_every_place(house: House) -> None:
    path = house.catalog.checkpoint("depth").path
    estimator = read_depth_estimator(read_model_header(path))
    depth = estimator.depth(noisy())
    assert depth.shape == (1, 1, 32, 32)
    assert depth.std() > 1e-3
    assert not torch.equal(depth, estimator.depth(ramp()))


def read_depth(tensors: dict[str, Tensor], path: Path, given: Tensor) -> Tensor:
    """What our reader's network says of (1 3 h w) with a checkpoint's tensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    network = read_depth_estimator(read_header(path)).network
    with torch.inference_mode():
        return network(given).predicted_depth


def exchanged(one: str, other: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of two places in each other's."""

    def exchange(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        turned = {}
        for name, tensor in tensors.items():
            is_one = one in name
            meant = name.replace(one, other) if is_one else name.replace(other, one)
            turned[name] = tensors.get(meant, tensor)
        return turned

    return exchange


def turned_round(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    def turned(tensor: Tensor) -> Tensor:
        query, key, value = tensor.chunk(3)
        return torch.cat([key, value, query])

    return {name: turned(t) if ".qkv." in name else t for name, t in tensors.items()}


GIVEN = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(8)) * 2 - 1


@pytest.mark.parametrize("seed", [0, 1])
def test_its_numbers_are_those_of_the_network_as_its_papers_draw_it(
    seed: int, tmp_path: Path
) -> None:
    tensors = estimator_tensors(seed)
    wanted = midas.depth({n.removeprefix(PREFIX): t for n, t in tensors.items()}, GIVEN)
    assert wanted.std() > 1e-2
    found = read_depth(tensors, tmp_path / "depth.safetensors", GIVEN)
    assert (found - wanted).abs().max() / wanted.abs().max() < 1e-5


@pytest.mark.parametrize(
    "mistake",
    [
        exchanged("refinenet1", "refinenet4"),
        exchanged("refinenet2", "refinenet3"),
        exchanged("resConfUnit1", "resConfUnit2"),
        exchanged("resConfUnit2.conv1", "resConfUnit2.conv2"),
        exchanged("layer3_rn", "layer4_rn"),
        exchanged("act_postprocess3.0", "act_postprocess4.0"),
        exchanged("act_postprocess3.3", "act_postprocess4.3"),
        exchanged("blocks.0.attn", "blocks.1.attn"),
        exchanged("stages.1.blocks.0.norm1", "stages.1.blocks.0.norm2"),
        turned_round,
    ],
)
def test_every_mistake_in_the_order_of_parts_shows(
    mistake: Callable[[dict[str, Tensor]], dict[str, Tensor]], tmp_path: Path
) -> None:
    """The law above would see it: what is exchanged does not give the same numbers."""
    tensors = estimator_tensors()
    wanted = midas.depth({n.removeprefix(PREFIX): t for n, t in tensors.items()}, GIVEN)
    wrong = read_depth(mistake(tensors), tmp_path / "wrong.safetensors", GIVEN)
    assert (wrong - wanted).abs().max() / wanted.abs().max() > 1e-4


def test_depth_is_spread_over_the_whole_range() -> None:
    depth = torch.linspace(3, 9, 64)[None].expand(64, 64)[None, None]
    spread = normalised_depth(depth, 8, 8)
    assert (spread.min(), spread.max()) == (-1, 1)
    assert torch.allclose(spread, normalised_depth(depth * 7 + 2, 8, 8), atol=1e-5)
    assert (normalised_depth(torch.ones(1, 1, 8, 8), 4, 4) == 0).all()


def told(house: House, request: GenerationRequest, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What the U-Net was given as its fifth channel."""
    from core.nn.unet import UNet

    seen: list[Tensor] = []
    forward = UNet.forward

    def watched(self: UNet, x: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(x[:1, 4:].clone())
        return forward(self, x, *args, **options)

    monkeypatch.setattr(UNet, "forward", watched)
    list(generate(request, house))
    assert all(torch.equal(one, seen[0]) for one in seen)
    return seen[0]


def test_an_uploaded_map_goes_beside_the_latents(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = StartImage(picture=added(house, noisy()), depth=added(house, ramp()))
    given = told(house, replace(ASKED, start=start), monkeypatch)
    wanted = torch.linspace(-1, 1, 8).expand(1, 1, 8, 8)
    assert (given - wanted).abs().max() < 0.05


def test_without_a_map_the_checkpoint_estimates_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = house.catalog.checkpoint("depth").path
    estimator = read_depth_estimator(read_model_header(path))
    start = StartImage(picture=added(house, noisy()))
    given = told(house, replace(ASKED, start=start), monkeypatch)
    assert torch.equal(given, normalised_depth(estimator.depth(noisy()), 8, 8))


def test_depth_follows_a_strength_and_a_second_pass(house: House) -> None:
    start = StartImage(picture=added(house, noisy()), strength=0.5)
    events = list(generate(replace(ASKED, start=start), house))
    assert isinstance(events[-1], Finished)
    assert events[-1].evaluations == kept_intervals(0.5, ASKED.steps)
    whole = replace(ASKED, start=start, enlarge=Enlarge(scale=1.5, strength=0.5))
    last = [event for event in generate(whole, house) if isinstance(event, Step)][-1]
    assert last.pass_index == 1


def test_a_checkpoint_without_an_estimator_asks_for_a_map(house: House) -> None:
    start = StartImage(picture=added(house, noisy()))
    request = replace(ASKED, checkpoint="blind", start=start)
    with pytest.raises(RequestError, match="no depth estimator inside") as caught:
        list(generate(request, house))
    assert caught.value.field == "start.depth"
    mapped = replace(request, start=replace(start, depth=added(house, ramp())))
    assert isinstance(list(generate(mapped, house))[-1], Finished)
