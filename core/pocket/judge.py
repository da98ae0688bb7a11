"""An automatic judge of painted pictures: which glyph on which colour does one show?

The background is the named colour nearest to the picture's border; the concept is the nearest
rendered glyph on that background, both cut to what differs from it. It is lenient: a ragged blob
of the right colours may pass. `measure` reports how often it is right on real drawings.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.pocket import draw

CROP = 32  # pixels, of what is compared
RIM = 4  # pixels at the edge that are not looked at: a decoder's padding shows there
DIFFERS = 45.0  # Euclidean distance in RGB (0 to 255) from which a pixel is no background

Pixels = NDArray[np.float32]


def border_colour(picture: Image.Image) -> Pixels:
    """The median of a frame four pixels wide inside the rim, (3,) in 0 to 255."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32)[RIM:-RIM, RIM:-RIM]
    frame = (values[:4], values[-4:], values[:, :4], values[:, -4:])
    return np.median(np.concatenate([part.reshape(-1, 3) for part in frame]), axis=0)


def background_of(picture: Image.Image) -> str:
    """The nearest of the named colours."""
    found = border_colour(picture)
    return min(draw.COLOURS, key=lambda name: float(np.linalg.norm(found - draw.COLOURS[name])))


def cut(picture: Image.Image) -> tuple[Pixels, float]:
    """(what differs from the border, scaled to CROP × CROP × 3; log of width over height)."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32)
    differs = np.linalg.norm(values - border_colour(picture), axis=-1) > DIFFERS
    differs[:RIM] = differs[-RIM:] = differs[:, :RIM] = differs[:, -RIM:] = False
    rows, columns = (np.flatnonzero(differs.mean(axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return np.asarray(picture.resize((CROP, CROP)), dtype=np.float32), 0.0
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    crop = picture.convert("RGB").crop(box).resize((CROP, CROP), Image.Resampling.BILINEAR)
    ratio = float(np.log((box[2] - box[0]) / (box[3] - box[1])))
    return np.asarray(crop, dtype=np.float32), ratio


@cache
def reference(name: str, background: str) -> tuple[Pixels, float]:
    """A clean drawing of the pair, cut."""
    spec = draw.Spec((draw.Subject(name),), background)
    return cut(draw.paint(spec, np.random.default_rng(0)))


def concept_of(picture: Image.Image, background: str) -> str:
    """The concept whose drawing on `background` is nearest."""
    crop, ratio = cut(picture)

    def distance(name: str) -> float:
        other, other_ratio = reference(name, background)
        return float(np.square((crop - other) / 255).mean()) + 0.05 * abs(ratio - other_ratio)

    return min(draw.CONCEPTS, key=distance)


def judged(picture: Image.Image) -> tuple[str, str]:
    """(concept, background) that the picture seems to show."""
    background = background_of(picture)
    return concept_of(picture, background), background
