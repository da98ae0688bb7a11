"""What guides a network beside its prompt: residuals and further things to look at, as arguments.

Each is a pure function of one call; Predictor sums them. It knows no files and no pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from core.nn.attention import Attending, Site
from core.nn.controlnet import ControlNet
from core.nn.ip_adapter import Pair, looking
from core.nn.residuals import Residuals
from core.sampling.conditioning import Conditioning

Control: TypeAlias = Callable[[Tensor, Tensor, Conditioning], Residuals]
"""(x, timestep, conditioning) -> residuals, as the network is given them."""
Look: TypeAlias = Callable[[Attending, Tensor, Conditioning], Attending]
"""(attending, x, conditioning) -> attending, for one call."""

SOFTER = 0.825
"""A1111's factor from one residual to the next outer one where the prompt shall be heard."""
SOFT_FEATURES = (0.25, 0.62, 0.825, 1.0)
"""A1111's factors for the features of a T2I-Adapter in the same place."""


def soft_weights(weight: float, skips: int) -> tuple[float, ...]:
    """A1111's weights of so many residuals and the middle's, the outermost the weakest.

    The exponents count from 12 for every network, also for XL's ten residuals.
    """
    return tuple(weight * SOFTER ** (12 - index) for index in range(skips + 1))


@dataclass(frozen=True, eq=False)
class NetControl:
    """A ControlNet with its picture."""

    network: ControlNet
    hint: Tensor
    """(1 c H W), see ControlNet."""
    weights: tuple[float, ...]
    """For each skip, then the middle."""
    prompt_alone: bool = False
    """Whether the negative prompt's rows are left as they are."""
    mask: Tensor | None = None
    """(1 1 H W) in [0, 1]: where it acts."""
    before: Callable[[], object] = lambda: None
    """Brings the network to its device."""
    after: Callable[[], object] = lambda: None

    def __call__(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Residuals:
        self.before()
        latents = x[:, : self.network.config.in_channels]
        pooled = conditioning.pooled
        answer = self.network(
            latents,
            self.hint.to(x).expand(len(x), -1, -1, -1),
            timestep,
            conditioning.context.to(x),
            None if pooled is None else pooled.to(x),
        )
        self.after()
        rows = prompt_rows(conditioning, x) if self.prompt_alone else None
        *outer, middle = self.weights
        return Residuals(
            tuple(
                _weighed(skip, weight, rows, self.mask)
                for skip, weight in zip(answer.skips, outer, strict=True)
            ),
            _weighed(answer.middle, middle, rows, self.mask),
        )


@dataclass(frozen=True, eq=False)
class FeatureControl:
    """What a T2I-Adapter made of its picture, the same at every step."""

    residuals: Residuals
    """Weighed already; one row."""
    prompt_alone: bool = False

    def __call__(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Residuals:
        rows = prompt_rows(conditioning, x) if self.prompt_alone else None

        def given(feature: Tensor | None) -> Tensor | None:
            if feature is None:
                return None
            feature = feature.to(x).expand(len(x), -1, -1, -1)
            return feature if rows is None else feature * rows

        return Residuals(
            features=tuple(given(f) for f in self.residuals.features),
            middle=given(self.residuals.middle),
        )


@dataclass(frozen=True, eq=False)
class TokenLook:
    """What an IP-Adapter made of its picture: keys and values for each site."""

    prompt: Mapping[Site, Pair]
    """One row, for the prompt."""
    negative: Mapping[Site, Pair]
    """One row, of a picture of nothing, for the negative prompt."""
    weight: float
    mask: Tensor | None = None
    """(1 1 H W) in [0, 1]: where it acts."""

    def __call__(self, attending: Attending, x: Tensor, conditioning: Conditioning) -> Attending:
        rows = conditioning.negative
        pairs = {
            site: (
                _chosen(pair[0], self.negative[site][0], rows, x),
                _chosen(pair[1], self.negative[site][1], rows, x),
            )
            for site, pair in self.prompt.items()
        }
        mask = None if self.mask is None else _mask_of_places(self.mask.to(x), x.shape[-2:])
        return looking(attending, pairs, self.weight, mask)


def _chosen(prompt: Tensor, negative: Tensor, rows: Sequence[bool], x: Tensor) -> Tensor:
    return torch.cat([negative if is_negative else prompt for is_negative in rows]).to(x)


def _mask_of_places(mask: Tensor, latents: Sequence[int]) -> Callable[[int], Tensor]:
    """How a mask looks at a site with so many places: the latents' size, halved a few times."""

    def of(places: int) -> Tensor:
        rows, columns = latents
        while rows * columns > places:
            rows, columns = -(-rows // 2), -(-columns // 2)
        assert rows * columns == places, "the places of a site are the latents', halved"
        return scaled_mask(mask, rows, columns).reshape(1, 1, places, 1)

    return of


def prompt_rows(conditioning: Conditioning, x: Tensor) -> Tensor:
    """(b 1 1 1): 1 for a row of the prompt, 0 for one of the negative prompt."""
    # Written by the device: nothing is copied there, and so nothing waited for.
    rows = [x.new_full((1, 1, 1, 1), float(not negative)) for negative in conditioning.negative]
    return torch.cat(rows)


def scaled_mask(mask: Tensor, rows: int, columns: int) -> Tensor:
    """(1 1 H W) -> (1 1 rows columns): means of what each place covers."""
    return functional.interpolate(mask.float(), size=(rows, columns), mode="area").to(mask)


def _weighed(
    residual: Tensor | None, weight: float, rows: Tensor | None, mask: Tensor | None
) -> Tensor:
    assert residual is not None
    weighed = weight * residual
    if rows is not None:
        weighed = weighed * rows
    if mask is not None:
        weighed = weighed * scaled_mask(mask.to(weighed), *weighed.shape[-2:])
    return weighed
