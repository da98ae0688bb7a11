"""The pictures Pocket learns from: emoji glyphs and flat shapes on plain or drawn backgrounds.

A picture is drawn from a `Spec`, a plain value, and a generator; the caption is made from the
same value. Nothing here knows of latents, networks or files, except for the font
(Noto Color Emoji, SIL Open Font License 1.1), which is read once.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.pocket.scenes import SCENES, gradient

FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE: Final = 109  # the one size of the font's CBDT bitmaps
SIZE: Final = 128

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (50, 160, 70),
    "cyan": (80, 205, 220),
    "blue": (45, 85, 205),
    "purple": (125, 55, 170),
    "pink": (245, 160, 195),
    "brown": (120, 75, 45),
    "black": (20, 20, 22),
    "gray": (130, 132, 136),
    "white": (246, 246, 246),
}


@dataclass(frozen=True)
class Concept:
    """A thing that can be asked for: its name, its glyph, and a colour word that fits it."""

    name: str
    glyph: str
    colour: str = ""
    plural: str = ""


CONCEPTS: Final[dict[str, Concept]] = {
    concept.name: concept
    for concept in (
        Concept("apple", "🍎", "red"),
        Concept("banana", "🍌", "yellow"),
        Concept("strawberry", "🍓", "red", "strawberries"),
        Concept("pumpkin", "🎃", "orange"),
        Concept("mushroom", "🍄", "red"),
        Concept("cactus", "🌵", "green", "cactuses"),
        Concept("tree", "🌳", "green"),
        Concept("sunflower", "🌻", "yellow"),
        Concept("heart", "❤", "red"),
        Concept("star", "⭐", "yellow"),
        Concept("sun", "🌞", "yellow"),
        Concept("moon", "🌙", "yellow"),
        Concept("ghost", "👻", "white"),
        Concept("penguin", "🐧"),
        Concept("cat", "🐱", "orange"),
        Concept("frog", "🐸", "green"),
        Concept("fish", "🐠", "", "fish"),
        Concept("butterfly", "🦋", "orange", "butterflies"),
        Concept("snowman", "⛄", "white", "snowmen"),
        Concept("house", "🏠"),
        Concept("car", "🚗", "red"),
        Concept("rocket", "🚀"),
        Concept("balloon", "🎈", "red"),
        Concept("umbrella", "☂", "purple"),
        Concept("dog", "🐶"),
        Concept("pig", "🐷", "pink"),
        Concept("whale", "🐳", "blue"),
        Concept("pineapple", "🍍", "yellow"),
        Concept("watermelon", "🍉", "red"),
        Concept("donut", "🍩", "brown"),
        Concept("robot", "🤖"),
        Concept("crown", "👑", "yellow"),
        Concept("panda", "🐼"),
        Concept("lion", "🦁", "orange"),
        Concept("rabbit", "🐰", "gray"),
        Concept("chick", "🐥", "yellow"),
        Concept("turtle", "🐢", "green"),
        Concept("octopus", "🐙", "pink"),
        Concept("crab", "🦀", "orange"),
        Concept("ladybug", "🐞", "red"),
        Concept("unicorn", "🦄", "white"),
        Concept("elephant", "🐘", "gray"),
        Concept("owl", "🦉", "brown"),
        Concept("lemon", "🍋", "yellow"),
        Concept("carrot", "🥕", "orange"),
        Concept("pizza", "🍕"),
        Concept("burger", "🍔"),
        Concept("cake", "🎂"),
        Concept("tulip", "🌷", "pink"),
        Concept("boat", "⛵"),
        Concept("bus", "🚌"),
        Concept("bell", "🔔", "yellow"),
        Concept("gift", "🎁"),
        Concept("clock", "⏰", "red"),
        Concept("ball", "⚽"),
        Concept("alien", "👽", "gray"),
    )
}
NEWER: Final = tuple(CONCEPTS)[32:]  # learned in the second run of the training

SHAPES: Final = ("circle", "square", "triangle", "diamond", "ring", "cross", "hexagon")

# Place: (x, y) of the middle, as shares of the picture.
PLACES: Final[dict[str, tuple[float, float]]] = {
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75),
    "in the top left corner": (0.25, 0.25),
    "in the top right corner": (0.75, 0.25),
    "in the bottom left corner": (0.25, 0.75),
    "in the bottom right corner": (0.75, 0.75),
}
NUMBERS: Final = ("", "one", "two", "three", "four")
# Size: range of the longer side, as a share of the picture.
SIZES: Final[dict[str, tuple[float, float]]] = {
    "": (0.72, 0.88),
    "small": (0.36, 0.46),
    "large": (0.93, 1.0),
}
LAYOUTS: Final[dict[int, tuple[tuple[float, float], ...]]] = {
    2: ((0.25, 0.5), (0.75, 0.5)),
    3: ((0.5, 0.26), (0.25, 0.74), (0.75, 0.74)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}


@dataclass(frozen=True)
class Subject:
    """One kind of thing in a picture. A shape's `colour` is its own; a glyph has none."""

    name: str
    colour: str = ""
    size: str = ""
    place: str = ""
    count: int = 1


@dataclass(frozen=True)
class Spec:
    """What a picture shows. `background` is a colour, "A to B" for a gradient, or a scene."""

    subjects: tuple[Subject, ...]
    background: str


@dataclass(frozen=True)
class Mix:
    """Shares (0 to 1) of the richer pictures; what is left over is one glyph on one colour."""

    gradients: float = 0.0
    scenes: float = 0.0
    shapes: float = 0.0
    sizes: float = 0.0
    places: float = 0.0
    counts: float = 0.0
    pairs: float = 0.0
    newer: float = 0.0
    """Share of the glyphs that is drawn from `NEWER` alone."""


def held_out(name: str, background: str) -> bool:
    """Whether this pair is kept from training, by a hash of the names: about one in twelve.

    `background` is a background, or the second thing of a pair.
    """
    return zlib.crc32(f"{name} on {background}".encode()) % 12 == 0


def never_together(first: str, second: str) -> bool:
    """Whether training never shows these two as a pair, in either order: about one in six."""
    return held_out(first, second) or held_out(second, first)


def random_background(rng: np.random.Generator, mix: Mix) -> str:
    colours = list(COLOURS)
    kind = rng.random()
    if kind < mix.gradients:
        first, second = rng.choice(len(colours), 2, replace=False)
        return f"{colours[first]} to {colours[second]}"
    if kind < mix.gradients + mix.scenes:
        return list(SCENES)[rng.integers(len(SCENES))]
    return colours[rng.integers(len(colours))]


def random_subject(rng: np.random.Generator, mix: Mix, background: str) -> Subject:
    """A glyph, or a shape in another colour than the background, sometimes of a told size."""
    size = ""
    if rng.random() < mix.sizes:
        size = ("small", "large")[rng.integers(2)]
    if rng.random() < mix.shapes:
        colours = [colour for colour in COLOURS if colour not in background.split(" to ")]
        colour = colours[rng.integers(len(colours))]
        return Subject(SHAPES[rng.integers(len(SHAPES))], colour, size)
    names = NEWER if rng.random() < mix.newer else tuple(CONCEPTS)
    return Subject(names[rng.integers(len(names))], size=size)


def random_spec(rng: np.random.Generator, mix: Mix) -> Spec:
    """A spec of the training split: no subject is held out on its background."""
    while True:
        background = random_background(rng, mix)
        subject = random_subject(rng, mix, background)
        kind = rng.random()
        subjects: tuple[Subject, ...] = (subject,)
        if kind < mix.pairs:
            other = random_subject(rng, mix, background)
            subjects = (Subject(subject.name, subject.colour), Subject(other.name, other.colour))
            if subject.name == other.name or never_together(subject.name, other.name):
                continue
        elif kind < mix.pairs + mix.counts:
            subjects = (Subject(subject.name, subject.colour, count=int(rng.integers(2, 5))),)
        elif kind < mix.pairs + mix.counts + mix.places:
            place = list(PLACES)[rng.integers(len(PLACES))]
            subjects = (Subject(subject.name, subject.colour, place=place),)
        if not any(held_out(each.name, background) for each in subjects):
            return Spec(subjects, background)


def plural(name: str) -> str:
    concept = CONCEPTS.get(name)
    if concept and concept.plural:
        return concept.plural
    return f"{name}es" if name.endswith("s") else f"{name}s"


def with_article(words: str) -> str:
    vowel = words[0] in "aeiou" and not words.startswith("uni")
    return f"an {words}" if vowel else f"a {words}"


def subject_words(subject: Subject, rng: np.random.Generator) -> str:
    """ "a red apple", "three small stars": a glyph's own colour word is told half the time."""
    concept = CONCEPTS.get(subject.name)
    colour, name = subject.colour, subject.name
    if concept and concept.colour and rng.random() < 0.4:
        colour = concept.colour
    if subject.count > 1:
        name = plural(name)
    words = " ".join(word for word in (subject.size, colour, name) if word)
    return f"{NUMBERS[subject.count]} {words}" if subject.count > 1 else with_article(words)


def background_words(background: str, rng: np.random.Generator) -> str:
    if background in SCENES:
        return SCENES[background].words
    if " to " in background:
        return f"on a {background} gradient background"
    return f"on {with_article(background)} background"


def caption(spec: Spec, rng: np.random.Generator) -> str:
    """One of a few ways to say it; nearly always both the subject and its background are named."""
    subjects = " and ".join(subject_words(subject, rng) for subject in spec.subjects)
    background = background_words(spec.background, rng)
    place = spec.subjects[0].place
    way = rng.random()
    if way < 0.04:
        return subjects
    if way < 0.06:
        return background
    plain = spec.background in COLOURS
    if plain and way < 0.2:
        return ", ".join(
            part for part in (subjects, place, f"{spec.background} background") if part
        )
    if plain and way < 0.3:
        bare = subjects.removeprefix("an ").removeprefix("a ")
        return " ".join(part for part in (bare, place, f"on {spec.background}") if part)
    separator = ", " if way < 0.35 else " "
    return separator.join(part for part in (subjects, place, background) if part)


@cache
def glyph(name: str) -> Image.Image:
    """The concept's glyph as RGBA with its empty border cut off."""
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    text = CONCEPTS[name].glyph
    ImageDraw.Draw(canvas).text((10, 10), text, font=font, embedded_color=True)
    return canvas.crop(canvas.getchannel("A").getbbox())


@cache
def shape(name: str, colour: str) -> Image.Image:
    """A flat shape, RGBA, drawn at 256 pixels so that shrinking smooths its edges."""
    mask = Image.new("L", (256, 256), 0)
    pen = ImageDraw.Draw(mask)
    if name == "circle":
        pen.ellipse((0, 0, 255, 255), fill=255)
    elif name == "ring":
        pen.ellipse((0, 0, 255, 255), fill=255)
        pen.ellipse((62, 62, 193, 193), fill=0)
    elif name == "cross":
        pen.rectangle((86, 0, 169, 255), fill=255)
        pen.rectangle((0, 86, 255, 169), fill=255)
    else:
        corners = {
            "square": [(0, 0), (255, 0), (255, 255), (0, 255)],
            "triangle": [(128, 0), (255, 230), (0, 230)],
            "diamond": [(128, 0), (255, 128), (128, 255), (0, 128)],
            "hexagon": [(64, 17), (191, 17), (255, 128), (191, 238), (64, 238), (0, 128)],
        }
        pen.polygon(corners[name], fill=255)
    picture = Image.new("RGBA", mask.size, (*COLOURS[colour], 0))
    picture.putalpha(mask)
    return picture


def backdrop(background: str, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """The background alone, RGB (size, size)."""
    if background in SCENES:
        return SCENES[background].paint(rng, size)
    if " to " in background:
        first, second = background.split(" to ")
        return gradient(COLOURS[first], COLOURS[second], size)
    return Image.new("RGB", (size, size), COLOURS[background])


def boxes(spec: Spec, rng: np.random.Generator) -> list[tuple[Subject, float, float, float]]:
    """(subject, x, y, longer side) of every thing, as shares of the picture."""
    placed = []
    if len(spec.subjects) == 2:
        for subject, (x, y) in zip(spec.subjects, LAYOUTS[2], strict=True):
            placed.append((subject, x, y, rng.uniform(0.42, 0.46)))
        return placed
    subject = spec.subjects[0]
    if subject.count > 1:
        side = rng.uniform(0.39, 0.44)
        return [(subject, x, y, side) for x, y in LAYOUTS[subject.count]]
    if subject.place:
        x, y = PLACES[subject.place]
        return [(subject, x, y, rng.uniform(0.38, 0.46))]
    side = rng.uniform(*SIZES[subject.size])
    room = 0.5 * min(1.0 - side, 0.16)
    return [(subject, 0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room), side)]


def paint(spec: Spec, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """The picture of a spec, RGB (size, size); places and sizes vary a little with `rng`."""
    picture = backdrop(spec.background, rng, size)
    for subject, x, y, side in boxes(spec, rng):
        source = shape(subject.name, subject.colour) if subject.colour else glyph(subject.name)
        scale = side * size / max(source.size)
        width, height = (max(1, round(scale * length)) for length in source.size)
        stamp = source.resize((width, height), Image.Resampling.BILINEAR)
        corner = (round(x * size - width / 2), round(y * size - height / 2))
        picture.paste(stamp, corner, stamp)
    return picture


def example(seed: int, mix: Mix, size: int = SIZE) -> tuple[Image.Image, str]:
    """Picture number `seed` of the training split, with its caption."""
    rng = np.random.default_rng(seed)
    spec = random_spec(rng, mix)
    return paint(spec, rng, size), caption(spec, rng)


def held_out_specs() -> list[Spec]:
    """Every held-out pair of one glyph and one plain colour, in a fixed order."""
    return [
        Spec((Subject(name),), colour)
        for name in CONCEPTS
        for colour in COLOURS
        if held_out(name, colour)
    ]


def pixels(picture: Image.Image) -> NDArray[np.float32]:
    """(H, W, 3) in -1 to 1."""
    return np.asarray(picture, dtype=np.float32) / 127.5 - 1
