"""The n-th draw of an image's seeded stream, and increments of its Brownian path.

Noise is addressable: any draw can be asked for in any order, so a run resumes from any state.
Drawn on the CPU, one stream per image, so a seed paints the same picture on every machine and in
every batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.nn.copies import sent
from core.request import NoiseKind


@dataclass(frozen=True)
class ImageSeed:
    """Where one image's noise comes from."""

    seed: int
    kind: NoiseKind = NoiseKind.CPU
    delta: int = 0
    """Added to the seed for every draw but the first."""
    other: int = 0
    """The seed that the first draw is blended with."""
    strength: float = 0.0
    resize_from: tuple[int, int] | None = None
    """(rows, columns) of latents whose noise is placed in the middle of the first draw."""


class Stream:
    """The normal draws of one seed, each of `shape` (c h w), float32 on the CPU."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self._seed = seed
        self._shape = shape
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._drawn = 0
        self._last: Tensor | None = None

    def draw(self, n: int) -> Tensor:
        """The n-th draw, counted from 0. An earlier one than the last asked for costs a replay."""
        if self._last is not None and n == self._drawn - 1:
            return self._last
        if n < self._drawn:
            self._generator.manual_seed(self._seed)
            self._drawn = 0
        while self._drawn <= n:
            self._last = torch.randn(self._shape, generator=self._generator)
            self._drawn += 1
        assert self._last is not None
        return self._last


class PhiloxStream:
    """What an NVIDIA card's generator draws from a seed, computed here: the n-th draw in any order.

    Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the
    seed as key, the draw's number and the element's place as counter, then Box and Muller.
    """

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self._key = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
        self._shape = shape

    def draw(self, n: int) -> Tensor:
        count = math.prod(self._shape)
        counter = np.zeros((4, count), dtype=np.uint32)
        counter[0] = n
        counter[2] = np.arange(count, dtype=np.uint32)
        bits = _philox(counter, *self._key).astype(np.float64)
        unit = 2.3283064e-10  # 2**-32 as the card's code spells it
        radius = np.sqrt(-2 * np.log(bits[0] * unit + unit / 2))
        turn = unit * 6.2831855
        angle = bits[1] * turn + turn / 2
        values = (radius * np.sin(angle)).astype(np.float32)
        return torch.from_numpy(values).reshape(self._shape)


def _philox(counter: np.ndarray, key_0: np.uint32, key_1: np.uint32) -> np.ndarray:
    """Ten rounds over a counter (4 n)."""
    x = counter.copy()
    keys = int(key_0), int(key_1)
    for _ in range(10):
        high_0, low_0 = _multiplied(x[0], 0xD2511F53)
        high_1, low_1 = _multiplied(x[2], 0xCD9E8D57)
        k_0, k_1 = (np.uint32(k) for k in keys)
        x = np.stack((high_1 ^ x[1] ^ k_0, low_1, high_0 ^ x[3] ^ k_1, low_0))
        keys = (keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF
    return x


def _multiplied(words: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """High and low 32 bits of the product."""
    product = words.astype(np.uint64) * np.uint64(factor)
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)


class ImageNoise:
    """All draws of one image."""

    def __init__(self, source: ImageSeed, shape: tuple[int, int, int]) -> None:
        stream = PhiloxStream if source.kind is NoiseKind.NV else Stream
        self._stream: Stream | PhiloxStream = stream(source.seed, shape)
        self._later = stream(source.seed + source.delta, shape) if source.delta else self._stream
        self._source = source
        self._make = stream
        self._shape = shape

    def draw(self, n: int) -> Tensor:
        """Draw 0 is the initial noise, with its variation."""
        if n == 0:
            return self._first()
        return self._later.draw(n - 1 if self._source.delta else n)

    def _first(self) -> Tensor:
        source, channels = self._source, self._shape[0]
        if source.resize_from is None:
            first = self._stream.draw(0)
            return self._blended(first, self._shape)
        small = (channels, *source.resize_from)
        inner = self._blended(self._make(source.seed, small).draw(0), small)
        return placed_in_the_middle(inner, self._stream.draw(0))

    def _blended(self, first: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not self._source.strength:
            return first
        return slerp(self._source.strength, first, self._make(self._source.other, shape).draw(0))


def slerp(share: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation of (c h w) noise along its rows, as A1111 does it.

    Where the two are all but parallel it mixes them linearly, and with the shares swapped: a slip
    in the original that old variations depend on.
    """
    low_unit, high_unit = (t / torch.norm(t, dim=1, keepdim=True) for t in (low, high))
    cosine = (low_unit * high_unit).sum(1)
    if cosine.mean() > 0.9995:
        return low * share + high * (1 - share)
    angle = cosine.acos()
    of_low, of_high = ((1 - share) * angle).sin(), (share * angle).sin()
    return (of_low / angle.sin()).unsqueeze(1) * low + (of_high / angle.sin()).unsqueeze(1) * high


def placed_in_the_middle(inner: Tensor, outer: Tensor) -> Tensor:
    """`outer` (c h w) with the middle of `inner` in its middle; either may be the larger."""
    placed = outer.clone()
    (row, inner_row, rows), (column, inner_column, columns) = (
        _overlap(inner.shape[axis], outer.shape[axis]) for axis in (1, 2)
    )
    placed[:, row : row + rows, column : column + columns] = inner[
        :, inner_row : inner_row + rows, inner_column : inner_column + columns
    ]
    return placed


def _overlap(inner: int, outer: int) -> tuple[int, int, int]:
    """(start in outer, start in inner, length) of the common middle."""
    shift = (outer - inner) // 2
    return max(shift, 0), max(-shift, 0), inner if shift >= 0 else inner + 2 * shift


class SeededNoise:
    """Noise of a batch of images: one stream and one Brownian path per image."""

    def __init__(
        self,
        images: Sequence[ImageSeed | int],
        shape: tuple[int, int, int],
        sigmas: Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            images: where each one's noise comes from; a plain number is a seed.
            shape: (c h w) of one image's latents.
            sigmas: the whole, uncut list of levels: the Brownian paths span it.
        """
        sources = [ImageSeed(image) if isinstance(image, int) else image for image in images]
        self._seeds = tuple(source.seed for source in sources)
        self._shape = shape
        self._images = [ImageNoise(source, shape) for source in sources]
        self._ends = sigmas[sigmas > 0].min().cpu(), sigmas.max().cpu()
        self._trees: list[Callable[[Tensor, Tensor], Tensor]] = []
        self._device = torch.device(device)

    def draw(self, n: int) -> Tensor:
        """(b c h w): every image's n-th draw."""
        return sent(torch.stack([image.draw(n) for image in self._images]), self._device)

    def brownian(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """(W(sigma_next) − W(sigma)) / √|sigma_next − sigma|, (b c h w), unit variance.

        The tree of torchsde, seeded by the image's seed: the increments that k-diffusion draws.
        """
        if not self._trees:
            self._trees = [self._tree(seed) for seed in self._seeds]
        low, high = torch.minimum(sigma, sigma_next), torch.maximum(sigma, sigma_next)
        sign = 1 if sigma_next > sigma else -1
        increments = torch.stack([tree(low, high) for tree in self._trees])
        return sent(increments * sign / (high - low).sqrt(), self._device)

    def _tree(self, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
        import torchsde  # 0.3 s, and most samplers draw no Brownian path

        # It rounds its ends to seven digits, and then finds the ends themselves outside.
        warnings.filterwarnings("ignore", message="Should have t[ab]", module="torchsde")
        start, end = self._ends
        return torchsde.BrownianTree(start, torch.zeros(self._shape), end, entropy=seed)
