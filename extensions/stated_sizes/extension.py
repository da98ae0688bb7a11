"""Families by the size that a checkpoint itself states: SD 1.x at 768, SDXL at 512 or 768."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from core.extend import Family, hookimpl
from core.models.sd1 import SD1
from core.models.sdxl import SDXL

if TYPE_CHECKING:
    from core.models.files import Header

SIZES = ((SD1, 768), (SDXL, 512), (SDXL, 768))


def stated(header: Header) -> int | None:
    """Pixels on each side, where the metadata says a square: "768x768", or "768"."""
    said = header.metadata.get("modelspec.resolution", "")
    found = re.fullmatch(r"(\d{2,5})(?:\s*x\s*(\d{2,5}))?", said.strip())
    if found is None or (found[2] or found[1]) != found[1]:
        return None
    return int(found[1])


def stating(family: Family, size: int) -> Callable[[Header], bool]:
    def matches(header: Header) -> bool:
        return stated(header) == size and family.matches(header)

    return matches


@hookimpl
def families() -> list[Family]:
    return [
        replace(
            family,
            name=f"{family.name}-{size}",
            title=f"{family.title} at {size}",
            size=size,
            matches=stating(family, size),
            like=family.name,
        )
        for family, size in SIZES
    ]
