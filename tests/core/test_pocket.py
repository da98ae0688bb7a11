"""The drawings that the model which ships is trained on, and the judge of its pictures."""

import numpy as np
import pytest
import torch

from core.pocket import draw, judge, latents

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


def test_held_out_pairs_leave_every_concept_and_colour_something_to_learn_from():
    pairs = draw.held_out_specs()
    assert 10 <= len(pairs) <= 40
    for name in draw.CONCEPTS:
        assert sum(draw.held_out(name, colour) for colour in draw.COLOURS) <= 6
    for colour in draw.COLOURS:
        assert sum(draw.held_out(name, colour) for name in draw.CONCEPTS) <= 12


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


@needs_font
def test_the_judge_is_right_on_real_drawings():
    for number, spec in enumerate(draw.held_out_specs()):
        picture = draw.paint(spec, np.random.default_rng(number))
        assert judge.judged(picture) == (spec.subjects[0].name, spec.background)


def test_the_basis_keeps_what_lies_in_it():
    """Latents of a picture made from latents are those latents; they have unit variance."""
    pixels = torch.nn.functional.avg_pool2d(
        torch.randn(8, 3, 68, 68, generator=torch.Generator().manual_seed(0)), 5, stride=1
    )
    basis = latents.fitted(pixels)
    found = basis.latents(pixels)
    assert found.shape == (8, 4, 8, 8)
    assert found.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1, 1], rel=0.05)
    assert torch.allclose(basis.latents(basis.pixels(found)), found, atol=1e-4)
