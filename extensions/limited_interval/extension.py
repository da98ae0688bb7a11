"""Guidance in a limited interval of noise levels (arXiv:2404.07724): none at the ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.extend import CombineWrapper, hookimpl, setting
from webui.hookspecs import Panel

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampling.guidance import Combine, Predictions


@dataclass(frozen=True)
class Settings:
    low: float = setting(0.3, low=0, high=1000, help="No guidance below this noise level.")
    high: float = setting(5.0, low=0, high=1000, help="No guidance above this noise level.")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low, {self.low:g}, must not lie above high, {self.high:g}")


def limited(combine: Combine, settings: Settings) -> Combine:
    """`combine` for sigma in (low, high]; outside of it the prompt alone. Equation 5."""

    def combine_limited(predictions: Predictions) -> Tensor:
        from core.sampling.guidance import classifier_free

        if settings.low < float(predictions.sigma) <= settings.high:
            return combine(predictions)
        return classifier_free(1.0)(predictions)

    return combine_limited


@hookimpl
def combine_wrappers() -> list[CombineWrapper]:
    return [CombineWrapper("limited_interval", Settings, limited)]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("limited_interval", Settings, "Guide in an interval only")]
