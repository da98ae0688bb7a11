"""How far pictures are apart, against what can be counted by hand."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from core.errors import RequestError
from core.images.difference import difference


def test_a_picture_is_identical_to_itself():
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    found = difference(picture, picture.copy())
    assert (found.most, found.mean, found.changed, found.psnr) == (0, 0, 0, None)


def test_one_pixel_of_one_colour_is_counted_exactly():
    picture = Image.new("RGB", (10, 10), (100, 100, 100))
    other = picture.copy()
    other.putpixel((3, 4), (100, 130, 100))
    found = difference(picture, other)
    assert found.most == 30
    assert found.mean == pytest.approx(30 / 300)
    assert found.changed == pytest.approx(1 / 100)
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / (900 / 300)))
    assert difference(other, picture) == found


def test_black_and_white_are_as_far_apart_as_can_be():
    found = difference(Image.new("RGB", (4, 4), "black"), Image.new("RGB", (4, 4), "white"))
    assert (found.most, found.mean, found.changed, found.psnr) == (255, 255, 1, 0)


def test_other_sizes_are_no_pair():
    with pytest.raises(RequestError, match="can't be compared"):
        difference(Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5)))
