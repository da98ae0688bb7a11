"""Large pixels and few tones: two ways more to make a guide of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.extend import Preprocessor, hookimpl, setting

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Pixels:
    side: int = setting(16, low=2, high=128, step=1, help="Pixels of one square.")


@dataclass(frozen=True)
class Tones:
    tones: int = setting(4, low=2, high=32, step=1, help="Levels left of each colour.")


def large_pixels(picture: Image, settings: Pixels, mask: Image | None) -> Image:
    """Squares of the mean colour of what they cover."""
    from PIL.Image import Resampling

    width, height = (max(1, round(length / settings.side)) for length in picture.size)
    small = picture.resize((width, height), Resampling.BOX)
    return small.resize(picture.size, Resampling.NEAREST)


def few_tones(picture: Image, settings: Tones, mask: Image | None) -> Image:
    """Levels 0 to 255 in `tones` even parts, the first black and the last at its full."""
    most = settings.tones - 1
    levels = [round(min(most, level * settings.tones // 256) * 255 / most) for level in range(256)]
    return picture.point(levels * len(picture.getbands()))


@hookimpl
def preprocessors() -> list[Preprocessor]:
    return [
        Preprocessor(
            "large_pixels", "Large pixels", "Squares of one colour each.", Pixels, large_pixels
        ),
        Preprocessor("few_tones", "Few tones", "As a poster is printed.", Tones, few_tones),
    ]
