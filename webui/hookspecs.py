"""What extensions may add to the page; core/extend/hookspecs.py has the rest. Imports no gradio, so
that an extension may ask for it at its top level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.extend.hookspecs import Place, hookspec

if TYPE_CHECKING:
    from fastapi import APIRouter

    from core.engine.engine import Engine
    from webui.shell import Shell


@dataclass(frozen=True)
class Panel:
    """Settings on the page where pictures are made: a switch, and a widget for each field."""

    name: str
    """Of the step, wrapper or finisher that it is for."""
    settings: type
    title: str
    on: bool = False
    """Whether its switch is on before anybody touched it."""


@dataclass(frozen=True)
class Page:
    """A tab."""

    name: str
    """In the address: lower case letters."""
    title: str
    draw: Callable[[Shell], None]
    """Draws the tab's components into the block that is open, and wires them."""


@dataclass(frozen=True)
class Files:
    """Scripts and styles of the page: files in the extension's folder `static`, all of which are
    served at /ext/NAME/static/."""

    scripts: tuple[str, ...] = ()
    """Modules that every page loads."""
    styles: tuple[str, ...] = ()


@hookspec
def panels(place: Place) -> list[Panel]:
    """Settings among those of the request."""
    return []


@hookspec
def pages(place: Place) -> list[Page]:
    """Further tabs."""
    return []


@hookspec
def routes(place: Place, engine: Engine) -> list[APIRouter]:
    """Answers to requests below /ext/NAME/, behind the gate."""
    return []


@hookspec
def static(place: Place) -> list[Files]:
    """Scripts and styles of the page."""
    return []


WEB_HOOKS: dict[str, str] = {
    "panels": "Panel",
    "pages": "Page",
    "routes": "APIRouter",
    "static": "Files",
}
"""What each hook's list holds."""
