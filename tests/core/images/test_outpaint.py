"""A picture on a larger canvas: its middle is kept, the new area is white in the mask."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.errors import RequestError
from core.images.masks import composited
from core.images.outpaint import extended
from tests.core.images.pictures import gradient, noise


@pytest.mark.parametrize("sides", [(8, 0, 0, 0), (0, 5, 0, 0), (0, 0, 9, 1), (3, 4, 5, 6)])
def test_the_picture_lies_where_it_should_and_the_rest_is_masked(
    sides: tuple[int, int, int, int],
) -> None:
    picture = noise(50, 40)
    left, top, right, bottom = sides
    canvas, mask = extended(picture, *sides, seam=4)
    assert canvas.size == mask.size == (50 + left + right, 40 + top + bottom)
    box = (left, top, left + 50, top + 40)
    assert canvas.crop(box).tobytes() == picture.tobytes()
    levels = np.asarray(mask)
    inside = np.zeros(levels.shape, dtype=bool)
    inside[top : top + 40, left : left + 50] = True
    assert (levels[~inside] == 255).all()
    assert (levels[inside] < 255).all()
    assert (levels[top + 4 : top + 36, left + 4 : left + 46] == 0).all()


def test_the_seam_falls_evenly_and_only_beside_what_is_new() -> None:
    _, mask = extended(noise(30, 20), 0, 0, 10, 0, seam=4)
    levels = np.asarray(mask).astype(int)
    assert (levels == levels[:1]).all()
    assert levels[0, 24:32].tolist() == [0, 0, 51, 102, 153, 204, 255, 255]


def test_the_new_area_goes_on_from_the_border() -> None:
    canvas, _ = extended(gradient(64, 64), 0, 0, 32, 0)
    levels = np.asarray(canvas).astype(int)
    assert levels[:, 64:, 0].min() > 200
    assert levels[0:8, 65, 1].mean() < 40 and levels[-8:, 65, 1].mean() > 215


def test_growing_by_nothing_masks_nothing() -> None:
    picture = noise(7, 5)
    canvas, mask = extended(picture, 0, 0, 0, 0)
    assert canvas.tobytes() == picture.tobytes() and mask.getextrema() == (0, 0)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (200, 2)])
def test_of_a_small_picture_something_is_left(size: tuple[int, int]) -> None:
    picture = noise(*size)
    canvas, mask = extended(picture, 8, 8, 8, 8)
    assert canvas.size == (size[0] + 16, size[1] + 16)
    middle = 8 + size[0] // 2, 8 + size[1] // 2
    assert mask.getpixel(middle) <= 128
    assert composited(canvas, Image.new("RGB", canvas.size), mask).size == canvas.size


@pytest.mark.parametrize(
    ("sides", "sentence"),
    [((0, -3, 0, 0), "can't grow by -3"), ((0, 0, 20_000, 0), "would grow to 20004 × 4")],
)
def test_what_can_not_be_is_said(sides: tuple[int, int, int, int], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as raised:
        extended(noise(4, 4), *sides)
    assert raised.value.field == "start.extend"
