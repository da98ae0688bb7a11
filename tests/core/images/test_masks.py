"""Masks: what is outside them is kept bit for bit, what is inside is what was drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.errors import RequestError
from core.images.masks import (
    composited,
    fill_neighbouring,
    latent_mask,
    only_masked_region,
    prepared,
)
from tests.core.images.pictures import gradient, noise, white_box


def levels_of(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask).astype(int)


def test_a_mask_at_its_size_and_without_effects_is_itself() -> None:
    mask = noise(20, 10).convert("L")
    assert prepared(mask, (20, 10)).tobytes() == mask.tobytes()


def test_it_is_read_from_brightness_or_from_the_alpha_of_one_colour() -> None:
    drawn = white_box(6, 4, (2, 1, 5, 3))
    strokes = Image.new("RGBA", (6, 4), (255, 59, 59, 0))
    strokes.putalpha(drawn)
    cleared = Image.composite(strokes, Image.new("RGBA", (6, 4)), drawn)  # no colour under alpha 0
    opaque = drawn.convert("RGBA")
    on_nothing = Image.merge("RGBA", [drawn] * 3 + [white_box(6, 4, (1, 0, 6, 4))])
    for mask in (drawn.convert("RGB"), strokes, cleared, opaque, on_nothing, drawn.convert("1")):
        assert prepared(mask, (6, 4)).tobytes() == drawn.tobytes()
    black_strokes = Image.new("LA", (6, 4))
    black_strokes.putalpha(drawn)
    assert prepared(black_strokes, (6, 4)).tobytes() == drawn.tobytes()
    deep = Image.fromarray(np.asarray(drawn).astype(np.uint16) * 257)
    assert prepared(deep, (6, 4)).tobytes() == drawn.tobytes()
    nothing = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    assert prepared(nothing, (6, 4)).getextrema() == (0, 0)


def test_inverting_comes_before_growing() -> None:
    mask = white_box(9, 9, (0, 0, 4, 9))
    inverted = levels_of(prepared(mask, (9, 9), invert=True))
    assert np.array_equal(inverted, 255 - levels_of(mask))
    grown = levels_of(prepared(mask, (9, 9), invert=True, grow=2))
    assert (grown[:, 2:] == 255).all() and (grown[:, :2] == 0).all()


@pytest.mark.parametrize("radius", [1, 2, 5, 17])
def test_a_point_grows_to_a_disc(radius: int) -> None:
    mask = Image.new("L", (41, 37))
    mask.putpixel((20, 12), 200)
    y, x = np.mgrid[0:37, 0:41]
    disc = (x - 20) ** 2 + (y - 12) ** 2 <= radius**2
    assert np.array_equal(levels_of(prepared(mask, (41, 37), grow=radius)), disc * 200)


def test_growing_takes_the_highest_level_in_reach() -> None:
    mask = noise(14, 11).convert("L")
    levels, grown = levels_of(mask), levels_of(prepared(mask, (14, 11), grow=3))
    y, x = np.mgrid[0:11, 0:14]
    for row, column in np.ndindex(levels.shape):
        near = (x - column) ** 2 + (y - row) ** 2 <= 9
        assert grown[row, column] == levels[near].max()


@pytest.mark.parametrize("sigma", [1, 4, 11])
def test_a_blurred_edge_is_the_gaussian_integral_cut_off_at_its_reach(sigma: int) -> None:
    mask = white_box(120, 120, (60, 0, 120, 120))
    blurred = levels_of(prepared(mask, (120, 120), blur=sigma))
    assert (blurred == blurred[:1]).all()  # along an edge that runs off the picture
    reach = int(2.5 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    expected = 255 * weights.cumsum() / weights.sum()
    assert np.abs(blurred[0, 60 - reach : 60 + reach + 1] - expected).max() <= 1
    assert (blurred[0, : 60 - reach] == 0).all()
    assert (blurred[0, 60 + reach :] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (1, 300), (3, 5)])
def test_growing_and_blurring_take_any_shape(size: tuple[int, int]) -> None:
    found = prepared(Image.new("L", size, 255), size, grow=9, blur=12)
    assert found.size == size and found.getextrema() == (255, 255)


def test_outside_of_the_grown_and_blurred_mask_is_nothing() -> None:
    mask = white_box(100, 80, (40, 30, 50, 50))
    found = levels_of(prepared(mask, (100, 80), grow=6, blur=4))
    reach = 6 + 10
    outside = np.ones((80, 100), dtype=bool)
    outside[30 - reach : 50 + reach, 40 - reach : 50 + reach] = False
    assert (found[outside] == 0).all()
    assert found[40, 44] == 255
    assert found[40, 50 + 5] > 127 > found[40, 50 + 6]


def test_a_mask_of_another_size_is_scaled_and_of_another_shape_refused() -> None:
    half = white_box(32, 24, (0, 0, 16, 24))
    found = levels_of(prepared(half, (64, 48)))
    assert (found[:, :31] == 255).all() and (found[:, 33:] == 0).all()
    assert prepared(Image.new("L", (256, 255), 255), (513, 511)).size == (513, 511)
    with pytest.raises(RequestError, match="32 × 24 pixels, and the picture has 64 × 64") as raised:
        prepared(half, (64, 64))
    assert raised.value.field == "start.mask"


def test_latent_cells_are_0_or_1_unless_the_mask_is_soft() -> None:
    mask = white_box(64, 64, (0, 0, 32, 64))
    assert np.array_equal(latent_mask(mask, (8, 8)), np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, 0))
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    hard, soft = latent_mask(ramp, (8, 8)), latent_mask(ramp, (8, 8), soft=True)
    assert hard.dtype == soft.dtype == np.float32
    assert set(np.unique(hard)) == {0, 1}
    assert np.array_equal(hard, soft.round())
    assert len(np.unique(soft)) == 8 and soft.min() >= 0 and soft.max() <= 1
    for level in (0, 255):
        even = latent_mask(Image.new("L", (60, 44), level), (5, 7), soft=True)
        assert even.shape == (5, 7) and (even == level / 255).all()


def test_where_the_mask_lies_in_a_large_picture_makes_no_difference() -> None:
    """Only what is near the white is worked on; the rest is nothing."""
    alone = noise(30, 20).convert("L")
    large = Image.new("L", (300, 200))
    large.paste(alone, (120, 90))
    found = prepared(large, (300, 200), grow=3, blur=5)
    padded = Image.new("L", (90, 80))
    padded.paste(alone, (30, 30))
    box = (90, 60, 180, 140)
    assert found.crop(box).tobytes() == prepared(padded, (90, 80), grow=3, blur=5).tobytes()
    assert levels_of(found).sum() == levels_of(found.crop(box)).sum()
    black = Image.new("L", (9, 7))
    assert prepared(black, (9, 7), grow=3, blur=5).getextrema() == (0, 0)
    assert fill_neighbouring(noise(9, 7), black).tobytes() == noise(9, 7).tobytes()


def test_the_region_has_the_targets_shape_and_holds_the_mask() -> None:
    mask = white_box(400, 300, (180, 140, 220, 150))
    assert only_masked_region(mask, 10, (512, 512)) == (170, 115, 230, 175)
    assert only_masked_region(mask, 0, (512, 256)) == (180, 135, 220, 155)
    tall = only_masked_region(mask, 10, (256, 512))
    assert tall == (170, 85, 230, 205)


def test_the_region_moves_rather_than_leave_the_picture() -> None:
    corner = white_box(400, 300, (390, 0, 400, 40))
    assert only_masked_region(corner, 8, (512, 512)) == (352, 0, 400, 48)
    wide = white_box(400, 100, (0, 50, 400, 60))
    assert only_masked_region(wide, 32, (512, 512)) == (0, 0, 400, 100)
    assert only_masked_region(Image.new("L", (1, 1), 255), 32, (64, 64)) == (0, 0, 1, 1)


def test_an_empty_mask_has_no_region() -> None:
    with pytest.raises(RequestError, match="the mask is empty"):
        only_masked_region(Image.new("L", (8, 8)), 32, (64, 64))


def test_filling_changes_nothing_outside_the_mask() -> None:
    picture, mask = noise(70, 45), white_box(70, 45, (10, 12, 41, 33))
    found = np.asarray(fill_neighbouring(picture, mask))
    kept = np.asarray(mask) == 0
    assert np.array_equal(found[kept], np.asarray(picture)[kept])
    assert not np.array_equal(found[~kept], np.asarray(picture)[~kept])


def test_a_hole_takes_the_colours_round_it_and_none_of_its_own() -> None:
    picture = gradient(96, 96)
    mask = white_box(96, 96, (24, 24, 72, 72))
    smeared = picture.copy()
    smeared.paste((0, 0, 255), (24, 24, 72, 72))
    found = np.asarray(fill_neighbouring(smeared, mask)).astype(int)
    assert found.tobytes() == np.asarray(fill_neighbouring(picture, mask)).astype(int).tobytes()
    assert found[..., 2].max() == 0
    # beside the edges the colours there, and near the mean in the middle
    wanted = np.asarray(picture).astype(int)
    assert np.abs(found[26:70, 25] - wanted[26:70, 25]).max() < 8
    assert np.abs(found[47:49, 47:49, :2] - 127).max() < 8


def test_far_colours_do_not_reach_into_a_hole() -> None:
    picture = Image.new("RGB", (200, 200), "blue")
    picture.paste((255, 0, 0), (60, 60, 140, 140))
    found = fill_neighbouring(picture, white_box(200, 200, (80, 80, 120, 120)))
    assert found.tobytes() == picture.tobytes()


def test_an_even_picture_stays_even_and_a_mask_over_all_leaves_the_mean() -> None:
    even = Image.new("RGB", (37, 23), (200, 10, 3))
    for mask in (white_box(37, 23, (3, 0, 30, 23)), noise(37, 23).convert("L")):
        assert fill_neighbouring(even, mask).tobytes() == even.tobytes()
    halves = Image.new("RGB", (10, 4), "black")
    halves.paste((100, 50, 200), (0, 0, 5, 4))
    found = fill_neighbouring(halves, Image.new("L", (10, 4), 255))
    assert found.getextrema() == ((50, 50), (25, 25), (100, 100))
    assert fill_neighbouring(noise(1, 1), Image.new("L", (1, 1), 255)).size == (1, 1)


def test_what_is_kept_is_kept_to_the_last_bit() -> None:
    original, painted = noise(60, 40), noise(60, 40, seed=1)
    mask = prepared(white_box(60, 40, (20, 10, 40, 30)), (60, 40), grow=2, blur=2)
    found, levels = np.asarray(composited(original, painted, mask)), np.asarray(mask)
    assert np.array_equal(found[levels == 0], np.asarray(original)[levels == 0])
    assert np.array_equal(found[levels == 255], np.asarray(painted)[levels == 255])
    share = levels[..., None] / 255
    blend = np.asarray(painted) * share + np.asarray(original) * (1 - share)
    assert np.abs(found - blend).max() <= 0.51


def test_a_painted_region_is_scaled_and_put_back_where_it_was() -> None:
    original = noise(60, 40)
    mask = white_box(60, 40, (22, 12, 38, 28))
    box = (20, 10, 40, 30)
    found = np.asarray(composited(original, Image.new("RGB", (64, 64), "red"), mask, box))
    levels = np.asarray(mask)
    assert np.array_equal(found[levels == 0], np.asarray(original)[levels == 0])
    assert (found[levels == 255] == (255, 0, 0)).all()
    same = composited(original, original.crop(box), mask, box)
    assert same.tobytes() == original.tobytes()
