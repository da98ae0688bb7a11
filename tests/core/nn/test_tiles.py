"""Tiles: the whole again, wherever a network looks no further than they overlap."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.nn.seamless import seamless
from core.nn.tiles import OVERLAP, Cells, spans, tiled, wrapped
from tests.tiny import seeded, tiny_vae

DECODING, ENCODING, SAME = Cells(1, 8), Cells(8, 1), Cells(1, 1)
SIDES = [(9, 9), (33, 9), (40, 64), (61, 130)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tile", "fine"), itertools.product((8, 13, 16, 32), (1, 8)))
def test_weights_sum_to_one_and_tiles_stay_within_their_size(tile: int, fine: int) -> None:
    for length in range(1, 150, 7):
        sums = torch.zeros(length * fine)
        found = spans(length, tile, fine)
        for start, size, weight in found:
            assert start >= 0 and start + size <= length and size <= tile
            assert weight.shape == (size * fine,) and (weight >= 0).all()
            sums[start * fine : (start + size) * fine] += weight
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
        for (one, size, _), (other, _, _) in itertools.pairwise(found):
            assert one < other and one + size - other >= tile // OVERLAP


@pytest.mark.parametrize("sides", SIDES)
def test_what_looks_at_one_cell_comes_to_the_same(sides: tuple[int, int]) -> None:
    def finer(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=8, mode="nearest").sin()

    def coarser(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 8).exp()

    latents, pixels = noise(2, 4, *sides), noise(1, 3, sides[0] * 8, sides[1] * 8)
    torch.testing.assert_close(
        tiled(finer, latents, DECODING, 16), finer(latents), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        tiled(coarser, pixels, ENCODING, 16), coarser(pixels), rtol=0, atol=1e-5
    )


def looking(layers: int) -> nn.Module:
    """Looks as many places far as it has layers, padding with zeros like the VAE."""
    convolutions = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers)]
    return seeded(nn.Sequential(*convolutions), 3)


@pytest.mark.parametrize("sides", SIDES)
def test_what_looks_no_further_than_the_unseen_margin_comes_to_the_same(
    sides: tuple[int, int],
) -> None:
    latents = noise(1, 4, *sides)
    with torch.no_grad():
        near, far = looking(32 // 16), looking(32 // 4)
        whole = near(latents)
        torch.testing.assert_close(tiled(near, latents, SAME, 32), whole, rtol=0, atol=1e-5)
        if max(sides) > 32:
            assert not torch.allclose(tiled(far, latents, SAME, 32), far(latents), atol=1e-5)


def test_a_tile_that_holds_the_picture_is_the_plain_call() -> None:
    vae, latents = tiny_vae(), noise(2, 4, 12, 16)
    with torch.no_grad():
        assert torch.equal(tiled(vae.decode, latents, DECODING, 16), vae.decode(latents))
        pixels = vae.decode(latents)
        mean = vae.encode(pixels)[0]
        assert torch.equal(tiled(lambda x: vae.encode(x)[0], pixels, ENCODING, 16), mean)


def test_no_call_gets_more_than_a_tile_whatever_the_picture() -> None:
    most: list[int] = []

    def run(x: Tensor) -> Tensor:
        most.append(max(x.shape[-2:]))
        return x

    for side in (17, 64, 200):
        tiled(run, noise(1, 1, side, 3 * side), SAME, 16)
    assert max(most) <= 16


def seam(picture: Tensor, whole: Tensor) -> tuple[float, float]:
    """Largest jump between neighbours in the difference, and the whole picture's own spread."""
    error = picture - whole
    jumps = [error.diff(dim=d).abs().max() for d in (-1, -2)]
    return float(max(jumps)), float(whole.std())


@pytest.mark.parametrize("tile", [16, 32])
def test_a_real_vae_in_tiles_is_near_the_whole_and_has_no_visible_seams(tile: int) -> None:
    """Random weights: norms and attention over a tile differ from those over the picture."""
    vae, latents = tiny_vae(), noise(1, 4, 48, 48)
    with torch.no_grad():
        whole = vae.decode(latents)
        picture = tiled(vae.decode, latents, DECODING, tile)
        jump, spread = seam(picture, whole)
        hard = cut(vae.decode, latents, tile)
        assert float((picture - whole).square().mean().sqrt()) < 0.2 * spread
        assert jump < 0.5 * seam(hard, whole)[0]


def cut(run: object, latents: Tensor, tile: int) -> Tensor:
    """Tiles side by side, without overlap: what the blending is measured against."""
    rows = [
        torch.cat([run(part) for part in row.split(tile, -1)], -1)  # type: ignore[operator]
        for row in latents.split(tile, -2)
    ]
    return torch.cat(rows, -2)


def test_a_picture_without_edges_has_none_in_tiles_either() -> None:
    latents = noise(1, 4, 24, 40)
    network = looking(2)
    with torch.no_grad(), seamless(network):
        whole = network(latents)
        around = tiled(network, wrapped(latents, 8), SAME, 32)[..., 8:-8, 8:-8]
        torch.testing.assert_close(around, whole, rtol=0, atol=1e-5)
        assert not torch.allclose(tiled(network, latents, SAME, 32), whole, atol=1e-5)


def test_wrapping_goes_round_more_than_once() -> None:
    row = torch.arange(3.0).reshape(1, 1, 1, 3)
    assert wrapped(row, 4)[0, 0, 0].tolist() == [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
