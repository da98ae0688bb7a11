"""Lists of extensions in AUTOMATIC1111's format, read and searched. It fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import ExtensionError
from core.extend.sources import COMMIT

MOST_BYTES = 16 * 2**20
MOST = 20_000
DISCLOSED = ("online", "ads")
"""Tags that a list must give to what calls a server or advertises."""


@dataclass(frozen=True)
class Listed:
    """One entry."""

    name: str
    url: str
    description: str
    added: str
    """A date, 2026-05-25."""
    tags: tuple[str, ...]
    stars: int
    commit: str
    """What was reviewed; "" where the list does not say."""


def read_index(data: bytes) -> tuple[Listed, ...]:
    """The entries of a list; those without a name or an https address are left out.

    Raises:
        ExtensionError: it is no such list.
    """
    try:
        entries = json.loads(data)["extensions"]
        if not isinstance(entries, list):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ExtensionError("that is no list of extensions") from error
    found = [_entry(entry) for entry in entries[:MOST] if isinstance(entry, dict)]
    return tuple(one for one in found if one.name and one.url.startswith("https://"))


def searched(entries: Sequence[Listed], words: str) -> list[Listed]:
    """Those that hold every word in their name, description or tags; most stars first."""
    wanted = words.casefold().split()
    held = [
        entry
        for entry in entries
        if all(
            word in f"{entry.name} {entry.description} {' '.join(entry.tags)}".casefold()
            for word in wanted
        )
    ]
    return sorted(held, key=lambda entry: (-entry.stars, entry.name.casefold()))


def _entry(values: dict[str, Any]) -> Listed:
    tags, stars = values.get("tags"), values.get("stars")
    commit = _text(values, "default_branch_commit_sha")
    return Listed(
        name=_text(values, "name"),
        url=_text(values, "url"),
        description=_text(values, "description"),
        added=_text(values, "added"),
        tags=tuple(str(tag)[:40] for tag in tags[:20]) if isinstance(tags, list) else (),
        stars=stars if isinstance(stars, int) and not isinstance(stars, bool) else 0,
        commit=commit if COMMIT.fullmatch(commit) else "",
    )


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return value[:1000] if isinstance(value, str) else ""
