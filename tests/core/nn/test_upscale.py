"""The networks that enlarge pictures, against their papers' equations and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.nn.upscale import CompactConfig, CompactNet, RRDBConfig, RRDBNet
from tests.tiny import seeded

SMALL = RRDBConfig(width=8, growth=4, blocks=2)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def without(network: nn.Module, *parts: str) -> nn.Module:
    """The network with the weights of some parts at 0."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(part in name for part in parts):
                parameter.zero_()
    return network


@pytest.mark.parametrize(
    ("doublings", "unshuffle", "scale"),
    [(0, 1, 1), (1, 1, 2), (2, 1, 4), (3, 1, 8), (2, 2, 2), (2, 4, 1)],
)
@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 1)])
def test_sides_grow_by_the_scale(
    doublings: int, unshuffle: int, scale: int, size: tuple[int, int]
) -> None:
    config = RRDBConfig(width=8, growth=4, blocks=1, doublings=doublings, unshuffle=unshuffle)
    assert config.scale == scale
    answer = seeded(RRDBNet(config), 0)(picture(*size))
    assert answer.shape == (1, 3, size[0] * scale, size[1] * scale)
    assert answer.isfinite().all()


def test_rrdb_is_what_the_paper_draws() -> None:
    """arXiv:1809.00219, figure 4, written out with the network's own weights."""
    network = seeded(RRDBNet(SMALL), 3)
    weights = network.state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        return functional.conv2d(x, weights[name + ".weight"], weights[name + ".bias"], padding=1)

    def lrelu(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def dense(x: Tensor, place: str) -> Tensor:
        x1 = lrelu(conv(x, place + "conv1"))
        x2 = lrelu(conv(torch.cat((x, x1), 1), place + "conv2"))
        x3 = lrelu(conv(torch.cat((x, x1, x2), 1), place + "conv3"))
        x4 = lrelu(conv(torch.cat((x, x1, x2, x3), 1), place + "conv4"))
        return x + 0.2 * conv(torch.cat((x, x1, x2, x3, x4), 1), place + "conv5")

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    pixels = picture(6, 5)
    first = x = conv(pixels, "conv_first")
    for block in range(2):
        inner = x
        for n in (1, 2, 3):
            inner = dense(inner, f"body.{block}.rdb{n}.")
        x = x + 0.2 * inner
    x = first + conv(x, "conv_body")
    x = lrelu(conv(doubled(x), "conv_up1"))
    x = lrelu(conv(doubled(x), "conv_up2"))
    expected = conv(lrelu(conv(x, "conv_hr")), "conv_last")
    assert torch.allclose(network(pixels), expected, atol=1e-5)


def test_folding_keeps_every_pixel() -> None:
    """A folded network that only passes colours on gives the picture back."""
    config = RRDBConfig(width=48, growth=1, blocks=1, doublings=2, unshuffle=4)
    network = RRDBNet(config)
    with torch.no_grad():
        without(network, "")
        # The colour of the pixel in the middle of each fold, to every pixel of the fold.
        for colour in range(3):
            place = colour * 16 + 2 * 4 + 1
            network.conv_first.weight[colour, place, 1, 1] = 1
        for part in ("conv_up1", "conv_up2", "conv_hr", "conv_last"):
            weight = network.get_submodule(part).weight
            assert isinstance(weight, Tensor)
            for colour in range(3):
                weight[colour, colour, 1, 1] = 1
        answer = network(picture(8, 12))
    middle = picture(8, 12)[:, :, 2::4, 1::4]
    assert torch.equal(answer, middle.repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_compact_network_without_details_repeats_pixels(scale: int) -> None:
    config = CompactConfig(width=8, convolutions=2, scale=scale)
    last = f"body.{2 * config.convolutions + 2}."
    network = without(seeded(CompactNet(config), 0), last)
    pixels = picture(5, 7)
    expected = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(network(pixels), expected)


def test_compact_details_are_laid_out_in_place() -> None:
    """The last layer's bias alone: channel c·s² + y·s + x is colour c at (y, x) of each patch."""
    network = without(CompactNet(CompactConfig(width=4, convolutions=1, scale=2)), "")
    details = torch.arange(12.0)
    with torch.no_grad():
        network.get_parameter("body.4.bias").copy_(details)
        answer = network(torch.zeros(1, 3, 3, 2))
    patch = details.reshape(3, 2, 2)
    assert torch.equal(answer[0], patch.repeat(1, 3, 2))


def test_compact_is_convolutions_with_a_slope_for_each_channel() -> None:
    network = seeded(CompactNet(CompactConfig(width=6, convolutions=1, scale=2)), 5)
    weights = network.state_dict()
    x = pixels = picture(4, 5)
    for n in (0, 2, 4):
        weight, bias = weights[f"body.{n}.weight"], weights[f"body.{n}.bias"]
        x = functional.conv2d(x, weight, bias, padding=1)
        if n < 4:
            slope = weights[f"body.{n + 1}.weight"][:, None, None]
            x = x.clamp(min=0) + slope * x.clamp(max=0)
    expected = functional.pixel_shuffle(x, 2) + functional.interpolate(pixels, scale_factor=2)
    assert torch.allclose(network(pixels), expected, atol=1e-6)
