"""The judge of painted pictures, and what pictures are asked for: held to real drawings."""

from itertools import pairwise

import numpy as np
import pytest

from core.pocket import draw, judge, trials

needs_font = pytest.mark.skipif(
    not draw.FONT.exists(), reason="Noto Color Emoji (fonts-noto-color-emoji) is not installed"
)


def drawn(spec: draw.Spec, seed: int):
    return draw.paint(spec, np.random.default_rng(seed))


@needs_font
def test_the_judge_is_right_on_real_drawings():
    for number, spec in enumerate(draw.held_out_specs()):
        assert judge.judged(drawn(spec, number)) == (spec.subjects[0].name, spec.background)


@needs_font
@pytest.mark.parametrize("name", trials.trials(1))
def test_the_verdict_on_a_drawing_of_what_was_asked_is_that_it_is_right(name):
    trial = trials.trials(1)[name]
    some = trials.evenly(list(trial.specs), 2 if "gradient" in name else 10)
    verdicts = [trial.verdict(drawn(spec, seed), spec) for seed, spec in enumerate(some)]
    right = [all(verdict.right.values()) for verdict in verdicts]
    assert sum(right) >= 0.9 * len(right)


@needs_font
@pytest.mark.parametrize("name", ["one thing on a colour", "a pair", "two to four of a thing"])
def test_the_verdict_on_a_drawing_of_something_else_is_that_it_is_wrong(name):
    trial = trials.trials(1)[name]
    some = trials.evenly(list(trial.specs), 10)
    verdicts = [trial.verdict(drawn(other, 0), spec) for spec, other in pairwise(some)]
    assert not any(next(iter(verdict.right.values())) for verdict in verdicts)


def test_what_is_asked_for_was_never_shown_in_training():
    for trial in trials.trials(1).values():
        for spec in trial.specs:
            alone = any(draw.held_out(each.name, spec.background) for each in spec.subjects)
            names = [each.name for each in spec.subjects]
            assert alone or draw.never_together(*names)


def test_prompts_say_what_is_asked_for():
    ghost = draw.Subject("ghost", place="on the left")
    assert trials.prompt(draw.Spec((ghost,), "red")) == "a ghost on the left on a red background"
    owls = draw.Spec((draw.Subject("owl", count=3),), "night sky")
    assert trials.prompt(owls) == "three owls in the night sky"
    both = draw.Spec((draw.Subject("owl"), draw.Subject("ring", "red")), "red to blue")
    assert trials.prompt(both) == "an owl and a red ring on a red to blue gradient background"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shapes_are_counted_and_found_in_their_places(count):
    for number, name in enumerate(("circle", "ring", "diamond", "triangle", "cross")):
        spec = draw.Spec((draw.Subject(name, "red", count=count),), "white")
        picture = drawn(spec, number)
        found = judge.pieces(picture, "white")
        assert len(found) == count
        places = {(round(p.middle[0], 1), round(p.middle[1], 1)) for p in found}
        assert len(places) == count


@pytest.mark.parametrize("background", [*draw.SCENES, "red to blue", "gray"])
def test_a_background_alone_is_told_from_the_others(background):
    others = [*draw.COLOURS, *draw.SCENES, "red to blue", "blue to red", "red to green"]
    picture = draw.backdrop(background, np.random.default_rng(11))
    assert judge.nearest_backdrop(picture, others) == background
    assert not judge.pieces(picture, background) or background in draw.SCENES
