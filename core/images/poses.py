"""People as stick figures, in OpenPose's points and colours, as pose ControlNets were trained.

arXiv:1812.08008. Who finds the people is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw

Point: TypeAlias = tuple[float, float]
"""Pixels from the left and from the top."""

NECK = 1
POINTS = 18
FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's point → COCO's: nose, neck, right and left arm, right and left leg, eyes, ears."""
SHOULDERS = (5, 6)
"""COCO's; the neck lies between them."""
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
"""Of each point, and of each limb in their order."""
LIMB_SHARE = 0.6
"""Limbs are so much darker than points."""
NATIVE = 512
"""Pixels of the shorter side at which lines are as thick as in training."""
RADIUS = 4.0
OUTLINE = 48
"""Corners of what stands for an ellipse."""


@dataclass(frozen=True)
class Person:
    """Where the parts of one body are: OpenPose's 18 points; None: not seen."""

    points: tuple[Point | None, ...]


def person_of(found: Sequence[Point | None]) -> Person:
    """Of COCO's 17 points; the neck is in the middle of the shoulders."""
    left, right = (found[i] for i in SHOULDERS)
    neck = None
    if left is not None and right is not None:
        neck = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    return Person(tuple(neck if i is None else found[i] for i in FROM_COCO))


def drawn(people: Sequence[Person], size: tuple[int, int]) -> Image.Image:
    """RGB, black but for the figures, as thick as the picture is large."""
    canvas = Image.new("RGB", size)
    pen = ImageDraw.Draw(canvas)
    radius = RADIUS * max(1.0, min(size) / NATIVE)
    for person in people:
        for (first, last), colour in zip(LIMBS, COLOURS, strict=False):
            one, two = person.points[first], person.points[last]
            if one is not None and two is not None:
                darker = tuple(int(level * LIMB_SHARE) for level in colour)
                pen.polygon(ellipse(one, two, radius), fill=darker)
    for person in people:
        for point, colour in zip(person.points, COLOURS, strict=True):
            if point is not None:
                (x, y), r = point, radius
                pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return canvas


def ellipse(one: Point, two: Point, radius: float) -> list[Point]:
    """The outline of a limb: its ends are the ends of the long axis."""
    (x, y), (across, down) = one, (two[0] - one[0], two[1] - one[1])
    length = max(math.hypot(across, down), 1e-6)
    long, wide = length / 2, radius
    cos, sin = across / length, down / length
    turns = (2 * math.pi * i / OUTLINE for i in range(OUTLINE))
    around = [(long * math.cos(t), wide * math.sin(t)) for t in turns]
    middle = x + across / 2, y + down / 2
    return [(middle[0] + a * cos - b * sin, middle[1] + a * sin + b * cos) for a, b in around]
