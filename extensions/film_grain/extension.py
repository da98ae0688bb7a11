"""Film grain on finished pictures: the same seed, the same grain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.extend import Finisher, hookimpl, setting
from webui.hookspecs import Panel

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.request import GenerationRequest


@dataclass(frozen=True)
class Settings:
    amount: float = setting(
        0.04, low=0, high=0.5, step=0.01, help="Standard deviation; 1 is from black to white."
    )
    size: int = setting(1, low=1, high=16, help="Pixels across one grain.")


def grained(image: Image, request: GenerationRequest, settings: Settings) -> Image:
    """`image` with grain, strongest in the middle tones, as on film."""
    import numpy as np
    from PIL import Image as Pictures

    width, height = image.size
    rows, columns = -(-height // settings.size), -(-width // settings.size)
    grain = np.random.default_rng(request.seed).standard_normal((rows, columns))
    grain = grain.repeat(settings.size, 0).repeat(settings.size, 1)[:height, :width, None]
    levels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    light = levels.mean(-1, keepdims=True)
    levels = levels + settings.amount * 4 * light * (1 - light) * grain
    return Pictures.fromarray((levels.clip(0, 1) * 255).round().astype(np.uint8))


@hookimpl
def finishers() -> list[Finisher]:
    return [Finisher("film_grain", Settings, grained)]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("film_grain", Settings, "Film grain")]
