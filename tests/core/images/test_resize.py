"""Any picture comes out at exactly the size asked for, and nothing is moved."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from core.errors import RequestError
from core.images.resize import FILTERS, WAYS, cropped, enlarged, filled, resized, stretched
from tests.core.images.pictures import gradient, noise

SHAPES = [(1, 1), (5000, 1), (1, 5000), (3, 7), (512, 512), (513, 300), (16384, 3)]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(512, 512), (64, 72), (9, 250), (1, 1)])
def test_the_size_is_exact(how: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    began = time.perf_counter()
    found = resized(Image.new("RGB", shape, (10, 20, 30)), *size, how)
    assert time.perf_counter() - began < 2
    assert found.size == size
    assert found.getextrema() == ((10, 10), (20, 20), (30, 30))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("size", [(40, 24), (1, 1), (7, 5)])
def test_a_picture_of_the_right_size_is_untouched(how: str, size: tuple[int, int]) -> None:
    picture = noise(*size)
    assert resized(picture, *size, how).tobytes() == picture.tobytes()


def test_stretching_reaches_every_edge() -> None:
    levels = np.asarray(stretched(gradient(50, 50), 200, 100)).astype(int)
    assert levels[:, 0, 0].max() < 8 and levels[:, -1, 0].min() > 247
    assert levels[0, :, 1].max() < 8 and levels[-1, :, 1].min() > 247


def test_cropping_takes_the_middle_and_keeps_the_proportions() -> None:
    levels = np.asarray(cropped(gradient(400, 200), 100, 100)).astype(int)
    # of the width the middle half is left: red from a quarter to three quarters
    assert levels[:, 0, 0].mean() == pytest.approx(64, abs=2)
    assert levels[:, -1, 0].mean() == pytest.approx(191, abs=2)
    assert levels[0, :, 1].max() < 4 and levels[-1, :, 1].min() > 251


def test_filling_shows_the_whole_picture_and_repeats_its_border() -> None:
    picture = noise(40, 20)
    levels = np.asarray(filled(picture, 40, 61))
    assert np.array_equal(levels[20:40], np.asarray(picture))
    assert (levels[:20] == levels[20]).all()
    assert (levels[40:] == levels[39]).all()
    turned = np.asarray(filled(picture.transpose(Image.Transpose.TRANSPOSE), 61, 40))
    assert np.array_equal(turned, levels.transpose(1, 0, 2))


def test_a_line_of_pixels_fills_a_square() -> None:
    line = Image.new("RGB", (5000, 1), "red")
    assert filled(line, 512, 512).getextrema() == ((255, 255), (0, 0), (0, 0))


@pytest.mark.parametrize("how", WAYS)
def test_what_is_transparent_shows_white_and_masks_stay_masks(how: str) -> None:
    clear = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    assert resized(clear, 16, 16, how).getextrema() == ((255, 255),) * 3
    mask = Image.new("L", (8, 4), 255)
    found = resized(mask, 16, 16, how)
    assert found.mode == "L" and found.getextrema() == (255, 255)


def test_an_unknown_way_names_those_there_are() -> None:
    with pytest.raises(RequestError, match="crop, fill, stretch"):
        resized(noise(2, 2), 4, 4, "squeeze")
    with pytest.raises(RequestError, match="Lanczos, Nearest"):
        enlarged(noise(2, 2), 4, 4, "magic")


def test_nearest_repeats_pixels_and_lanczos_keeps_what_is_even() -> None:
    picture = noise(5, 3)
    found = np.asarray(enlarged(picture, 10, 6, "Nearest"))
    assert np.array_equal(found, np.asarray(picture).repeat(2, 0).repeat(2, 1))
    assert set(FILTERS) == {"Lanczos", "Nearest"}
    even = enlarged(Image.new("RGB", (5, 3), (9, 8, 7)), 11, 8, "Lanczos")
    assert even.size == (11, 8) and even.getextrema() == ((9, 9), (8, 8), (7, 7))
