"""What Pocket is asked for when it is measured, and whether a picture shows it.

Every thing here stands on a background, or beside a thing, that it never stood on in training. A
verdict is given by `judge`; nothing here paints, or knows of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from core.pocket import draw, judge
from core.pocket.draw import Spec, Subject

PLACE_SLACK = 0.13  # of the picture's side, in x and in y
SMALL_UP_TO, LARGE_FROM = 0.6, 0.88  # of the picture's side, of the longer side of a thing


@dataclass(frozen=True)
class Verdict:
    """What is right, by name; and what the picture shows, in a few words."""

    right: Mapping[str, bool]
    seen: str


@dataclass(frozen=True)
class Trial:
    """A kind of picture: what is asked for, and how a picture of it is judged."""

    specs: tuple[Spec, ...]
    verdict: Callable[[Image.Image, Spec], Verdict]
    seeds: int = 1


def prompt(spec: Spec) -> str:
    """The plainest words for a spec."""
    subjects = " and ".join(subject_words(subject) for subject in spec.subjects)
    background = f"on {draw.with_article(spec.background)} background"
    if spec.background in draw.SCENES:
        background = draw.SCENES[spec.background].words
    elif " to " in spec.background:
        background = f"on {draw.with_article(spec.background)} gradient background"
    return " ".join(part for part in (subjects, spec.subjects[0].place, background) if part)


def subject_words(subject: Subject) -> str:
    name = subject.name if subject.count == 1 else draw.plural(subject.name)
    words = " ".join(word for word in (subject.size, subject.colour, name) if word)
    return (
        draw.with_article(words) if subject.count == 1 else f"{draw.NUMBERS[subject.count]} {words}"
    )


def one_thing(picture: Image.Image, spec: Spec) -> Verdict:
    """Thing and background. The thing is sought on the background that was asked for, so that a
    wrong one is counted once."""
    seen = judge.concept_of(picture, spec.background)
    background = background_seen(picture, spec.background)
    right = {"thing": seen == spec.subjects[0].name, "background": background == spec.background}
    return Verdict(right, seen if right["background"] else f"{seen} on {background}")


def background_seen(picture: Image.Image, wanted: str) -> str:
    """The nearest background: of the gradients where one is wanted, of all others elsewhere."""
    if wanted in draw.COLOURS:
        return judge.background_of(picture)
    if wanted in draw.SCENES:
        return judge.nearest_backdrop(picture, [*draw.COLOURS, *draw.SCENES])
    return judge.nearest_backdrop(picture, [*draw.COLOURS, *judge.gradients()])


def counted(picture: Image.Image, spec: Spec) -> Verdict:
    """How many pieces there are, and whether each of them is the thing that was asked for."""
    (subject,) = spec.subjects
    found = judge.pieces(picture, spec.background)
    names = [judge.concept_of(cropped(picture, piece), spec.background) for piece in found]
    right = {
        "count": len(found) == subject.count,
        "all of them right": len(found) == subject.count and set(names) == {subject.name},
        "background": judge.background_of(picture) == spec.background,
    }
    return Verdict(right, f"{len(found)}")


def cropped(picture: Image.Image, piece: judge.Piece) -> Image.Image:
    """A piece with so much of its background around it that the judge finds its border."""
    width, height = picture.size
    middle, reach = piece.middle, piece.side / 2 + 9 / 128
    box = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
    inside = [
        round(min(max(share, 0.0), 1.0) * side)
        for share, side in zip(box, (width, height) * 2, strict=True)
    ]
    return picture.crop((inside[0], inside[1], inside[2], inside[3]))


def paired(picture: Image.Image, spec: Spec) -> Verdict:
    """Both things, one on the left and one on the right."""
    seen = judge.pair_of(picture, spec.background)
    wanted = tuple(subject.name for subject in spec.subjects)
    right = {
        "both": set(seen) == set(wanted),
        "both, in their order": seen == wanted,
        "at least one": bool(set(seen) & set(wanted)),
        "background": judge.background_of(picture) == spec.background,
    }
    return Verdict(right, f"{seen[0]} and {seen[1]}")


def placed(picture: Image.Image, spec: Spec) -> Verdict:
    """The thing, and whether its middle is where it was wanted."""
    wanted = draw.PLACES[spec.subjects[0].place]
    found = judge.pieces(picture, spec.background)
    middle = found[0].middle if found else (9.0, 9.0)
    off = max(abs(is_at - should) for is_at, should in zip(middle, wanted, strict=True))
    seen = judge.concept_of(picture, spec.background)
    right = {"place": off <= PLACE_SLACK, "thing": seen == spec.subjects[0].name}
    return Verdict(right, f"{seen} at {middle[0]:.2f}, {middle[1]:.2f}")


def sized(picture: Image.Image, spec: Spec) -> Verdict:
    """The thing, and whether it is small or large as was asked."""
    found = judge.pieces(picture, spec.background)
    side = found[0].side if found else 0.0
    is_small = spec.subjects[0].size == "small"
    seen = judge.concept_of(picture, spec.background)
    right = {
        "size": 0 < side <= SMALL_UP_TO if is_small else side >= LARGE_FROM,
        "thing": seen == spec.subjects[0].name,
    }
    return Verdict(right, f"{seen} of {side:.2f}")


def shaped(picture: Image.Image, spec: Spec) -> Verdict:
    """The shape and its colour."""
    (subject,) = spec.subjects
    name, colour = judge.shape_of(picture, spec.background)
    right = {
        "shape": name == subject.name,
        "colour": colour == subject.colour,
        "background": judge.background_of(picture) == spec.background,
    }
    return Verdict(right, f"{colour} {name}")


def evenly(specs: list[Spec], count: int) -> tuple[Spec, ...]:
    """At most `count` of them, spread over the list."""
    step = max(1, len(specs) / count)
    return tuple(specs[int(i * step)] for i in range(min(count, len(specs))))


def on_backgrounds(backgrounds: list[str], count: int) -> tuple[Spec, ...]:
    """Every thing on such of these backgrounds as it never stood on; `count` of them."""
    found = [
        Spec((Subject(name),), background)
        for name in draw.CONCEPTS
        for background in backgrounds
        if draw.held_out(name, background)
    ]
    return evenly(found, count)


def pairs(count: int) -> tuple[Spec, ...]:
    """Two things that never stood side by side, on colours that go round.

    One of them is of the newer ones: the first run of the training held no pairs back.
    """
    colours = list(draw.COLOURS)
    found = [
        (first, second)
        for first in draw.CONCEPTS
        for second in draw.CONCEPTS
        if first != second
        and draw.never_together(first, second)
        and (first in draw.NEWER or second in draw.NEWER)
    ]
    specs = [
        Spec((Subject(first), Subject(second)), colours[number * 5 % len(colours)])
        for number, (first, second) in enumerate(found)
    ]
    return evenly(specs, count)


def shapes() -> tuple[Spec, ...]:
    """Shapes on colours that they never stood on, each in four colours of its own."""
    colours = list(draw.COLOURS)
    found = []
    for name in draw.SHAPES:
        for number, background in enumerate(colours):
            own = [colours[(number + step) % len(colours)] for step in (2, 5, 7, 10)]
            if draw.held_out(name, background):
                found += [Spec((Subject(name, colour),), background) for colour in own]
    return tuple(found)


def trials(seeds: int) -> dict[str, Trial]:
    """Everything that is measured; one thing on a colour with `seeds` seeds each."""
    plain = draw.held_out_specs()
    things = [(spec.subjects[0].name, spec.background) for spec in plain]
    numbers = [
        (name, colour, 2 + (i + k) % 3) for k in (0, 1) for i, (name, colour) in enumerate(things)
    ]
    places, sizes = list(draw.PLACES), ("small", "large")
    return {
        "one thing on a colour": Trial(tuple(plain), one_thing, seeds),
        "one thing on a gradient": Trial(on_backgrounds(judge.gradients(), 48), one_thing),
        "one thing in a scene": Trial(on_backgrounds(list(draw.SCENES), 48), one_thing),
        "two to four of a thing": Trial(
            tuple(Spec((Subject(name, count=count),), colour) for name, colour, count in numbers),
            counted,
        ),
        "a pair": Trial(pairs(72), paired),
        "a thing in a place": Trial(
            tuple(
                Spec((Subject(name, place=places[i % len(places)]),), colour)
                for i, (name, colour) in enumerate(things)
            ),
            placed,
        ),
        "a small or large thing": Trial(
            tuple(
                Spec((Subject(name, size=sizes[i % 2]),), colour)
                for i, (name, colour) in enumerate(things[::2])
            ),
            sized,
        ),
        "a shape in a colour": Trial(shapes(), shaped),
    }
