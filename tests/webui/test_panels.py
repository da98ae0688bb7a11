"""Panels: a settings dataclass as fields of the form, and there and back again."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.errors import RequestError
from core.extend import setting
from core.request import GenerationRequest
from tests.extensions.shipped import shipped
from webui import panels
from webui.hookspecs import Panel


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Settings:
    amount: float = setting(0.5, low=0, high=2, step=0.1, help="How much.")
    times: int = 3
    lively: bool = True
    words: str = ""
    colour: Colour = Colour.RED
    way: str = setting("up", choices=("up", "down"))


PANEL = panels.drawn(Panel("one", Settings, "One", on=False))


def test_a_field_for_each_setting_with_its_bounds_and_words() -> None:
    by_name = {field.name.rpartition(".")[2]: field for field in PANEL.fields}
    assert {name: field.kind for name, field in by_name.items()} == {
        "amount": "number",
        "times": "whole",
        "lively": "flag",
        "words": "text",
        "colour": "choice",
        "way": "choice",
    }
    assert by_name["amount"].slider == (0, 2) and by_name["amount"].help == "How much."
    assert [value for _, value in by_name["colour"].choices] == ["red", "blue"]
    assert by_name["colour"].default == "red"
    ids = [field.elem_id for field in (PANEL.switch, *PANEL.fields)]
    assert len(set(ids)) == len(ids)


def test_values_become_extras_and_extras_become_values() -> None:
    values = {"extras.one.on": True, "extras.one.amount": 1, "extras.one.colour": "blue"}
    extras = panels.read(values, [PANEL])
    assert extras["one"] == {
        "amount": 1.0,
        "times": 3,
        "lively": True,
        "words": "",
        "colour": "blue",
        "way": "up",
    }
    request = GenerationRequest(prompt="", extras=extras)
    again = panels.written(GenerationRequest.from_json(request.to_json()), [PANEL])
    assert panels.read(again, [PANEL]) == extras
    assert panels.flat(request) == again


def test_what_is_switched_off_is_not_in_the_request() -> None:
    assert panels.read({"extras.one.amount": 99}, [PANEL]) == {}
    assert panels.written(GenerationRequest(prompt=""), [PANEL]) == {"extras.one.on": False}


def test_a_wrong_value_names_its_field() -> None:
    with pytest.raises(RequestError, match="between 0 and 2") as caught:
        panels.read({"extras.one.on": True, "extras.one.amount": 9}, [PANEL])
    assert caught.value.field == "extras.one.amount"


def test_every_panel_that_ships_is_drawn_and_read(tmp_path: Path) -> None:
    house = shipped(tmp_path)
    drawn = panels.panels(house)
    assert {one.panel.name for one in drawn} == set(house.registry.settings_kinds())
    values = {one.switch.name: True for one in drawn}
    extras = panels.read(values, drawn)
    assert house.registry.checked(extras) == extras
    there = GenerationRequest(prompt="", extras=extras | {"nobody": {}})
    assert len(panels.absent(there, house.registry)) == 1
