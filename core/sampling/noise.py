"""The n-th draw of an image's seeded stream, and increments of its Brownian path.

Noise is addressable: any draw can be asked for in any order, so a run resumes from any state.
Drawn on the CPU, one stream per image, so a seed paints the same picture on every machine and in
every batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Stream:
    """The normal draws of one seed, each of `shape` (c h w), float32 on the CPU."""

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
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


class SeededNoise:
    """Noise of a batch of images: one stream and one Brownian path per seed."""

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        sigmas: Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            seeds: one per image.
            shape: (c h w) of one image's latents.
            sigmas: the whole, uncut list of levels: the Brownian paths span it.
        """
        self._seeds = tuple(seeds)
        self._shape = shape
        self._streams = [Stream(seed, shape) for seed in seeds]
        self._ends = sigmas[sigmas > 0].min().cpu(), sigmas.max().cpu()
        self._trees: list[Callable[[Tensor, Tensor], Tensor]] = []
        self._device = device

    def draw(self, n: int) -> Tensor:
        """(b c h w): every image's n-th draw."""
        return torch.stack([stream.draw(n) for stream in self._streams]).to(self._device)

    def brownian(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """(W(sigma_next) − W(sigma)) / √|sigma_next − sigma|, (b c h w), unit variance.

        The tree of torchsde, seeded by the image's seed: the increments that k-diffusion draws.
        """
        if not self._trees:
            self._trees = [self._tree(seed) for seed in self._seeds]
        low, high = torch.minimum(sigma, sigma_next), torch.maximum(sigma, sigma_next)
        sign = 1 if sigma_next > sigma else -1
        increments = torch.stack([tree(low, high) for tree in self._trees])
        return (increments * sign / (high - low).sqrt()).to(self._device)

    def _tree(self, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
        import torchsde  # 0.3 s, and most samplers draw no Brownian path

        # It rounds its ends to seven digits, and then finds the ends themselves outside.
        warnings.filterwarnings("ignore", message="Should have t[ab]", module="torchsde")
        start, end = self._ends
        return torchsde.BrownianTree(start, torch.zeros(self._shape), end, entropy=seed)
