"""Sums of a weight and its changes: the formula, whatever the format, the pieces and the memory."""

from __future__ import annotations

import pytest
import torch

from core.adapters import sums
from core.adapters.changes import LowRank
from core.adapters.sums import summed

SHAPES = [(24, 10), (7, 5, 3, 3), (6, 4, 1, 1), (9,)]
FORMATS = [torch.float32, torch.bfloat16, torch.float16]


def change_of(shape: tuple[int, ...], seed: int, size: float = 0.3) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], 2, *(1 for _ in shape[2:]), generator=generator)
    down = torch.randn(2, *(shape[1:] or (1,)), generator=generator)
    return LowRank(up * size, down * size, scale=0.5)


def by_hand(original: torch.Tensor, changes: list[tuple[LowRank, float]]) -> torch.Tensor:
    total = original.double()
    for change, weight in changes:
        product = change.up.flatten(1).double() @ change.down.flatten(1).double()
        total = total + weight * change.scale * product.reshape(original.shape)
    return total


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("piece", [1, 64, 2**19])
def test_a_sum_is_the_formula_whatever_the_pieces(
    shape: tuple[int, ...], kind: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "PIECE", piece)
    original = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(kind)
    before = original.clone()
    changes = [(change_of(shape, 2), 0.8), (change_of(shape, 3), -1.5)]
    with torch.inference_mode():
        changed = summed(original, changes)
    assert changed.dtype == kind and changed.shape == original.shape
    wanted = by_hand(original, changes)
    torch.testing.assert_close(changed, wanted.to(kind), rtol=torch.finfo(kind).eps, atol=1e-6)
    assert torch.equal(original, before)


@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_written_into_memory_that_fits_and_never_into_other(kind: torch.dtype) -> None:
    original, changes = torch.ones(8, 6, dtype=kind), [(change_of((8, 6), 2), 1.0)]
    wanted = summed(original, changes)
    spare = torch.zeros_like(original)
    assert summed(original, changes, spare) is spare and torch.equal(spare, wanted)
    for other in (torch.zeros(6, 8, dtype=kind).T, torch.zeros(8, 6, dtype=torch.float64)):
        assert summed(original, changes, other) is not other
        assert not other.any()


@pytest.mark.parametrize(
    ("kind", "size"), [(torch.float32, 1e19), (torch.bfloat16, 1e19), (torch.float16, 400.0)]
)
def test_a_sum_beyond_the_format_is_refused(kind: torch.dtype, size: float) -> None:
    original = torch.ones(8, 6, dtype=kind)
    with pytest.raises(OverflowError):
        summed(original, [(change_of((8, 6), 2, size), 8.0)])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_change_with_a_number_that_is_none_is_refused(kind: torch.dtype, number: float) -> None:
    change = change_of((8, 6), 2)
    change.down[1, 4] = number
    with pytest.raises(OverflowError):
        summed(torch.ones(8, 6, dtype=kind), [(change, 1.0)])


def test_a_small_scale_does_not_hide_a_product_beyond_the_format() -> None:
    change = LowRank(torch.full((4, 1), 1e20), torch.full((1, 4), 1e20), scale=1e-20)
    with pytest.raises(OverflowError):
        summed(torch.zeros(4, 4), [(change, 1.0)])


def test_large_sums_within_the_format_are_taken() -> None:
    """Beyond what is safe without a look, and yet finite."""
    change = LowRank(torch.full((4, 1), 1e16), torch.full((1, 4), 1e16), scale=1.0)
    assert (summed(torch.zeros(4, 4), [(change, 1.0)]) == 1e32).all()
