"""Convolutions by Winograd's way: the usual numbers, rounded less; one picture or several."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from core.nn import kernels, strips, winograd
from core.nn.layers import Conv2d
from core.nn.seamless import seamless

pytestmark = pytest.mark.skipif(kernels.chosen() == "plain", reason="no oneDNN kernels here")


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "NUMBERS", 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that went this way."""
    seen: list[tuple[int, ...]] = []
    convolved = winograd.convolved

    def noted(x: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return convolved(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(winograd, "convolved", noted)
    return seen


def exactly(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    weight = kernels.dense(conv.weight).double()
    return functional.conv2d(x.double(), weight, bias, conv.stride, conv.padding)


@torch.inference_mode()
@pytest.mark.parametrize("rows, columns", [(8, 8), (7, 9), (3, 5), (13, 4)])
@pytest.mark.parametrize("padding", [0, 1, (1, 0), (0, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("small", [True, False])
def test_it_is_the_usual_convolution(
    rows: int,
    columns: int,
    padding: int | tuple[int, int],
    bias: bool,
    small: bool,
    calls: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if small:  # pieces of one row of tiles, blocks of two channels, one at a time
        monkeypatch.setattr(winograd, "PIECE", 1)
        monkeypatch.setattr(winograd, "BLOCK", 2 * 64 * 6)
        monkeypatch.setattr(winograd, "_SOME", 1)
        monkeypatch.setattr(winograd, "_spare", [])
    conv = Conv2d(6, 5, 3, padding=padding, bias=bias)
    x = torch.randn(2, 6, rows, columns)
    torch.testing.assert_close(conv(x).double(), exactly(conv, x), rtol=1e-5, atol=1e-5)
    assert calls == [(2, 6, rows, columns)]


@torch.inference_mode()
@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 5), (3, 1)])
def test_the_smallest_are_padded_all_round(rows: int, columns: int) -> None:
    conv, x = Conv2d(6, 5, 3, padding=1), torch.randn(1, 6, rows, columns)
    torch.testing.assert_close(conv(x).double(), exactly(conv, x), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_it_is_rounded_less_than_the_usual_way() -> None:
    conv, x = Conv2d(320, 64, 3, padding=1), torch.randn(1, 320, 16, 16)
    expected = exactly(conv, x)
    usual = kernels.convolved(x, kernels.packed(conv.weight), conv.bias, (1, 1), (1, 1))
    ours, usual = ((one.double() - expected).square().mean() for one in (conv(x), usual))
    assert 0 < ours < usual


@torch.inference_mode()
def test_each_picture_of_a_batch_is_what_it_is_alone() -> None:
    conv, x = Conv2d(32, 48, 3, padding=1), torch.randn(3, 32, 10, 14)
    alone = torch.cat([conv(picture[None]) for picture in x])
    assert torch.equal(conv(x), alone)


@torch.inference_mode()
def test_memory_is_used_again_and_never_by_two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_spare", [])
    conv, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6)
    conv(x)
    (memory,) = winograd._spare
    one, other = (winograd.blocks(conv.weight, None) for _ in range(2))
    first, second = next(one), next(other)
    assert first.weights.data_ptr() == memory.data_ptr() != second.weights.data_ptr()
    one.close()
    other.close()
    assert len(winograd._spare) == 2


def test_memory_of_inference_serves_where_only_gradients_are_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "_spare", [])
    conv, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6)
    with torch.inference_mode():
        first = conv(x)
    with torch.no_grad():
        assert torch.equal(conv(x), first)


@torch.inference_mode()
def test_strips_and_round_edges_go_this_way_too(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "STRIP", 1024)
    conv, x = Conv2d(8, 6, 3, padding=1), torch.randn(2, 8, 12, 10)
    answer = strips.convolved(x, conv, lambda rows: rows)
    assert len(calls) > 1
    torch.testing.assert_close(answer.double(), exactly(conv, x), rtol=1e-5, atol=1e-5)
    with seamless(conv):
        turned = conv(x.roll(3, dims=3)).roll(-3, dims=3)
        torch.testing.assert_close(turned, conv(x), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_layer_may_go_both_ways_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 8, 8)
    before = conv.weight.detach().clone()
    first = conv(x)
    with monkeypatch.context() as patch:
        patch.setattr(winograd, "NUMBERS", 10**9)
        torch.testing.assert_close(conv(x), first, rtol=1e-5, atol=1e-5)
        assert conv.weight.is_mkldnn
    assert torch.equal(conv(x), first)
    assert torch.equal(conv.weight, before)


def test_only_large_ones_of_many_channels_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    wide, narrow = torch.empty(320, 320, 3, 3), torch.empty(64, 320, 3, 3)
    assert winograd.worth(wide, 64, 64)
    assert not winograd.worth(wide, 8, 8)
    assert not winograd.worth(narrow, 64, 64)
    assert not winograd.worth(wide.bfloat16(), 64, 64)
    assert not winograd.worth(torch.empty(320, 320, 1, 1), 64, 64)
