"""One extension on its own, loaded as the house loads it: for the tests of its author."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from core.errors import ExtensionError
from core.extend.house import Extensions
from core.registry import Registry, built_in


def alone(folder: Path, data: Path, specs: Sequence[ModuleType] = ()) -> Registry:
    """The house's shelves with what the extension in `folder` puts on them.

    Args:
        data: a folder for what it keeps.
        specs: `webui.hookspecs`, where it has panels, pages, routes or files.

    Raises:
        ExtensionError: it can't be loaded.
    """
    house = Extensions(built_in(), [(folder.parent, True)], data, data, specs, all_off=True)
    house.all_off = False
    house.enable(folder.name)
    one = house.one(folder.name)
    if one.state != "on":
        raise ExtensionError(one.problem or f"{folder.name} is off")
    return house.registry
