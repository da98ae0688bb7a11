"""Lets simple extensions written for AUTOMATIC1111 run here.

Each is an extension of its own, whose extension.py asks `bridged` for its hooks. This one brings
what they import as `modules`, and what their scripts find in the browser.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.extend import hookimpl
from webui.hookspecs import Files

from .bridge import Bridged, told
from .facade import facade

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import APIRouter

sys.modules.update(facade())

THERE: dict[str, Bridged] = {}
"""Those that were loaded, by name; one that is loaded anew takes its own place."""


def bridged(file: str) -> dict[str, Callable[..., Any]]:
    """The hooks of the extension whose extension.py is `file`, for its own namespace."""
    folder = Path(file).parent
    THERE[folder.name] = Bridged(folder)
    return THERE[folder.name].hooks()


@hookimpl
def static() -> list[Files]:
    return [Files(scripts=("a1111.js",))]


@hookimpl
def routes() -> list[APIRouter]:
    from fastapi import APIRouter

    router = APIRouter()

    @router.get("/bridged")
    def all() -> dict[str, Any]:
        """What the page loads for each of them, and which addresses are theirs."""
        return told(THERE)

    return [router]
