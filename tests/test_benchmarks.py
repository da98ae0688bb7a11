"""The harness of the benchmarks: what it counts, and in which order."""

from __future__ import annotations

import pytest

from tests.benchmarks import harness
from tests.benchmarks.__main__ import CASES, SHORT
from tests.benchmarks.harness import Row, Spent


def test_works_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []
    works = {name: lambda name=name: turns.append(name) for name in "ab"}
    taken = harness.alternated(works, rounds=2)
    assert turns == ["a", "b"] * 3
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}


def test_a_row_compares_medians_and_tells_how_far_rounds_differ() -> None:
    row = Row("a step", [1.0, 2.0, 9.0], [4.0, 4.0, 6.0], most=0.5)
    assert row.ratio == 0.5 and row.spread == (0.25, 1.5) and row.is_met
    assert not Row("a step", [3.0], [4.0], most=0.5).is_met
    assert Row("a click", [3.0], most=5.0).is_met
    assert Row("a click", [3.0]).is_met is None
    assert "0.50× (0.25 to 1.50)" in harness.table([row])


def test_one_thread_is_judged_by_the_processor_and_two_by_the_clock() -> None:
    assert harness.seconds([Spent(cpu=1.0, wall=9.0)], threads=1) == [1.0]
    assert harness.seconds([{"cpu": 1.0, "wall": 9.0}], threads=2) == [9.0]


def test_a_peak_is_forgotten_and_seen_again() -> None:
    """100 MB that come and go are in the peak until it is forgotten."""
    block = bytearray(b"x" * 100_000_000)
    del block
    harness.forget_peak()
    resident, before = harness.memory()
    block = bytearray(b"x" * 100_000_000)
    del block
    assert harness.memory()[1] - before > 0.09
    assert before - resident < 0.05


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no_such_function"):
        harness.in_child("harness:no_such_function")


def test_the_short_form_is_some_of_the_cases() -> None:
    assert set(SHORT) < set(CASES)
