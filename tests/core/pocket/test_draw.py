"""The drawings that the model which ships is trained on."""

import numpy as np
import pytest

from core.pocket import draw

RICH = draw.Mix(0.1, 0.2, 0.2, 0.2, 0.1, 0.2, 0.2)
needs_font = pytest.mark.skipif(
    not draw.FONT.exists(), reason="Noto Color Emoji (fonts-noto-color-emoji) is not installed"
)


def specs(count: int) -> list[draw.Spec]:
    return [draw.random_spec(np.random.default_rng(seed), RICH) for seed in range(count)]


@needs_font
def test_a_seed_gives_one_picture_and_one_caption():
    for seed in range(20):
        first, second = draw.example(seed, RICH), draw.example(seed, RICH)
        assert first[0].tobytes() == second[0].tobytes()
        assert first[1] == second[1]
    assert len({draw.example(seed, RICH)[1] for seed in range(20)}) > 15


def test_no_training_picture_holds_a_held_out_pair():
    for spec in specs(2000):
        assert not any(draw.held_out(each.name, spec.background) for each in spec.subjects)
        if len(spec.subjects) == 2:
            assert not draw.never_together(*(each.name for each in spec.subjects))


def test_held_out_pairs_leave_every_concept_and_colour_something_to_learn_from():
    pairs = draw.held_out_specs()
    assert 40 <= len(pairs) <= 75
    for name in draw.CONCEPTS:
        assert sum(draw.held_out(name, colour) for colour in draw.COLOURS) <= 6
        assert sum(draw.never_together(name, other) for other in draw.CONCEPTS) < 25
    for colour in draw.COLOURS:
        assert sum(draw.held_out(name, colour) for name in draw.CONCEPTS) <= 15


def test_the_newer_things_can_be_asked_for_more_often():
    mix = draw.Mix(newer=1.0)
    names = {draw.random_spec(np.random.default_rng(i), mix).subjects[0].name for i in range(300)}
    assert names == set(draw.NEWER)
    assert len(draw.CONCEPTS) >= 56


def test_a_caption_names_what_is_seen():
    spec = draw.Spec((draw.Subject("apple"),), "blue")
    captions = [draw.caption(spec, np.random.default_rng(seed)) for seed in range(200)]
    assert "an apple on a blue background" in captions
    assert "a red apple on a blue background" in captions
    both = sum("apple" in caption and "blue" in caption for caption in captions)
    assert both > 0.85 * len(captions)


def test_captions_count_and_place():
    three = draw.Spec((draw.Subject("strawberry", count=3),), "white")
    corner = draw.Spec((draw.Subject("star", place="at the top"),), "black")
    rng = np.random.default_rng(1)
    assert any("three" in draw.caption(three, rng) for _ in range(20))
    assert "strawberries" in " ".join(draw.caption(three, rng) for _ in range(20))
    assert any("at the top" in draw.caption(corner, rng) for _ in range(20))


def test_things_of_one_picture_keep_apart():
    """Boxes of counts and pairs never touch, so that what is painted can be counted."""
    for seed in range(50):
        for subjects in (
            (draw.Subject("cat", count=2 + seed % 3),),
            (draw.Subject("cat"), draw.Subject("dog")),
        ):
            boxes = draw.boxes(draw.Spec(subjects, "white"), np.random.default_rng(seed))
            for i, (_, x, y, side) in enumerate(boxes):
                for _, other_x, other_y, other_side in boxes[:i]:
                    apart = max(abs(x - other_x), abs(y - other_y))
                    assert apart - (side + other_side) / 2 > 3 / draw.SIZE
