"""oneDNN's own kernels: the numbers of torch's public functions, and nothing lost on the way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.nn import kernels
from core.nn.attention import Site, naive_attend, plain_attend
from core.nn.layers import Conv2d, Linear
from core.nn.seamless import seamless

pytestmark = pytest.mark.skipif(kernels.chosen() == "plain", reason="no oneDNN kernels here")

CONVOLUTIONS = [
    (3, 1, 1, 16, 24, (2, 9, 12)),
    (3, 2, 1, 16, 16, (1, 8, 8)),
    (3, 2, 0, 8, 8, (1, 9, 9)),
    (1, 1, 0, 40, 24, (2, 5, 7)),
    (3, 1, 1, 4, 32, (2, 8, 8)),
    (3, 1, 1, 32, 4, (1, 16, 8)),
    (3, 1, 1, 8, 8, (1, 1, 1)),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def plainly(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What torch's own convolution makes of it, in float64."""
    weight = kernels.dense(layer.weight).double()
    bias = None if layer.bias is None else layer.bias.double()
    return functional.conv2d(x.double(), weight, bias, layer.stride, layer.padding)


@pytest.mark.parametrize("size, stride, padding, channels, out, shape", CONVOLUTIONS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_convolution_is_the_usual_one(
    size: int,
    stride: int,
    padding: int,
    channels: int,
    out: int,
    shape: tuple[int, int, int],
    channels_last: bool,
) -> None:
    layer = Conv2d(channels, out, size, stride, padding)
    before = layer.weight.detach().clone()
    batch, rows, columns = shape
    x = torch.randn(batch, channels, rows, columns)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        answer = layer(x)
    torch.testing.assert_close(answer.double(), plainly(layer, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(kernels.dense(layer.weight), before)


@torch.inference_mode()
def test_size_that_came_first_changes_nothing() -> None:
    weight = torch.randn(64, 32, 3, 3)
    small, large = torch.randn(2, 32, 8, 8), torch.randn(1, 32, 64, 48)
    answers = []
    for order in ((small, large), (large, small)):
        layer = Conv2d(32, 64, 3, padding=1, bias=False)
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        given = {id(x): layer(x) for x in order}
        answers.append((given[id(small)], given[id(large)]))
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)


@torch.inference_mode()
def test_channels_that_shape_matters_to_are_packed_for_it() -> None:
    layer = Conv2d(8, 48, 3, padding=1)
    before = layer.weight.detach().clone()
    small, large = torch.randn(1, 8, 4, 4), torch.randn(2, 8, 32, 24)
    first = layer(small)
    for x in (large, small):
        torch.testing.assert_close(layer(x).double(), plainly(layer, x), rtol=1e-5, atol=1e-5)
        assert torch.equal(kernels.dense(layer.weight), before)
    assert torch.equal(layer(small), first)


def test_packed_layer_can_be_moved_read_and_trained() -> None:
    layer = Conv2d(8, 8, 3, padding=1)
    before = layer.weight.detach().clone()
    x = torch.randn(1, 8, 6, 6)
    with torch.inference_mode():
        layer(x)
    assert layer.weight.is_mkldnn
    assert torch.equal(layer.state_dict()["weight"], before)
    with torch.inference_mode():
        layer(x)
    assert layer.to(torch.bfloat16).weight.dtype == torch.bfloat16
    assert torch.equal(layer.weight, before.bfloat16())
    with torch.inference_mode():
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    layer = layer.float()
    x.requires_grad_(True)
    layer(x).sum().backward()
    assert x.grad is not None


@torch.inference_mode()
def test_padding_round_the_edges() -> None:
    layer = Conv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 8, 8)
    with seamless(layer):
        answer, shifted = layer(x), layer(x.roll((3, 2), (2, 3)))
    torch.testing.assert_close(shifted, answer.roll((3, 2), (2, 3)), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(layer(x), answer)


@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@torch.inference_mode()
def test_linear_is_the_usual_one(dtype: torch.dtype, within: float) -> None:
    layer = Linear(48, 80).to(dtype)
    x = torch.randn(2, 3, 5, 48, dtype=dtype)
    expected = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=within, atol=within)
    apart = x.transpose(1, 2)
    # torch's own may take another way for what does not lie in one piece.
    exactly = 0 if kernels.quick(x) and kernels.chosen() == "oneDNN" else within
    torch.testing.assert_close(layer(apart), layer(apart.contiguous()), rtol=exactly, atol=exactly)


@pytest.mark.parametrize(
    "queries, keys, width", [(512, 512, 40), (640, 77, 40), (256, 256, 80), (1500, 1500, 16)]
)
@torch.inference_mode()
def test_attention_in_pieces_is_attention(
    queries: int, keys: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heads(n: int) -> Tensor:
        return torch.randn(2, n, 3 * width).unflatten(-1, (3, width)).transpose(1, 2)

    q, k, v = heads(queries), heads(keys), heads(keys)
    assert kernels.worth_attending(q) or kernels.chosen() == kernels.CONVOLUTIONS
    expected = naive_attend(q.double(), k.double(), v.double(), Site("middle", 0, 0, "self"))
    answer = kernels.attended(q, k, v)
    torch.testing.assert_close(answer.double(), expected, rtol=1e-5, atol=1e-6)
    usual = plain_attend(q, k, v, Site("middle", 0, 0, "self"))
    torch.testing.assert_close(usual, answer, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(kernels, "SCORES", 100 * keys * q.itemsize)
    again = kernels.attended(q, k, v)
    torch.testing.assert_close(again, answer, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scores", [kernels.SCORES, 2**16, 2**12])
@pytest.mark.parametrize(
    "queries, keys, width",
    [(64, 64, 160), (300, 77, 16), (1, 1, 8), (256, 256, 80), (700, 31, 40), (600, 1100, 8)],
)
@torch.inference_mode()
def test_attention_of_several_heads_at_once_is_attention(
    queries: int, keys: int, width: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fills up a row of scores is not heeded, and a piece is no larger than is said."""
    q, k, v = (torch.randn(2, 3, n, width).bfloat16() for n in (queries, keys, keys))
    expected = naive_attend(*(t.double() for t in (q, k, v)), Site("middle", 0, 0, "cross"))
    monkeypatch.setattr(kernels, "SCORES", scores)
    pieces: list[Tensor] = []

    def softmax(piece: Tensor, dim: int, out: Tensor) -> Tensor:
        pieces.append(piece)
        return torch.Tensor.copy_(out, piece.softmax(dim))

    answers = [kernels.attended(q, k, v)]
    with monkeypatch.context() as apart:
        apart.setattr(torch, "softmax", softmax)
        answers.append(kernels.attended(q, k, v))
    torch.testing.assert_close(answers[0].double(), expected, rtol=2e-2, atol=2e-2)
    assert torch.equal(*answers)  # written over its own scores, or into memory of its own
    wide = -(-keys // kernels.LANES) * kernels.LANES
    least = min(kernels.ROWS, queries) * wide
    most = max(least, torch.get_num_threads() * scores // 2)
    assert max(piece.numel() for piece in pieces) <= most
    assert sum(piece.numel() for piece in pieces) == 2 * 3 * queries * wide


@torch.inference_mode()
def test_bfloat16_attends_by_heads_where_the_processor_has_it() -> None:
    q, k, v = (torch.randn(2, 3, n, 8).bfloat16() for n in (16, 77, 77))
    usual = plain_attend(q, k, v, Site("middle", 0, 0, "cross"))
    assert torch.equal(usual, kernels.attended(q, k, v)) or not kernels.quick(q)


def test_other_tensors_go_another_way() -> None:
    assert not kernels.quick(torch.ones(2))  # gradients
    with torch.inference_mode():
        assert kernels.quick(torch.ones(2))
        assert not kernels.quick(torch.ones(2, dtype=torch.float64))
        assert Linear(2, 2).double()(torch.ones(1, 2).double()).dtype == torch.float64


def test_the_environment_may_say_plain() -> None:
    code = "from core.nn import kernels; print(kernels.chosen())"
    environment = {**os.environ, kernels.PLAIN_BY: "plain"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert told.stdout.decode().strip() == "plain"
