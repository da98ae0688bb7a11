"""Stick figures, in points and colours that pose networks were trained on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.images.poses import COLOURS, FROM_COCO, LIMBS, POINTS, Person, drawn, person_of

COCO = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
]
OPENPOSE = [
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
]


def test_each_point_is_the_one_of_its_name() -> None:
    person = person_of([(float(i), 2.0 * i) for i in range(len(COCO))])
    for name, point in zip(OPENPOSE, person.points, strict=True):
        if name == "neck":
            assert point == (5.5, 11)
        else:
            assert point == (COCO.index(name), 2 * COCO.index(name))
    assert len(FROM_COCO) == len(COLOURS) == POINTS


def test_without_both_shoulders_there_is_no_neck() -> None:
    found = [None if name == "left_shoulder" else (1.0, 1.0) for name in COCO]
    assert person_of(found).points[1] is None


@pytest.mark.parametrize("limb", range(len(LIMBS)))
def test_a_limb_lies_between_its_points_in_its_colour(limb: int) -> None:
    first, last = LIMBS[limb]
    points: list[tuple[float, float] | None] = [None] * POINTS
    points[first], points[last] = (20.0, 32.0), (100.0, 32.0)
    seen = np.asarray(drawn([Person(tuple(points))], (128, 64)))
    assert tuple(seen[32, 20]) == COLOURS[first]
    assert tuple(seen[32, 100]) == COLOURS[last]
    assert tuple(seen[32, 60]) == tuple(int(0.6 * level) for level in COLOURS[limb])
    assert not seen[:24].any() and not seen[40:].any()


def test_nobody_is_a_black_picture_and_figures_grow_with_the_picture() -> None:
    assert not np.asarray(drawn([], (64, 64))).any()
    nose = Person(((256.0, 256.0), *[None] * (POINTS - 1)))
    small, large = (np.asarray(drawn([nose], (side, side))).any(axis=2) for side in (512, 1024))
    assert large.sum() / small.sum() == pytest.approx(4, rel=0.15)
    assert isinstance(drawn([nose], (512, 512)), Image.Image)
