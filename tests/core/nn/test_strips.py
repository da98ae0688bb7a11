"""Pictures in strips of rows: the same as whole, and nothing large in between."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from core.nn import kernels, strips
from core.nn.layers import Conv2d
from core.nn.seamless import seamless
from core.nn.vae import VAE, VAEConfig

pytestmark = pytest.mark.skipif(kernels.chosen() == "plain", reason="no oneDNN kernels here")

SMALL = VAEConfig(channels=16, multipliers=(1, 2), groups=4)


@pytest.fixture(autouse=True)
def _in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(strips, "WORTH", 0)
    monkeypatch.setattr(strips, "STRIP", 2048)


@torch.inference_mode()
@pytest.mark.parametrize("rows, columns", [(16, 12), (7, 9), (1, 5), (2, 2)])
def test_normalised_convolution_is_the_usual_one(rows: int, columns: int) -> None:
    norm, conv = nn.GroupNorm(4, 16), Conv2d(16, 24, 3, padding=1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 5 + torch.randn(2, 16, rows, columns)
    normalised = functional.silu(
        functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    )
    weight = kernels.dense(conv.weight).double()
    expected = functional.conv2d(normalised, weight, conv.bias.double(), 1, 1)
    answer = strips.convolved(x, conv, strips.activated(norm, x))
    torch.testing.assert_close(answer.double(), expected, rtol=1e-4, atol=1e-4)
    onto = torch.randn(2, 24, rows, columns)
    added = strips.convolved(x, conv, strips.activated(norm, x), onto=onto.clone())
    torch.testing.assert_close(added, onto + answer, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_enlarged_convolution_is_the_usual_one(rows: int) -> None:
    conv = Conv2d(8, 8, 3, padding=1)
    x = torch.randn(1, 8, rows, 6)
    expected = conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(strips.enlarged(x, conv), expected, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("out, writes_over", [(8, True), (16, True), (24, False)])
def test_a_pointwise_convolution_that_does_not_widen_needs_no_memory(
    out: int, writes_over: bool
) -> None:
    conv = Conv2d(16, out, 1)
    x = torch.randn(3, 16, 9, 7).contiguous(memory_format=torch.channels_last)
    expected = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], x)
    expected += conv.bias[:, None, None]
    answer = strips.pointwise(x, conv)
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
    assert (answer.data_ptr() == x.data_ptr()) == writes_over
    apart = torch.randn(3, 16, 9, 7)  # channels first: there is no writing over it
    before = apart.clone()
    strips.pointwise(apart, conv)
    assert torch.equal(apart, before)


@pytest.mark.parametrize("dtype, within", [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
@torch.inference_mode()
def test_whole_autoencoder_in_strips(
    dtype: torch.dtype, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = VAE(SMALL).to(dtype)
    pixels = torch.randn(1, 3, 22, 18, dtype=dtype)
    latents = torch.randn(1, 4, 11, 9, dtype=dtype)
    kept = pixels.clone(), latents.clone()
    answers = vae.encode(pixels)[0], vae.decode(latents)
    assert torch.equal(pixels, kept[0]) and torch.equal(latents, kept[1])
    monkeypatch.setattr(strips, "WORTH", 2**60)
    for answer, given in zip(answers, (vae.encode(pixels)[0], vae.decode(latents)), strict=True):
        torch.testing.assert_close(answer, given, rtol=within, atol=within)


def test_strips_are_for_inference_and_zeros_alone() -> None:
    conv = Conv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 8, 8)
    assert not strips.worth_strips(x, conv)
    with torch.inference_mode():
        assert strips.worth_strips(x, conv)
        with seamless(conv):
            assert not strips.worth_strips(x, conv)
