"""The grid: what is typed, which pictures that asks for, and how they lie on the sheet."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from core.errors import RequestError
from core.request import GenerationRequest
from extensions.xyz_grid.axes import AXES, MOST, cells, values
from extensions.xyz_grid.sheet import GAP, sheet
from tests.webui.fake_engine import FakeEngine


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("steps", "10, 20,30", [10, 20, 30]),
        ("steps", "1-4", [1, 2, 3, 4]),
        ("steps", "1-9 (+4)", [1, 5, 9]),
        ("steps", "9-1 (+4)", [9, 5, 1]),
        ("steps", "1-10 [4]", [1, 4, 7, 10]),
        ("cfg_scale", "1-2 (0.5), 7", [1.0, 1.5, 2.0, 7.0]),
        ("sampler", "euler, Heun", ["euler", "Heun"]),
        ("words", 'fox, "an owl, asleep"', ["fox", "an owl, asleep"]),
    ],
)
def test_values_are_read_as_typed(name: str, text: str, wanted: list[Any]) -> None:
    assert values(text, AXES[name]) == wanted


@pytest.mark.parametrize("text", ["", " , ", "ten", "1-1000", "1-9 (0)", "1-" + "9" * 400])
def test_what_is_no_value_is_said(text: str) -> None:
    with pytest.raises(RequestError):
        values(text, AXES["steps"])


def test_every_combination_is_one_picture() -> None:
    request = GenerationRequest(prompt="a fox", seed=1)
    along = [(AXES["steps"], [10, 20]), (AXES["words"], ["fox", "owl", "hare"]), None]
    found = cells(request, along)
    assert len(found) == 6
    by_place = {(cell.x, cell.y, cell.z): cell.request for cell in found}
    assert (by_place[1, 2, 0].steps, by_place[1, 2, 0].prompt) == (20, "a hare")
    with pytest.raises(RequestError, match="in neither prompt"):
        cells(request, [(AXES["words"], ["bear", "owl"]), None, None])
    with pytest.raises(RequestError, match=f"at most {MOST}"):
        cells(request, [(AXES["seed"], range(11)), (AXES["steps"], range(11)), None])


def test_each_picture_lies_in_its_place() -> None:
    colours = {(0, 0, 0): "red", (1, 0, 0): "lime", (0, 1, 0): "blue", (1, 0, 1): "yellow"}
    pictures = {at: Image.new("RGB", (64, 64), colour) for at, colour in colours.items()}
    whole = sheet(pictures, [["1", "2"], ["a", "b"], ["u", "v"]], (64, 64))
    found = {whole.getpixel((x, y)) for x in range(whole.width) for y in range(whole.height)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)} <= found
    counts = [
        sum(whole.getpixel((x, y)) == (255, 0, 0) for y in range(whole.height))
        for x in range(whole.width)
    ]
    assert max(counts) == 64 and sum(map(bool, counts)) == 64
    assert whole.width > 2 * (64 + GAP)


def test_the_sheet_grows_with_every_picture() -> None:
    from extensions.xyz_grid.page import NOTHING, painted
    from webui.stream import Stage

    engine = FakeEngine(0.0)
    try:
        given = ["a fox", "", 1, "steps", "1, 2", "seed", "5, 6", NOTHING, ""]
        told = [said for _, said in painted(given, Stage(engine), "me")]
        assert told == [f"{n} of 4 pictures" for n in (1, 2, 3, 4)]
        ((nothing, sentence),) = painted([*given[:4], "x", *given[5:]], Stage(engine), "me")
        assert nothing is None and "no value for Steps" in sentence
    finally:
        engine.close()
