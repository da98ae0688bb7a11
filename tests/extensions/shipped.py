"""The extensions that ship, loaded as the house loads them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import webui.hookspecs
from core.extend.house import Extensions
from core.extend.loader import PACKAGE
from core.registry import built_in

ROOT = Path(__file__).parents[2]


def shipped(data: Path, *names: str) -> Extensions:
    """All that ship, those in `names` on even if they start off."""
    house = Extensions(
        built_in(),
        [(ROOT / "extensions", True)],
        data,
        data / "outputs",
        specs=(webui.hookspecs,),
        packages=False,
    )
    for name in names:
        house.enable(name)
    assert not [one.problem for one in house.all() if one.problem]
    return house


def module(name: str, part: str = "") -> ModuleType:
    """A loaded extension's own module."""
    return sys.modules[PACKAGE + name + ("." + part if part else "")]


def settings(name: str, **values: Any) -> Any:
    return module(name).Settings(**values)
