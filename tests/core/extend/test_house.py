"""Hostile and friendly extensions: whatever one does, the house stands and names it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from core.errors import ExtensionError, RequestError, VitrineError
from core.extend.house import Extensions
from core.extend.kept import OPENING, Kept
from core.extend.loader import PACKAGE
from core.registry import Registry, built_in
from core.request import GenerationRequest

STEP = """
    from dataclasses import dataclass, replace
    from core.extend import RequestStep, hookimpl, setting

    @dataclass(frozen=True)
    class Settings:
        times: int = setting(2, low=0, high=9)

    def louder(request, settings):
        return replace(request, prompt=request.prompt.rstrip("!") + "!" * settings.times)

    @hookimpl
    def request_steps():
        return [RequestStep("{name}", Settings, louder)]
"""
ASKED = GenerationRequest(prompt="a fox")


def write(folder: Path, name: str, source: str, toml: str = "") -> Path:
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "extension.py").write_text(dedent(source.replace("{name}", name)))
    if toml:
        (place / "extension.toml").write_text(toml)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "extensions"
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def opened(folder: Path, ships: bool = True, **options: object) -> Extensions:
    return Extensions(
        built_in(),
        [(folder, ships)],
        folder.parent / "data",
        folder.parent / "outputs",
        packages=False,
        seconds=2.0,
        **options,  # type: ignore[arg-type]
    )


def stepped(registry: Registry, **extras: dict[str, object]) -> str:
    request = GenerationRequest(prompt="a fox", extras=extras)  # type: ignore[arg-type]
    full = GenerationRequest(prompt="a fox", extras=registry.checked(request.extras))
    return registry.stepped(full).prompt


def state(house: Extensions, name: str) -> tuple[str, str]:
    one = house.one(name)
    return one.state, one.problem


HOSTILE = {
    "raises": "raise ValueError('no')",
    "exits": "import sys; sys.exit(3)",
    "interrupts": "raise KeyboardInterrupt",
    "breaks": "def f(:",
    "needs": "import a_package_there_is_not",
    "hangs": "import time; time.sleep(60)",
    "wrong_hook": "from core.extend import hookimpl\n@hookimpl\ndef no_such_hook(): return []",
    "wrong_value": "from core.extend import hookimpl\n@hookimpl\ndef finishers(): return ['x']",
    "hook_raises": "from core.extend import hookimpl\n@hookimpl\ndef readers(): 1 / 0",
}


def test_whoever_fails_is_named_and_the_others_load(folder: Path) -> None:
    for name, source in HOSTILE.items():
        write(folder, name, source)
    write(folder, "well", STEP)
    house = opened(folder)
    assert {one.found.name for one in house.all() if one.state == "on"} == {"well"}
    for name in HOSTILE:
        what, problem = state(house, name)
        assert what == "left out" and problem.startswith(f"{name}: "), problem
        assert house.one(name).account.errors == 1
    assert "sys.exit(3)" in house.one("exits").problem
    assert "took more than 2 s" in house.one("hangs").problem
    assert "request_steps" in house.one("wrong_hook").problem
    assert stepped(house.registry, well={"times": 3}) == "a fox!!!"
    assert house.kept.unfinished() is None


def test_one_that_kills_the_process_is_left_out_of_the_next_start(folder: Path) -> None:
    write(folder, "deadly", "import os; os._exit(9)")
    write(folder, "well", STEP)
    script = (
        "from pathlib import Path\n"
        "from tests.core.extend.test_house import opened\n"
        f"opened(Path({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3])
    assert done.returncode == 9
    house = opened(folder)
    what, problem = state(house, "deadly")
    assert what == "left out" and "the last start ended while it was being loaded" in problem
    assert house.one("well").state == "on"
    house.disable("deadly")
    assert state(house, "deadly")[0] == "off"


def test_after_a_start_that_did_not_end_what_a_person_added_stays_out(folder: Path) -> None:
    write(folder, "mine", STEP)
    house = opened(folder, ships=False)
    assert house.one("mine").state == "off", "not run before somebody enables it"
    house.enable("mine")
    house.opening()
    assert Kept(folder.parent / "data").unfinished() == OPENING
    again = opened(folder, ships=False)
    assert again.one("mine").state == "left out"
    again.enable("mine")
    again.opening()
    again.opened()
    assert opened(folder, ships=False).one("mine").state == "on"


def test_with_all_off_nothing_of_theirs_runs(folder: Path) -> None:
    write(folder, "well", "import pathlib; pathlib.Path(__file__ + '.ran').touch()")
    house = opened(folder, all_off=True)
    assert house.one("well").state == "off"
    assert not (folder / "well" / "extension.py.ran").exists()
    assert not house.registry.request_steps


def test_choices_outlive_a_start_and_an_unreadable_file_blocks_none(folder: Path) -> None:
    write(folder, "one", STEP)
    write(folder, "two", STEP)
    house = opened(folder)
    house.disable("one")
    house.order(["two", "one"])
    again = opened(folder)
    assert [one.found.name for one in again.all()] == ["two", "one"]
    assert [one.state for one in again.all()] == ["on", "off"]
    again.kept.path.write_text("{")
    assert {one.state for one in opened(folder).all()} == {"on"}
    assert again.kept.path.with_suffix(".unreadable").exists()


def test_settings_are_checked_by_their_own_dataclass(folder: Path) -> None:
    write(folder, "well", STEP)
    registry = opened(folder).registry
    assert registry.checked({"well": {}}) == {"well": {"times": 2}}
    for extras, said in (
        ({"nobody": {}}, "no extension named 'nobody'; there are: well"),
        ({"well": {"times": 10}}, "between 0 and 9, not 10"),
        ({"well": {"times": "two"}}, "a whole number"),
        ({"well": {"tmies": 2}}, "unknown field"),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            registry.checked(extras)  # type: ignore[arg-type]
        assert (caught.value.field or "").startswith("extras.")


def test_one_that_fails_in_a_run_fails_it_by_name(folder: Path) -> None:
    write(folder, "well", STEP.replace("return replace", "1 / 0; return replace"))
    house = opened(folder)
    with pytest.raises(ExtensionError, match="well: ZeroDivisionError"):
        stepped(house.registry, well={})
    assert house.one("well").account.errors == 1


def test_two_of_one_name_do_not_meet(folder: Path) -> None:
    write(folder, "first", STEP)
    write(folder, "second", STEP.replace("{name}", "first"))
    house = opened(folder)
    assert house.one("first").state == "on"
    assert "already" in house.one("second").problem


def test_a_reload_reads_the_files_anew_and_tells_who_listens(folder: Path) -> None:
    place = write(folder, "well", STEP)
    (place / "more.py").write_text("")
    house = opened(folder)
    told: list[Registry] = []
    house.listen(told.append)
    before = house.registry
    write(folder, "well", STEP.replace('"!"', '"?"'))
    house.reload("well")
    assert stepped(house.registry, well={}) == "a fox??"
    assert stepped(before, well={}) == "a fox!!", "a run keeps the shelves that it began with"
    assert told == [house.registry]
    write(folder, "well", "raise ValueError('now it is broken')")
    with pytest.raises(ExtensionError, match="now it is broken"):
        house.reload("well")
    assert house.one("well").state == "left out" and not house.registry.request_steps


def test_its_own_sentences_reach_the_person(folder: Path) -> None:
    source = STEP.replace(
        "return replace", "raise RequestError('no foxes', 'prompt'); return replace"
    )
    write(folder, "well", "from core.errors import RequestError\n" + dedent(source))
    with pytest.raises(VitrineError, match=r"^no foxes$"):
        stepped(opened(folder).registry, well={})


def test_one_that_hangs_holds_up_one_start_and_not_the_next(folder: Path) -> None:
    write(folder, "hangs", "import time; time.sleep(60)")
    opened(folder)
    began = time.monotonic()
    again = opened(folder)
    assert time.monotonic() - began < 1
    assert state(again, "hangs")[0] == "left out" and "took more than" in state(again, "hangs")[1]
    left = [thread for thread in threading.enumerate() if thread.name == "extension hangs"]
    assert all(thread.daemon for thread in left)
