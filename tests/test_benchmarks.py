"""The harness of the benchmarks: what it counts, and in which order."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from tests.benchmarks import harness
from tests.benchmarks.__main__ import CASES, SHORT, main, python_of
from tests.benchmarks.harness import COMFYUI, OURS, Program, Row, Spent
from tests.benchmarks.report import table


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
    alone = Row("a step", [3.0], most=0.5, is_ratio=True)
    assert alone.is_met is None and "0.5" not in table([alone]).splitlines()[-1]
    assert Row("a click", [3.0]).is_met is None
    assert "0.50× (0.25 to 1.50)" in table([row])


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


def test_candidates_work_in_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    """The shipped model twice: the same answers, to the last bit."""
    given = {"file": None, "folder": str(tmp_path), "sizes": [64], "precision": "float32"}
    program = Program("networks:our_works", given)
    with harness.candidates({OURS: program, "again": program}, threads=1) as running:
        assert all("step 64" in one.works for one in running.values())
        step = harness.compared(running, "step 64", rounds=2)
        assert harness.compared(running, "no such work", rounds=1).times == {}
    assert step.differences == {"again": 0.0}
    assert {name: len(times) for name, times in step.times.items()} == {OURS: 2, "again": 2}
    (row,) = step.rows("a step", threads=1)
    assert row.other == "again" and row.most is None and row.ratio is not None
    assert "(again)" in table([row])


def test_a_work_that_follows_is_done_once_more_before_it(tmp_path: Path) -> None:
    code = """
import torch
from tests.benchmarks import harness
harness.WORKING, made = 0.001, []
def count():
    made.append(0)
    return torch.tensor(float(len(made)))
harness.works_told(lambda: {"count": count}, "{}")
"""
    places = [tmp_path / f"{number}.npy" for number in range(3)]
    asked = zip(places, (False, True, False), strict=True)
    lines = "\n".join(json.dumps(["count", str(place), follows]) for place, follows in asked)
    subprocess.run(
        [sys.executable, "-c", code], input=lines, cwd=harness.ROOT, text=True, check=True
    )
    assert [float(numpy.load(place)) for place in places] == [1, 3, 4]


def test_a_candidate_that_fails_says_why() -> None:
    program = Program("harness:no_such_function")
    with (
        pytest.raises(RuntimeError, match="no_such_function"),
        harness.candidates({"a": program}, 1),
    ):
        raise AssertionError("it began")


def test_others_keep_torchs_own_way_with_memory(tmp_path: Path) -> None:
    asked = harness.Asked(folder=tmp_path, comfyui=tmp_path, comfyui_python="its/python")
    chosen = harness.programs(asked, "a:ours", "a:theirs", "a:comfyui", file="x")
    assert "THP_MEM_ALLOC_ENABLE" not in chosen[OURS].variables
    others = {name: program for name, program in chosen.items() if name != OURS}
    assert COMFYUI in others and others[COMFYUI].python == "its/python"
    assert others[COMFYUI].given == {"file": "x", "comfyui": str(tmp_path)}
    assert all(program.variables == harness.PLAIN for program in others.values())
    assert COMFYUI not in harness.programs(harness.Asked(tmp_path), "a:b", "a:c", "a:d")


def test_what_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["networks", "--comfyui", str(tmp_path)])
    assert "is no checkout of ComfyUI" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".venv", "venv"])
def test_a_checkout_is_run_by_the_python_inside_it(tmp_path: Path, name: str) -> None:
    given = argparse.Namespace(comfyui=tmp_path, comfyui_python=None)
    assert python_of(given) == sys.executable
    inside = tmp_path / name / "bin" / "python"
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert python_of(given) == str(inside)
    given.comfyui_python = Path("/some/python")
    assert python_of(given) == "/some/python"
