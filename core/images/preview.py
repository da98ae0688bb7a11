"""Latents to pictures without the VAE: one linear map, fitted to each checkpoint's own VAE.

A latent cell, with a 1 appended, is sent to the whole patch of pixels it stands for, so a preview
has the picture's full size and costs one small matrix product.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from core.images.pixels import pictures

RIDGE = 1e-6
"""Share of the latents' mean square that is added when fitting, so that channels which hardly
vary get no wild factors."""

CELLS = 12
"""Latent cells on each side of a training picture."""


def fitted(latents: Tensor, pixels: Tensor) -> Tensor:
    """The least-squares linear map from latent cells to their patches.

    Args:
        latents: (n c h w), scaled as the U-Net sees them.
        pixels: (n 3 H W) in [-1, 1] with H = p·h and W = p·w.

    Returns:
        (c+1, 3·p·p) float32 on the CPU; a row of a latent cell with a 1 appended, times this, is
        its patch of RGB in [0, 1].
    """
    p = pixels.shape[-1] // latents.shape[-1]
    cells = _cells(latents.cpu().double())
    wanted = (pixels.cpu().double() + 1) / 2
    patches = rearrange(wanted, "n k (h p) (w q) -> (n h w) (k p q)", p=p, q=p)
    ridge = len(cells) * RIDGE * cells[:, :-1].square().mean().expand(cells.shape[1]).clone()
    ridge[-1] = 0  # the constant is not held back
    gram = cells.T @ cells + torch.diag(ridge)
    # lstsq and not solve: latents that do not vary at all leave the system singular.
    return torch.linalg.lstsq(gram, cells.T @ patches, driver="gelsd").solution.float()


def preview(latents: Tensor, factors: Tensor) -> list[Image.Image]:
    """(b c h w) -> b pictures of (p·h, p·w) pixels.

    Noisy latents are first divided by their spread: see `variance_preserving`.

    Raises:
        NotFinite: the latents hold a NaN or an infinity.
    """
    p = math.isqrt(factors.shape[1] // 3)
    patches = _cells(latents.detach().cpu().float()) @ factors
    h, w = latents.shape[-2:]
    rgb = rearrange(patches, "(b h w) (k p q) -> b k (h p) (w q)", h=h, w=w, p=p, q=p)
    return pictures(rgb * 2 - 1)


def variance_preserving(latents: Tensor, sigma: float) -> Tensor:
    """x = x0 + sigma · noise, brought back to the spread of x0: how noisy latents are shown."""
    return latents / math.sqrt(1 + sigma**2)


def fit_preview(encode: Callable[[Tensor], Tensor], shrink: int, latent_channels: int) -> Tensor:
    """Factors for a VAE, from a few drawn pictures: a few seconds of a full-size one on two cores.

    Args:
        encode: (1 3 H W) in [-1, 1] -> the mean latents (1 c h w), scaled as the U-Net sees them.
        shrink: pixels a latent cell covers on each side.
    """
    # Six pictures are 864 cells, and each channel asks for one factor: plenty up to 16 channels.
    drawn = fit_pictures(6, CELLS * shrink, seed=0)
    with torch.no_grad():
        latents = torch.cat([encode(one[None]).cpu().float() for one in drawn])
    if latents.shape != (len(drawn), latent_channels, CELLS, CELLS):
        raise ValueError(f"encode gave latents of shape {tuple(latents.shape)}")
    return fitted(latents, drawn)


def fit_pictures(n: int, size: int, seed: int) -> Tensor:
    """(n 3 size size) in [-1, 1]: drawn scenes of all colours, the same for the same seed."""
    random = np.random.default_rng(seed)
    scenes = np.stack([_scene(size, random) for _ in range(n)])
    return torch.from_numpy(scenes.clip(-1, 1).astype(np.float32))


def jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """The picture as a JPEG file, for frames that are looked at once."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _cells(latents: Tensor) -> Tensor:
    """(b c h w) -> (b·h·w, c+1): every cell with a 1 appended."""
    return functional.pad(rearrange(latents, "b c h w -> (b h w) c"), (0, 1), value=1.0)


Field = NDArray[np.float64]


def _scene(size: int, random: np.random.Generator) -> Field:
    """(3 size size): a gradient, shapes before it, and a noise texture over all."""
    y, x = np.mgrid[0:size, 0:size] / size
    scene = _gradient(x, y, random)
    for _ in range(6):
        cover = _shape(x, y, random)
        scene = scene + cover * (_gradient(x, y, random) - scene)
    for grain in (8, 32):
        scene = scene + random.uniform(0, 0.2) * _texture(size, grain, random)
    return scene


def _gradient(x: Field, y: Field, random: np.random.Generator) -> Field:
    """(3 h w): a smooth passage between two colours, in a direction of its own."""
    first, second = random.uniform(-1, 1, (2, 3, 1, 1))
    angle, phase, pace = random.uniform(0, 2 * np.pi, 3)
    wave = 0.5 + 0.5 * np.sin(pace * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return first + wave * (second - first)


def _shape(x: Field, y: Field, random: np.random.Generator) -> Field:
    """(h w) in [0, 1]: an ellipse or a box somewhere, its edge sharp or soft."""
    cx, cy = random.uniform(0, 1, 2)
    rx, ry = random.uniform(0.08, 0.35, 2)
    u, v = np.abs(x - cx) / rx, np.abs(y - cy) / ry
    distance = np.hypot(u, v) if random.random() < 0.5 else np.maximum(u, v)
    return 1 / (1 + np.exp(((distance - 1) * random.uniform(4, 80)).clip(-50, 50)))


def _texture(size: int, grain: int, random: np.random.Generator) -> Field:
    """(3 size size): noise in patches of size/grain pixels."""
    patch = max(1, size // grain)
    cells = -(-size // patch)
    coarse = random.standard_normal((3, cells, cells))
    return coarse.repeat(patch, 1).repeat(patch, 2)[:, :size, :size]
