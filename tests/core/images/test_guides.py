"""Guides of pictures whose answer is known in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from core.errors import RequestError
from core.images.edges import canny, gradients
from core.images.guides import PREPROCESSORS, preprocessor

BY_HAND = [name for name, one in PREPROCESSORS.items() if one.ask is None]
"""What needs no network."""

SIZE = 32


def made(name: str, picture: Image.Image, mask: Image.Image | None = None, **settings: object):  # type: ignore[no-untyped-def]
    one = preprocessor(name)
    return np.asarray(one(picture, one.checked(settings), mask))  # type: ignore[arg-type]


def grey(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def step(at: int = SIZE // 2, low: int = 0, high: int = 255) -> Image.Image:
    """Dark on the left, light from column `at` on."""
    return grey(np.where(np.arange(SIZE)[None] < at, low, high) * np.ones((SIZE, 1)))


def noisy() -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.mark.parametrize("name", BY_HAND)
def test_every_guide_is_as_large_as_its_picture_and_the_same_each_time(name: str) -> None:
    picture, mask = noisy(), Image.new("L", (SIZE, SIZE), 255)
    first = made(name, picture, mask)
    assert first.shape[:2] == (SIZE, SIZE)
    assert first.shape[2] == (4 if name == "inpaint" else 3)
    assert np.array_equal(first, made(name, picture, mask))


def test_a_ramp_slopes_evenly() -> None:
    """Sobel's weights add up to 8 over two pixels: a ramp of 1 a pixel slopes by 8."""
    ramp = np.arange(8, dtype=np.float32)[None] * np.ones((8, 1), dtype=np.float32)
    across, down = gradients(ramp)
    assert (across[:, 1:-1] == 8).all()
    assert (down == 0).all()


def test_canny_draws_a_step_as_one_column() -> None:
    edges = made("canny", step())[..., 0]
    assert edges.max() == 255
    assert (edges > 0).any(axis=0).sum() == 1
    assert (edges[:, (edges > 0).any(axis=0)] == 255).all()


def test_canny_keeps_a_weak_edge_only_where_it_touches_a_strong_one() -> None:
    levels = np.zeros((SIZE, SIZE))
    levels[:, 8:] = np.linspace(10, 200, SIZE)[:, None]  # one edge, ever stronger downwards
    levels[:, 24:] += 30  # and one that is weak all along
    edges = canny(levels.astype(np.uint8), 100, 200)
    slopes = 4 * levels[:, 8]
    strong = edges[1:-1, 7:9].max(axis=1) == 255
    assert strong[slopes[1:-1] > 110].all()  # far below 200, but connected
    assert (edges[:, 22:26] == 0).all()


def test_canny_refuses_thresholds_the_wrong_way_round() -> None:
    with pytest.raises(RequestError, match="must not lie above"):
        made("canny", noisy(), low=200, high=100)


def test_a_step_from_black_to_white_is_a_white_ridge_two_pixels_wide() -> None:
    edges = made("soft_edges", step(), blur=0.0)[..., 0]
    assert (edges[:, SIZE // 2 - 1 : SIZE // 2 + 1] == 255).all()
    assert edges.sum() == 2 * SIZE * 255


def test_soft_edges_are_proportional_to_the_step() -> None:
    half = made("soft_edges", step(low=0, high=100), blur=0.0)[..., 0]
    assert half.max() == 100
    assert made("soft_edges", step(low=0, high=100), blur=0.0, gain=2.0).max() == 200


def test_dark_lines_become_white_ones_and_grow_by_pixels() -> None:
    paper = np.full((SIZE, SIZE), 255)
    paper[:, 16] = 20
    thin, thick = (made("scribble", grey(paper), thicken=n)[..., 0] for n in (0, 3))
    assert np.array_equal(np.flatnonzero(thin[0]), [16])
    assert np.array_equal(np.flatnonzero(thick[0]), range(13, 20))


@pytest.mark.parametrize("level", [0, 100, 127, 254])
def test_a_threshold_divides_at_its_level(level: int) -> None:
    ramp = grey(np.arange(256).reshape(16, 16))
    assert (made("threshold", ramp, level=level)[..., 0] == 255).sum() == 255 - level


def test_blurring_keeps_a_flat_picture_and_the_mean_of_a_step() -> None:
    flat = Image.new("RGB", (SIZE, SIZE), (10, 20, 30))
    assert (made("blur", flat) == (10, 20, 30)).all()
    assert made("blur", step(), sigma=3.0).mean() == pytest.approx(127.5, abs=1)
    assert np.array_equal(made("blur", noisy(), sigma=0.0), np.asarray(noisy()))


def test_tiles_at_1_are_the_picture_and_at_2_lose_a_checkerboard() -> None:
    board = grey((np.indices((SIZE, SIZE)).sum(axis=0) % 2) * 254)
    assert np.array_equal(made("tile", board), np.asarray(board))
    assert (made("tile", board, shrink=2.0) == 127).all()


def test_inverting_twice_is_the_picture() -> None:
    once = made("invert", noisy())
    assert np.array_equal(once.astype(int) + np.asarray(noisy()), np.full_like(once, 255, int))


def test_luminance_follows_its_gamma() -> None:
    levels = np.arange(256).reshape(16, 16)
    assert np.array_equal(made("recolour", grey(levels))[..., 0], levels)
    bent = made("recolour", grey(levels), gamma=0.5)[..., 0]
    assert np.array_equal(bent, np.sqrt(levels * 255).round())
    assert (np.ptp(made("recolour", noisy()), axis=2) == 0).all()


def test_a_picture_of_few_flat_colours_stays_itself() -> None:
    picture = Image.new("RGB", (SIZE, SIZE), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 8, SIZE))
    picture.paste((0, 200, 0), (24, 0, SIZE, SIZE))
    assert np.array_equal(made("segments", picture, colours=4), np.asarray(picture))
    assert len(np.unique(made("segments", noisy(), colours=5).reshape(-1, 3), axis=0)) <= 5


def test_inpainting_hides_exactly_what_is_masked() -> None:
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (4, 8, 12, 16))
    guide = made("inpaint", noisy(), mask)
    assert np.array_equal(guide[..., 3] == 0, np.asarray(mask) == 255)
    assert np.array_equal(guide[..., :3], np.asarray(noisy()))
    with pytest.raises(RequestError, match="needs a mask"):
        made("inpaint", noisy())


def test_a_depth_map_spreads_over_the_whole_range() -> None:
    ramp = np.linspace(50, 100, SIZE)[None] * np.ones((SIZE, 1))
    near = made("depth", grey(ramp))[..., 0]
    assert (near[0, 0], near[0, -1]) == (0, 255)
    far = made("depth", grey(ramp), far_is_white=True)[..., 0]
    assert np.abs(far.astype(int) + near - 255).max() <= 1
    assert (made("depth", Image.new("RGB", (4, 4), (9, 9, 9))) == 0).all()


def test_a_flat_depth_faces_the_viewer_and_a_slope_faces_by_its_angle() -> None:
    assert (made("normals", Image.new("RGB", (8, 8), (90, 90, 90))) == (128, 128, 255)).all()
    ramp = np.arange(SIZE)[None] * 4 * np.ones((SIZE, 1))  # nearer to the right: it faces left
    faces = made("normals", grey(ramp), strength=4.0)[8, 8]
    slope = 4 * 4.0 / 16
    wanted = np.array([slope, 0, 1]) / np.hypot(slope, 1) * 127.5 + 127.5
    assert np.abs(faces - wanted).max() <= 0.5
    assert (made("normals", grey(ramp), background=255) == (128, 128, 255)).all()


@pytest.mark.parametrize("name", [n for n in BY_HAND if n != "none"])
def test_every_setting_is_bounded_and_a_stranger_is_named(name: str) -> None:
    one = preprocessor(name)
    for field in dataclasses.fields(one.settings):
        if (high := field.metadata["high"]) is not None:
            kind = type(field.default)
            assert one.checked({field.name: kind(high)})
            with pytest.raises(RequestError, match="must lie between"):
                one.checked({field.name: kind(high + 1)})
    with pytest.raises(RequestError, match="unknown field"):
        one.checked({"nonsense": 1})


def test_an_unknown_preprocessor_is_answered_with_all_there_are() -> None:
    with pytest.raises(RequestError, match=r"no preprocessor named 'poses'.*canny"):
        preprocessor("poses")
