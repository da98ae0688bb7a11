"""An automatic judge of painted pictures: what does one show, how often, where, and before what?

Nothing here was learned. A background is the nearest drawn one at the picture's border; a thing is
the nearest rendered glyph or shape on that background, both cut to what differs from it; things are
counted as pieces that hang together. It is lenient: a ragged blob of the right colours may pass.
`measure` reports how often it is right on real drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from core.pocket import draw

CROP = 32  # pixels, of what is compared
RIM = 4  # pixels at the edge that are not looked at: a decoder's padding shows there
DIFFERS = 45.0  # Euclidean distance in RGB (0 to 255) from which a pixel is no background
SCENE_DIFFERS = 60.0  # the same where the background is no plain colour
RING = 8  # width of the border, in pixels, by which backgrounds are told apart
WAVER = 12  # pixels that the lines of a scene move up and down
COARSE = 2  # pixels on each side of a cell when pieces are counted
SMALLEST = 0.2  # of the largest piece's area: smaller ones are not counted

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """What differs from the background, scaled to CROP × CROP × 3, and log(width / height)."""

    pixels: Pixels
    ratio: float

    def distance(self, other: Cut) -> float:
        unlike = float(np.square((self.pixels - other.pixels) / 255).mean())
        return unlike + 0.05 * abs(self.ratio - other.ratio)


@dataclass(frozen=True)
class Piece:
    """A box round something that hangs together, as shares of the picture's sides."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def side(self) -> float:
        return max(self.right - self.left, self.bottom - self.top)


def values_of(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"), dtype=np.float32)


def border_colour(picture: Image.Image) -> Pixels:
    """The median of a frame four pixels wide inside the rim, (3,) in 0 to 255."""
    values = values_of(picture)[RIM:-RIM, RIM:-RIM]
    frame = (values[:4], values[-4:], values[:, :4], values[:, -4:])
    return np.median(np.concatenate([part.reshape(-1, 3) for part in frame]), axis=0)


def background_of(picture: Image.Image) -> str:
    """The nearest of the named colours."""
    found = border_colour(picture)
    return min(draw.COLOURS, key=lambda name: float(np.linalg.norm(found - draw.COLOURS[name])))


def ring(values: Pixels) -> Pixels:
    """The border, blurred a little, as one row of numbers."""
    small = values.reshape(len(values) // 4, 4, -1, 4, 3).mean((1, 3))
    width = RING // 4
    frame = (small[:width], small[-width:], small[:, :width], small[:, -width:])
    return np.concatenate([part.ravel() for part in frame])


@cache
def backdrops(background: str) -> tuple[Pixels, ...]:
    """Drawings of a background: four of a scene, which varies, one of any other."""
    count = 4 if background in draw.SCENES else 1
    drawn = (draw.backdrop(background, np.random.default_rng(seed)) for seed in range(count))
    return tuple(values_of(picture) for picture in drawn)


def nearest_backdrop(picture: Image.Image, backgrounds: Sequence[str]) -> str:
    """Whose drawing comes nearest to the picture's border."""
    found = ring(values_of(picture))

    def distance(background: str) -> float:
        drawings = backdrops(background)
        return min(float(np.square(found - ring(values)).mean()) for values in drawings)

    return min(backgrounds, key=distance)


def gradients() -> list[str]:
    """Every gradient there is, "A to B"."""
    return [
        f"{first} to {last}" for first in draw.COLOURS for last in draw.COLOURS if first != last
    ]


def differing(picture: Image.Image, background: str) -> Mask:
    """(H W): where the picture is not its background. On a plain one, its own border counts."""
    values = values_of(picture)
    if background in draw.COLOURS:
        found = np.linalg.norm(values - border_colour(picture), axis=-1) > DIFFERS
    else:
        found = scene_distance(values, background) > SCENE_DIFFERS
    found[:RIM] = found[-RIM:] = found[:, :RIM] = found[:, -RIM:] = False
    return found


def scene_distance(values: Pixels, background: str) -> Pixels:
    """(H W): to the nearest of the colours that the background has near this height."""
    least = np.full(values.shape[:2], np.inf, dtype=np.float32)
    for drawing in backdrops(background):
        for shift in range(-WAVER, WAVER + 1, 3):
            rows = np.clip(np.arange(len(values)) + shift, 0, len(values) - 1)
            least = np.minimum(least, np.linalg.norm(values - drawing[rows], axis=-1))
    return least


def box_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the rows and columns with more than specks; None: nothing."""
    rows, columns = (np.flatnonzero(mask.mean(axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut(picture: Image.Image, background: str) -> Cut:
    """The thing in a picture, or the whole of one that is nothing but background."""
    mask = differing(picture, background)
    if background not in draw.COLOURS:  # stars, bubbles and hills are no things
        mask = largest(mask)
    box = box_of(mask) or (0, 0, *picture.size)
    crop = picture.convert("RGB").crop(box).resize((CROP, CROP), Image.Resampling.BILINEAR)
    ratio = float(np.log((box[2] - box[0]) / (box[3] - box[1])))
    return Cut(np.asarray(crop, dtype=np.float32), ratio)


def labelled(mask: Mask) -> list[Mask]:
    """The parts of a mask that hang together (by rows and columns), largest first."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(numbers, 1)
        around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        spread = np.where(mask, np.maximum.reduce([numbers, *around]), 0)
        if (spread == numbers).all():
            break
        numbers = spread
    labels, areas = np.unique(numbers[mask], return_counts=True)
    return [numbers == label for label in labels[np.argsort(-areas)]]


def coarse(mask: Mask, reach: int = 3) -> Mask:
    """The mask in cells of COARSE pixels, with gaps of a cell closed by a filter of `reach`."""
    small = mask.reshape(len(mask) // COARSE, COARSE, -1, COARSE).mean((1, 3)) >= 0.5
    picture = Image.fromarray(small.astype(np.uint8) * 255)
    return np.asarray(picture.filter(ImageFilter.MaxFilter(reach))) > 0


def largest(mask: Mask) -> Mask:
    """Only the largest part of a mask, with gaps of a cell closed."""
    parts = labelled(coarse(mask))
    if not parts:
        return mask
    return mask & parts[0].repeat(COARSE, 0).repeat(COARSE, 1)


def pieces(picture: Image.Image, background: str) -> list[Piece]:
    """What stands apart from the background in parts that hang together, largest first."""
    found = labelled(coarse(differing(picture, background)))
    height, width = found[0].shape if found else (1, 1)
    kept = [part for part in found if part.sum() >= max(SMALLEST * found[0].sum(), 12)]
    boxes = []
    for part in kept:
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        boxes.append(
            Piece(
                float(columns[0] / width),
                float(rows[0] / height),
                float((columns[-1] + 1) / width),
                float((rows[-1] + 1) / height),
            )
        )
    return boxes


@cache
def reference(subject: draw.Subject, background: str) -> Cut:
    """A clean drawing of one thing, cut."""
    spec = draw.Spec((subject,), background)
    return cut(draw.paint(spec, np.random.default_rng(0)), background)


def concept_of(picture: Image.Image, background: str) -> str:
    """The concept whose drawing on `background` is nearest."""
    found = cut(picture, background)
    return min(
        draw.CONCEPTS,
        key=lambda name: found.distance(reference(draw.Subject(name), background)),
    )


def halves(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Left and right."""
    width, height = picture.size
    return picture.crop((0, 0, width // 2, height)), picture.crop((width // 2, 0, width, height))


def pair_of(picture: Image.Image, background: str) -> tuple[str, str]:
    """The concepts on the left and on the right."""
    left, right = halves(picture)
    return concept_of(left, background), concept_of(right, background)


def shape_of(picture: Image.Image, background: str) -> tuple[str, str]:
    """(shape, its colour) of the nearest drawing."""
    found = cut(picture, background)
    shapes = [
        draw.Subject(name, colour)
        for name in draw.SHAPES
        for colour in draw.COLOURS
        if colour != background
    ]
    nearest = min(shapes, key=lambda shape: found.distance(reference(shape, background)))
    return nearest.name, nearest.colour


def judged(picture: Image.Image) -> tuple[str, str]:
    """(concept, background) that the picture seems to show, on a plain colour."""
    background = background_of(picture)
    return concept_of(picture, background), background
