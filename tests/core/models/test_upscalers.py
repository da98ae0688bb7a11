"""Upscaler files in every layout, and enlarging tile by tile as if there were no tiles."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from core.errors import FileError, NotFinite, OutOfMemory, RequestError
from core.images.pixels import pixels
from core.images.resize import enlarged
from core.models.upscalers import (
    LATENT_MODES,
    Upscaler,
    latent_upscaled,
    read_upscaler,
    upscaled,
)
from core.nn.upscale import CompactConfig, CompactNet, RRDBConfig, RRDBNet
from tests.tiny import seeded

CPU = torch.device("cpu")
T = TypeVar("T")


def rrdb(doublings: int = 2, unshuffle: int = 1, blocks: int = 2, seed: int = 0) -> RRDBNet:
    config = RRDBConfig(width=8, growth=4, blocks=blocks, doublings=doublings, unshuffle=unshuffle)
    network = seeded(RRDBNet(config), seed)
    assert isinstance(network, RRDBNet)
    return network


def second_edition(network: RRDBNet) -> dict[str, Tensor]:
    """ESRGAN's own names after its code was rewritten."""
    renamed = {}
    for name, tensor in network.state_dict().items():
        place = name.split(".")
        if place[0] == "body":
            name = f"RRDB_trunk.{place[1]}.RDB{place[2][-1]}.{'.'.join(place[3:])}"
        name = name.replace("conv_body", "trunk_conv").replace("conv_hr", "HRconv")
        renamed[name.replace("conv_up", "upconv")] = tensor
    return renamed


def first_edition(network: RRDBNet) -> dict[str, Tensor]:
    """The names of the first ESRGAN files: layers counted, with what has no weights."""
    ups = network.config.doublings
    places = {"conv_first": "model.0", "conv_body": f"model.1.sub.{network.config.blocks}"}
    places |= {f"conv_up{n}": f"model.{3 * n}" for n in range(1, ups + 1)}
    places |= {"conv_hr": f"model.{3 * ups + 2}", "conv_last": f"model.{3 * ups + 4}"}
    renamed = {}
    for name, tensor in network.state_dict().items():
        place = name.split(".")
        if place[0] == "body":
            _, block, dense, conv, kind = place
            renamed[f"model.1.sub.{block}.RDB{dense[-1]}.{conv}.0.{kind}"] = tensor
        else:
            renamed[f"{places[place[0]]}.{place[1]}"] = tensor
    return renamed


def under_module(network: RRDBNet) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in network.state_dict().items()}


LAYOUTS = {
    "Real-ESRGAN": lambda network: dict(network.state_dict()),
    "second edition": second_edition,
    "first edition": first_edition,
    "trained on several cards": under_module,
}


def written(path: Path, weights: dict[str, Tensor], container: str) -> Path:
    if container == "safetensors":
        path = path / "x.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
        return path
    path = path / "x.pth"
    others = {name: tensor + 1 for name, tensor in weights.items()}
    inside: Any = {
        "bare": weights,
        "params": {"params": weights},
        "params_ema": {"params": others, "params_ema": weights},
    }[container]
    torch.save(inside, path)
    return path


def finished(steps: Generator[Any, None, T]) -> T:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def batch() -> Tensor:
    return torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("container", ["bare", "params", "params_ema", "safetensors"])
def test_every_layout_in_every_container_is_the_same_network(
    tmp_path: Path, layout: str, container: str
) -> None:
    network = rrdb()
    path = written(tmp_path, LAYOUTS[layout](network), container)
    upscaler = read_upscaler(path, CPU, torch.float32)
    assert (upscaler.name, upscaler.scale) == ("x", 4)
    assert torch.equal(upscaler(batch()), network(batch()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("doublings", "unshuffle", "scale"),
    [(0, 1, 1), (1, 1, 2), (2, 1, 4), (3, 1, 8), (2, 2, 2), (2, 4, 1)],
)
def test_the_scale_is_read_off_the_shapes(
    tmp_path: Path, layout: str, doublings: int, unshuffle: int, scale: int
) -> None:
    network = rrdb(doublings, unshuffle, blocks=1)
    path = written(tmp_path, LAYOUTS[layout](network), "safetensors")
    upscaler = read_upscaler(path, CPU, torch.float32)
    assert upscaler.scale == scale
    assert torch.equal(upscaler(batch()), network(batch()))


@pytest.mark.parametrize("container", ["params", "safetensors"])
@pytest.mark.parametrize(("convolutions", "scale"), [(1, 1), (3, 2), (2, 4)])
def test_compact_files_are_read(
    tmp_path: Path, container: str, convolutions: int, scale: int
) -> None:
    config = CompactConfig(width=8, convolutions=convolutions, scale=scale)
    network = seeded(CompactNet(config), 2)
    upscaler = read_upscaler(written(tmp_path, network.state_dict(), container), CPU, torch.float32)
    assert upscaler.scale == scale
    assert torch.equal(upscaler(batch()), network(batch()))


def test_published_sizes_give_published_numbers() -> None:
    """RealESRGAN_x4plus.pth holds 16,697,987 numbers, realesr-general-x4v3.pth 1,213,296."""
    with torch.device("meta"):
        networks = RRDBNet(RRDBConfig()), CompactNet(CompactConfig(convolutions=32))
    assert [sum(p.numel() for p in n.parameters()) for n in networks] == [16_697_987, 1_213_296]


def test_half_precision_files_and_devices_agree(tmp_path: Path) -> None:
    network = rrdb()
    halves = {name: tensor.half() for name, tensor in network.state_dict().items()}
    path = written(tmp_path, halves, "safetensors")
    full = read_upscaler(path, CPU, torch.float32)(batch())
    half = read_upscaler(path, CPU, torch.bfloat16)(batch())
    assert half.dtype == torch.float32
    assert torch.allclose(full, half, atol=0.1)
    assert not torch.equal(full, half)


def changed(weights: dict[str, Tensor], **new: Tensor | None) -> dict[str, Tensor]:
    """With some tensors replaced, added, or taken away (None); `__` stands for a point."""
    merged = {**weights, **{name.replace("__", "."): tensor for name, tensor in new.items()}}
    return {name: tensor for name, tensor in merged.items() if tensor is not None}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"layers.0.residual_group.blocks.0.attn.qkv.weight": torch.ones(4, 4)}, "no upscaler"),
        ({"conv_first.weight": torch.ones(4, 3, 3, 3)}, "no upscaler"),
        ({"model.0.weight": torch.ones(4, 3, 3, 3)}, "no upscaler"),
        ({"model.0.weight": torch.ones(4), f"model.{'9' * 5000}.weight": torch.ones(1)}, "no"),
        (changed(rrdb().state_dict(), conv_first__weight=torch.ones(8, 0, 3, 3)), "no upscaler"),
        (changed(rrdb().state_dict(), conv_hr__weight=None), "'conv_hr.weight'"),
        (changed(rrdb().state_dict(), conv_hr__weight=torch.ones(8, 9, 3, 3)), "'conv_hr.weight'"),
        (changed(rrdb().state_dict(), norm__weight=torch.ones(8)), "'norm.weight'"),
        (changed(rrdb().state_dict(), conv_first__weight=torch.ones(8, 5, 3, 3)), "5 channels"),
        (
            changed(first_edition(rrdb()), model__1__sub__0__RDB1__conv1x1__weight=torch.ones(4)),
            "conv1x1",
        ),
        (
            {
                "body.0.weight": torch.ones(8, 3, 3, 3),
                "body.1.weight": torch.ones(8),
                "body.2.weight": torch.ones(5, 8, 3, 3),
            },
            "5 channels",
        ),
    ],
)
def test_what_is_not_understood_is_said_with_what_is(
    tmp_path: Path, weights: dict[str, Tensor], sentence: str
) -> None:
    path = written(tmp_path, weights, "safetensors")
    with pytest.raises(FileError, match=sentence) as raised:
        read_upscaler(path, CPU, torch.float32)
    for part in ("x.safetensors", "RRDBNet", "SRVGGNetCompact"):
        assert part in str(raised.value)


def test_what_is_no_model_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"<html>")
    with pytest.raises(FileError, match="HTML page"):
        read_upscaler(path, CPU, torch.float32)
    with pytest.raises(FileError, match="no such file"):
        read_upscaler(tmp_path / "y.pth", CPU, torch.float32)


def upscaler_of(network: nn.Module, scale: int) -> Upscaler:
    return Upscaler("tiny", network.eval().requires_grad_(False), scale, CPU, torch.float32)


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


class Sharp(nn.Module):
    """A 7 × 7 convolution of doubled pixels: it looks 3 pixels far."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 7, padding=3)
        seeded(self, 1, scale=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.conv(x), 2) + 0.5


@pytest.mark.parametrize("size", [(70, 53), (20, 90), (24, 24), (25, 24), (1, 1), (300, 1)])
@pytest.mark.parametrize(("tile", "overlap"), [(24, 12), (32, 17), (40, 30)])
def test_tiles_show_nothing_where_the_network_looks_no_further_than_a_quarter_overlap(
    size: tuple[int, int], tile: int, overlap: int
) -> None:
    upscaler, picture = upscaler_of(Sharp(), 2), noise(*size)
    width, height = size[0] * 2, size[1] * 2
    tiled = finished(upscaled(upscaler, picture, width, height, tile, overlap))
    whole = finished(upscaled(upscaler, picture, width, height, 1000, 0))
    assert tiled.size == (width, height)
    # rounding to levels may differ where a sum ends within 1e-5 of a half
    assert np.abs(levels(tiled) - levels(whole)).max() <= 1
    assert (levels(tiled) != levels(whole)).mean() < 1e-3
    answer = upscaler((pixels(picture) + 1)[None] / 2)[0]
    expected = (answer * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.array_equal(levels(whole), expected)


def test_a_deep_network_too_is_the_same_with_a_large_overlap() -> None:
    upscaler, picture = upscaler_of(rrdb(blocks=1), 4), noise(150, 90)
    tiled = finished(upscaled(upscaler, picture, 600, 360, 128, 80))
    whole = finished(upscaled(upscaler, picture, 600, 360, 1000, 0))
    assert np.abs(levels(tiled) - levels(whole)).max() <= 1
    assert (levels(tiled) != levels(whole)).mean() < 1e-3


class Edged(nn.Module):
    """Answers with the distance to the tile's left edge: tiles can't agree."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linspace(0, 1, x.shape[-1]).expand(1, 3, *x.shape[-2:])


def test_tiles_that_disagree_are_blended_without_a_step() -> None:
    upscaler, picture = upscaler_of(Edged(), 1), noise(192, 10)
    row = levels(finished(upscaled(upscaler, picture, 192, 10, 64, 32)))[5, :, 0]
    assert np.abs(np.diff(row)).max() < 255 / 8
    hard = levels(finished(upscaled(upscaler, picture, 192, 10, 64, 0)))[5, :, 0]
    assert np.abs(np.diff(hard)).max() == 255


def test_progress_counts_every_tile_once() -> None:
    steps = list(upscaled(upscaler_of(Sharp(), 2), noise(50, 30), 100, 60, 24, 8))
    assert steps == [(n, 6) for n in range(1, 7)]


def test_any_size_is_reached_exactly() -> None:
    double = upscaler_of(Sharp(), 2)
    for width, height in ((33, 21), (20, 14), (61, 200), (5, 5)):
        found = finished(upscaled(double, noise(10, 7), width, height))
        assert found.size == (width, height)


class Counting(nn.Module):
    """Doubles pixels and counts how often it is asked."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale, self.asked = scale, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return functional.interpolate(x, scale_factor=float(self.scale), mode="nearest")


@pytest.mark.parametrize(
    ("scale", "wanted", "asked"),
    [
        (2, 20, 1),
        (2, 21, 2),
        (2, 40, 2),
        (2, 79, 3),
        (2, 200, 3),
        (2, 5, 1),
        (4, 17, 1),
        (1, 30, 1),
    ],
)
def test_it_is_asked_until_the_picture_is_large_enough(scale: int, wanted: int, asked: int) -> None:
    network = Counting(scale)
    found = finished(upscaled(upscaler_of(network, scale), noise(10, 10), wanted, wanted))
    assert found.size == (wanted, wanted)
    assert network.asked == asked


def test_a_network_that_repeats_pixels_is_nearest() -> None:
    picture = noise(30, 20)
    found = finished(upscaled(upscaler_of(Counting(4), 4), picture, 120, 80, 16, 4))
    assert found.tobytes() == enlarged(picture, 120, 80, "Nearest").tobytes()


def test_what_would_become_too_large_is_refused_before_it_is_made() -> None:
    network = Counting(8)
    for size in ((20_000, 10), (9000, 9000)):
        with pytest.raises(RequestError, match="would become"):
            finished(upscaled(upscaler_of(network, 8), noise(10, 10), *size))
    with pytest.raises(RequestError, match="would become 24000 × 8"):
        finished(upscaled(upscaler_of(network, 8), noise(3000, 1), 4000, 2))
    assert network.asked == 0


class Small(Counting):
    """Has memory for so many pixels."""

    def __init__(self, room: int) -> None:
        super().__init__(2)
        self.room = room

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_where_memory_is_short_smaller_tiles_are_tried_once() -> None:
    picture = noise(64, 64)
    found = finished(upscaled(upscaler_of(Small(32 * 32), 2), picture, 128, 128, 64, 8))
    assert found.tobytes() == enlarged(picture, 128, 128, "Nearest").tobytes()
    with pytest.raises(OutOfMemory, match="tiles of 32 × 32"):
        finished(upscaled(upscaler_of(Small(31 * 31), 2), picture, 128, 128, 64, 8))


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


def test_numbers_that_are_none_make_no_picture() -> None:
    with pytest.raises(NotFinite, match="tiny answered"):
        finished(upscaled(upscaler_of(Broken(), 1), noise(4, 4), 4, 4))


@pytest.mark.parametrize("mode", LATENT_MODES)
def test_latents_are_enlarged_to_any_grid(mode: str) -> None:
    latents = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    found = latent_upscaled(latents, 9, 17, mode)
    assert found.shape == (2, 4, 9, 17)
    even = torch.full((1, 4, 6, 8), 0.7)
    assert torch.allclose(latent_upscaled(even, 12, 16, mode), torch.tensor(0.7))
    assert torch.equal(latent_upscaled(latents, 6, 8, "Latent (nearest)"), latents)


def test_antialiasing_shows_when_latents_are_made_smaller() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(16)[None, None, None].expand(1, 4, 32, 32)
    for plain, smooth in (
        ("Latent", "Latent (antialiased)"),
        ("Latent (bicubic)", "Latent (bicubic antialiased)"),
    ):
        most = [latent_upscaled(stripes, 32, 11, mode).abs().max() for mode in (plain, smooth)]
        assert most[1] < most[0] / 2


def test_an_unknown_mode_names_those_there_are() -> None:
    with pytest.raises(RequestError, match=r"Latent \(bicubic antialiased\)"):
        latent_upscaled(torch.zeros(1, 4, 2, 2), 4, 4, "Latent (magic)")
