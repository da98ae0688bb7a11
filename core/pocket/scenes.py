"""Nine drawn backgrounds and the gradient: a few strokes each, with a little chance in them.

Knows nothing of what is put in front of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Painter = Callable[[np.random.Generator, int], Image.Image]


@dataclass(frozen=True)
class Scene:
    """A background with words of its own; `paint` gives RGB (size, size)."""

    words: str
    paint: Painter


def gradient(top: Colour, bottom: Colour, size: int) -> Image.Image:
    """From `top` down to `bottom`, RGB (size, size)."""
    ramp = np.linspace(0, 1, size)[:, None, None]
    rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (size, size, 3)).astype(np.uint8))


def wave(rng: np.random.Generator, size: int, height: float, swing: float) -> list[tuple[int, int]]:
    """A polygon filled from a wavy line at `height` (share of the picture) to the bottom."""
    xs = np.linspace(0, size, 33)
    turns, phase = rng.uniform(0.8, 1.6), rng.uniform(0, 6.3)
    ys = size * (height + swing * np.sin(turns * 6.3 * xs / size + phase))
    return [*((round(x), round(y)) for x, y in zip(xs, ys, strict=True)), (size, size), (0, size)]


def dots(rng: np.random.Generator, image: Image.Image, count: int, colour: Colour) -> None:
    """Small dots in the upper 70 %, in place."""
    size = image.width
    pen = ImageDraw.Draw(image)
    for x, y in zip(rng.uniform(0, size, count), rng.uniform(0, 0.7 * size, count), strict=True):
        radius = size / 128
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def night_sky(rng: np.random.Generator, size: int) -> Image.Image:
    image = gradient((10, 14, 50), (40, 40, 100), size)
    dots(rng, image, 24, (250, 250, 220))
    return image


def snow(rng: np.random.Generator, size: int) -> Image.Image:
    image = gradient((150, 190, 230), (205, 225, 245), size)
    ImageDraw.Draw(image).polygon(wave(rng, size, 0.68, 0.03), fill=(248, 250, 255))
    dots(rng, image, 18, (255, 255, 255))
    return image


def ground(
    above: tuple[Colour, Colour], below: Colour, height: float, swing: float = 0.02
) -> Painter:
    """A painter of a sky over one kind of ground."""

    def paint(rng: np.random.Generator, size: int) -> Image.Image:
        image = gradient(*above, size)
        ImageDraw.Draw(image).polygon(wave(rng, size, height, swing), fill=below)
        return image

    return paint


def beach(rng: np.random.Generator, size: int) -> Image.Image:
    image = gradient((120, 200, 250), (190, 230, 250), size)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, round(0.5 * size), size, size), fill=(40, 140, 200))
    pen.polygon(wave(rng, size, 0.72, 0.02), fill=(240, 215, 150))
    return image


def sunset(rng: np.random.Generator, size: int) -> Image.Image:
    image = gradient((90, 50, 130), (255, 150, 60), size)
    ImageDraw.Draw(image).polygon(wave(rng, size, 0.8, 0.03), fill=(50, 25, 50))
    return image


def mountains(rng: np.random.Generator, size: int) -> Image.Image:
    image = gradient((140, 190, 240), (215, 230, 245), size)
    pen = ImageDraw.Draw(image)
    for middle, colour in ((0.2, (120, 125, 150)), (0.75, (95, 105, 130)), (0.48, (105, 112, 140))):
        x, peak = size * (middle + rng.uniform(-0.05, 0.05)), size * rng.uniform(0.2, 0.35)
        pen.polygon([(x, peak), (x + 0.5 * size, size), (x - 0.5 * size, size)], fill=colour)
        tip = 0.12 * size
        pen.polygon(
            [(x, peak), (x + 0.09 * size, peak + tip), (x - 0.09 * size, peak + tip)], "white"
        )
    return image


def underwater(rng: np.random.Generator, size: int) -> Image.Image:
    image = gradient((40, 160, 200), (10, 50, 110), size)
    pen = ImageDraw.Draw(image)
    for x, y in zip(rng.uniform(0, size, 8), rng.uniform(0, size, 8), strict=True):
        radius = size * 0.02
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, outline=(190, 230, 250))
    return image


SCENES: Final[dict[str, Scene]] = {
    "night sky": Scene("in the night sky", night_sky),
    "sea": Scene(
        "on the sea", ground(((150, 210, 250), (210, 235, 250)), (30, 100, 180), 0.6, 0.015)
    ),
    "snow": Scene("in the snow", snow),
    "meadow": Scene(
        "in a meadow", ground(((120, 195, 250), (200, 230, 250)), (90, 180, 70), 0.62, 0.03)
    ),
    "beach": Scene("on the beach", beach),
    "desert": Scene(
        "in the desert", ground(((250, 200, 120), (255, 230, 180)), (220, 165, 90), 0.65, 0.04)
    ),
    "sunset": Scene("at sunset", sunset),
    "mountains": Scene("in the mountains", mountains),
    "underwater": Scene("under water", underwater),
}
