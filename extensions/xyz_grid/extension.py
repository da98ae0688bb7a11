"""One picture for every combination of up to three things, on one sheet."""

from __future__ import annotations

from core.extend import hookimpl
from webui.hookspecs import Page

from .page import draw


@hookimpl
def pages() -> list[Page]:
    return [Page("grid", "Grid", draw)]
