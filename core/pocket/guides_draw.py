"""What Pocket's two guides learn from: drawn pictures, each with a guide as a person might draw it.

The guides are made by the same preprocessors as on the page (`core.images.guides`), with settings
that vary; then lines are bent, thickened and broken, colours shifted. Every lesson follows from its
number. Nothing here knows of networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from core.images.guides import preprocessor
from core.pocket import draw

Part: TypeAlias = Literal["edges", "colour"]
Levels: TypeAlias = NDArray[np.uint8]

MIX: Final = draw.Mix(0.06, 0.12, 0.12, 0.15, 0.15, 0.1, 0.15, newer=0.2)
SILENT: Final = 0.3
"""Share of the pictures whose guide alone says what they are."""
SHORT: Final = 0.2
"""Share of those with words whose words leave the background to the guide."""
SCATTERED: Final = 0.5
"""Share of those on a plain colour which are put anywhere, at any size."""
SMALLEST: Final = 48  # pixels of such a picture, before it is put on the whole


@dataclass(frozen=True)
class Drawing:
    """A picture that is taken apart."""

    picture: Image.Image
    """RGB."""
    ground: Image.Image
    """Its background alone, RGB."""
    things: Image.Image
    """Where it is not background: mode L."""
    spec: draw.Spec


@dataclass(frozen=True)
class Lesson:
    """What a guide is taught: its picture, what is to be painted, and the words."""

    guide: Image.Image
    """RGB, as large as the picture."""
    picture: Image.Image
    caption: str


def lesson(number: int, part: Part) -> Lesson:
    """Number `number` of the training split; the same picture and words for both parts."""
    rng = np.random.default_rng(number)
    spec = draw.random_spec(rng, MIX)
    drawing = scattered(spec, rng) if may_scatter(spec, rng) else drawn(spec, rng)
    caption = "" if rng.random() < SILENT else words(spec, rng)
    guide = outline(drawing, rng) if part == "edges" else colours(drawing, rng)
    return Lesson(guide, drawing.picture, caption)


def words(spec: draw.Spec, rng: np.random.Generator) -> str:
    """A caption as in the training of the weights, or the things alone."""
    if rng.random() < SHORT:
        return " and ".join(draw.subject_words(subject, rng) for subject in spec.subjects)
    return draw.caption(spec, rng)


def drawn(spec: draw.Spec, rng: np.random.Generator, size: int = draw.SIZE) -> Drawing:
    """A spec's picture, its background and where the two differ."""
    seed = int(rng.integers(2**32))

    def painted(background: str) -> Image.Image:
        return draw.paint(replace(spec, background=background), np.random.default_rng(seed), size)

    picture = painted(spec.background)
    ground = draw.backdrop(spec.background, np.random.default_rng(seed), size)
    if spec.background in draw.SCENES:
        pair = picture, ground
    else:  # on these a thing stands at the same place, and what shows through tells its rim
        pair = painted("black"), painted("white")
    first, second = (np.asarray(one, dtype=np.int16) for one in pair)
    apart = np.abs(first - second).max(axis=2)
    shown = apart > 24 if spec.background in draw.SCENES else apart < 113
    return Drawing(picture, ground, Image.fromarray(shown.astype(np.uint8) * 255), spec)


def may_scatter(spec: draw.Spec, rng: np.random.Generator) -> bool:
    """Whether a picture is put anywhere: only where its words tell no size and no place."""
    told = any(subject.size or subject.place for subject in spec.subjects)
    return rng.random() < SCATTERED and spec.background in draw.COLOURS and not told


def scattered(spec: draw.Spec, rng: np.random.Generator) -> Drawing:
    """A smaller picture on a plain colour, somewhere on a whole one of that colour."""
    side = int(rng.integers(SMALLEST, draw.SIZE + 1))
    left, top = (int(place) for place in rng.integers(0, draw.SIZE - side + 1, 2))
    small = drawn(spec, rng, side)
    ground = draw.backdrop(spec.background, rng)
    picture, things = ground.copy(), Image.new("L", ground.size, 0)
    picture.paste(small.picture, (left, top))
    things.paste(small.things, (left, top))
    return Drawing(picture, ground, things, spec)


def made(name: str, picture: Image.Image, **settings: Any) -> Image.Image:
    """What a preprocessor makes of a picture."""
    one = preprocessor(name)
    return one(picture, one.checked(settings))


def outline(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """White lines on black: all edges that are seen, those of the things, or their rims alone."""
    kind = rng.random()
    if kind < 0.2:
        lines = soft(drawing.picture, rng)
    elif kind < 0.4:
        low = int(rng.integers(30, 160))
        lines = made("canny", drawing.picture, low=low, high=int(rng.integers(low, 256)))
    elif kind < 0.65:
        flat = made("segments", alone(drawing), colours=int(rng.integers(3, 7)))
        blurred = made("blur", flat, sigma=float(rng.uniform(0, 2)))
        lines = made("canny", blurred, low=20, high=60)
    else:
        rims = made("blur", drawing.things.convert("RGB"), sigma=float(rng.uniform(0, 2.5)))
        lines = made("canny", rims, low=20, high=60)
    return by_hand(lines.convert("L"), rng).convert("RGB")


def soft(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Ridges, as they are or cut to lines."""
    gain, blur = float(rng.uniform(0.8, 4)), float(rng.uniform(0, 2))
    ridges = made("soft_edges", picture, gain=gain, blur=blur)
    return ridges if rng.random() < 0.5 else made("threshold", ridges, level=90)


def alone(drawing: Drawing) -> Image.Image:
    """The things on a grey that few of them have."""
    ground = Image.new("RGB", drawing.picture.size, (168, 172, 160))
    ground.paste(drawing.picture, mask=drawing.things)
    return ground


def by_hand(lines: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Lines (mode L) as a hand might draw them: bent, thicker, broken, paler."""
    levels = np.asarray(lines)
    if rng.random() < 0.6:
        levels = bent(levels, float(rng.uniform(0.5, 3)), rng)
    drawn_lines = Image.fromarray(levels)
    thickness = (1, 3, 3, 5)[rng.integers(4)]
    if thickness > 1:
        drawn_lines = drawn_lines.filter(ImageFilter.MaxFilter(thickness))
    if rng.random() < 0.25:
        drawn_lines = drawn_lines.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.2))))
    levels = np.array(drawn_lines)
    for _ in range(rng.integers(1, 4) if rng.random() < 0.25 else 0):
        top, left = rng.integers(0, draw.SIZE, 2)
        levels[top : top + 12, left : left + 12] = 0
    return Image.fromarray((levels * rng.uniform(0.75, 1)).round().astype(np.uint8))


def bent(levels: Levels, most: float, rng: np.random.Generator) -> Levels:
    """(H W) or (H W c), each place taken from one up to about `most` pixels away, smoothly."""
    size = levels.shape[1], levels.shape[0]
    shifts = [
        np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        for coarse in rng.uniform(-most, most, (2, 6, 6)).astype(np.float32)
    ]
    rows, columns = np.mgrid[: levels.shape[0], : levels.shape[1]]
    row = np.clip(np.round(rows + shifts[0]), 0, levels.shape[0] - 1).astype(int)
    column = np.clip(np.round(columns + shifts[1]), 0, levels.shape[1] - 1).astype(int)
    return levels[row, column]


def colours(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Coarse colours: the picture blurred, in mosaic, in flat regions, or as patches."""
    kind = rng.random()
    if kind < 0.25:
        coarse = made("blur", drawing.picture, sigma=float(rng.uniform(2, 12)))
    elif kind < 0.4:
        coarse = made("tile", drawing.picture, shrink=float(rng.uniform(3, 8)))
    elif kind < 0.65:
        smooth = made("blur", drawing.picture, sigma=float(rng.uniform(0, 4)))
        coarse = made("segments", smooth, colours=int(2 ** rng.uniform(1, 4.5)))
    else:
        coarse = patches(drawing, rng)
    levels = np.asarray(coarse)
    if rng.random() < 0.5:
        levels = bent(levels, float(rng.uniform(1, 4)), rng)
    shifted = levels + rng.normal(0, 8, 3)
    return Image.fromarray(shifted.round().clip(0, 255).astype(np.uint8))


def patches(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """Each thing as a smooth patch of its mean colour, on the background's few colours."""
    ground = made("blur", drawing.ground, sigma=6.0)
    if rng.random() < 0.5:
        ground = made("segments", ground, colours=2)
    smooth = drawing.things.filter(ImageFilter.GaussianBlur(float(rng.uniform(2, 7))))
    patch, shown = (np.asarray(mask) > 100 for mask in (smooth, drawing.things))
    levels, flat = np.asarray(drawing.picture), np.array(ground)
    columns = np.arange(shown.shape[1])
    sides = [columns >= 0]
    if len(drawing.spec.subjects) == 2 and shown.any():  # left and right have colours of their own
        left = columns < np.flatnonzero(shown.any(axis=0)).mean()
        sides = [left, ~left]
    for side in sides:
        inside = shown & side
        if inside.any():
            flat[patch & side] = levels[inside].mean(axis=0)
    return Image.fromarray(flat)
