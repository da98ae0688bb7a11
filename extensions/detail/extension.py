"""More or less detail: the network is told of less noise than there is, so it leaves more of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.extend import DenoiserWrapper, hookimpl, setting
from webui.hookspecs import Panel

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampling.state import Denoiser


@dataclass(frozen=True)
class Settings:
    amount: float = setting(
        0.1, low=-0.5, high=0.5, step=0.01, help="Above 0: more detail; below: less."
    )
    middle: float = setting(1.5, low=0.01, high=100, help="The noise level where it acts most.")
    width: float = setting(
        1.0, low=0.1, high=5, step=0.1, help="How far to both sides, in the logarithm of it."
    )


def detailed(denoise: Denoiser, settings: Settings) -> Denoiser:
    """The network asked at sigma · (1 − amount · bump), a bell over log sigma."""

    def denoise_detailed(x: Tensor, sigma: Tensor) -> Tensor:
        distance = math.log(float(sigma) / settings.middle) / settings.width
        share = settings.amount * math.exp(-(distance**2) / 2)
        return denoise(x, sigma * (1 - share))

    return denoise_detailed


@hookimpl
def denoiser_wrappers() -> list[DenoiserWrapper]:
    return [DenoiserWrapper("detail", Settings, detailed)]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("detail", Settings, "Detail")]
