"""Rescaled guidance (arXiv:2305.08891, section 3.4): fewer burnt colours at a high cfg_scale."""

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
    amount: float = setting(
        0.7, low=0, high=1, step=0.05, help="0: guidance as it is; 1: fully rescaled."
    )


def rescaled(combine: Combine, settings: Settings) -> Combine:
    """Gives what guidance makes the spread that the prompt alone has, by `amount`.

    Equations 14 to 16, on v as in the paper.
    """

    def combine_rescaled(predictions: Predictions) -> Tensor:
        from core.sampling.guidance import classifier_free
        from core.sampling.prediction import Prediction

        guided = combine(predictions)
        if predictions.uncond is None:
            return guided
        prompted = classifier_free(1.0)(predictions)
        x, sigma = predictions.x, predictions.sigma
        wanted, v = (Prediction.V.output(x, sigma, d) for d in (prompted, guided))
        ratio = wanted.std((1, 2, 3), keepdim=True) / v.std((1, 2, 3), keepdim=True)
        mixed = settings.amount * ratio * v + (1 - settings.amount) * v
        return Prediction.V.denoised(x, sigma, mixed)

    return combine_rescaled


@hookimpl
def combine_wrappers() -> list[CombineWrapper]:
    return [CombineWrapper("guidance_rescale", Settings, rescaled)]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("guidance_rescale", Settings, "Rescale guidance")]
