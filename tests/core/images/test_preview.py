"""The fitted preview: exact for a linear VAE, useful for the real class, cheap to fit."""

import io

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from core.errors import NotFinite
from core.images.pixels import pictures
from core.images.preview import (
    fit_pictures,
    fit_preview,
    fitted,
    jpeg,
    preview,
    variance_preserving,
)
from core.nn.vae import VAE, VAEConfig


def linear_decoder(c: int, p: int) -> tuple[Tensor, Tensor]:
    """Factors (c+1, 3·p·p) of a made-up linear VAE, and latents (5 c 6 7)."""
    random = torch.Generator().manual_seed(3)
    factors = torch.randn(c + 1, 3 * p * p, generator=random) * 0.1
    factors[-1] += 0.5
    return factors, torch.randn(5, c, 6, 7, generator=random)


def decoded(latents: Tensor, factors: Tensor, p: int) -> Tensor:
    """(b c h w) -> (b 3 H W) in [-1, 1], cell by cell and far too slowly."""
    b, _, h, w = latents.shape
    out = torch.zeros(b, 3, h * p, w * p)
    for y in range(h):
        for x in range(w):
            cell = torch.cat([latents[:, :, y, x], torch.ones(b, 1)], dim=1)
            patch = rearrange(cell @ factors, "b (k p q) -> b k p q", k=3, p=p)
            out[:, :, y * p : y * p + p, x * p : x * p + p] = patch
    return out * 2 - 1


def test_a_linear_vae_is_recovered():
    factors, latents = linear_decoder(c=4, p=8)
    found = fitted(latents, decoded(latents, factors, 8))
    assert found.shape == (5, 192) and found.dtype == torch.float32
    torch.testing.assert_close(found, factors, atol=1e-4, rtol=0)


def test_a_preview_is_the_linear_picture_in_full_size():
    factors, latents = linear_decoder(c=3, p=4)
    shown = preview(latents, factors)
    assert [image.size for image in shown] == [(28, 24)] * 5
    for ours, slow in zip(shown, pictures(decoded(latents, factors, 4)), strict=True):
        assert np.abs(np.int16(np.array(ours)) - np.int16(np.array(slow))).max() <= 1


def test_a_latent_channel_that_never_varies_does_not_spoil_the_fit():
    factors, latents = linear_decoder(c=4, p=2)
    wanted = decoded(latents, factors, 2)
    useless = torch.cat([latents, torch.zeros_like(latents[:, :1])], dim=1)
    found = fitted(useless, wanted)
    assert found.isfinite().all() and found.abs().max() < 10
    torch.testing.assert_close(found[[0, 1, 2, 3, 5]], factors, atol=1e-4, rtol=0)


def test_latents_that_are_not_finite_are_not_shown():
    factors, latents = linear_decoder(c=4, p=2)
    with pytest.raises(NotFinite):
        preview(latents * float("nan"), factors)


def test_noisy_latents_keep_the_spread_of_clean_ones():
    random = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 64, 64, generator=random)
    assert variance_preserving(clean + 14.6 * noise, 14.6).std() == pytest.approx(1, abs=0.05)
    assert torch.equal(variance_preserving(clean, 0.0), clean)


def test_the_drawn_pictures_are_many_coloured_and_always_the_same():
    drawn = fit_pictures(6, 64, seed=0)
    assert drawn.shape == (6, 3, 64, 64) and drawn.dtype == torch.float32
    assert drawn.min() >= -1 and drawn.max() <= 1
    assert torch.equal(drawn, fit_pictures(6, 64, seed=0))
    assert not torch.equal(drawn, fit_pictures(6, 64, seed=1))
    colours = rearrange(drawn, "n c h w -> c (n h w)")
    assert (colours.std(dim=1) > 0.3).all()
    assert torch.linalg.eigvalsh(torch.cov(colours)).min() > 0.01  # no colour follows from others


def test_a_vae_of_the_real_class_is_fitted_from_few_pixels():
    """What a fit costs is what is encoded: for a full-size VAE under half a 512×512 picture."""
    torch.manual_seed(0)
    vae = VAE(VAEConfig(channels=32, multipliers=(1, 1, 1, 2), blocks=1)).eval()
    encoded = []

    def encode(pixels: Tensor) -> Tensor:
        encoded.append(pixels.shape[-2] * pixels.shape[-1])
        return vae.encode(pixels)[0] * 0.18215

    factors = fit_preview(encode, vae.config.shrink, 4)
    assert vae.config.shrink == 8 and sum(encoded) < 512 * 512 / 2
    assert factors.shape == (5, 192) and factors.isfinite().all()
    assert not factors.requires_grad


def test_averaging_patches_is_fitted_as_the_vae_it_is():
    """An "encoder" that only shrinks: its preview is the shrunken picture, close to the source."""
    factors = fit_preview(lambda x: torch.nn.functional.avg_pool2d(x, 4), 4, 3)
    source = fit_pictures(1, 64, seed=9)
    small = torch.nn.functional.avg_pool2d(source, 4)
    shown = np.asarray(preview(small, factors)[0]).astype(float) / 127.5 - 1
    error = np.abs(shown - rearrange(source[0], "c h w -> h w c").numpy()).mean()
    flat = (source - source.mean(dim=(2, 3), keepdim=True)).abs().mean()
    assert error < 0.6 * float(flat)


def test_an_encoder_of_the_wrong_shape_is_a_mistake():
    with pytest.raises(ValueError, match="shape"):
        fit_preview(lambda x: torch.nn.functional.avg_pool2d(x, 4), 4, latent_channels=4)


def test_a_frame_is_a_jpeg_of_the_same_size():
    frame = jpeg(Image.new("RGB", (40, 24), "red"))
    assert frame[:2] == b"\xff\xd8"
    assert Image.open(io.BytesIO(frame), formats=("JPEG",)).size == (40, 24)
