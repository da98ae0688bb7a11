"""What an extension says of itself in its `extension.toml`, read without running any of it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ExtensionError

FILE = "extension.toml"
MOST = 64 * 2**10
"""Bytes of such a file."""


@dataclass(frozen=True)
class About:
    """Everything is optional."""

    title: str = ""
    description: str = ""
    version: str = ""
    requirements: tuple[str, ...] = ()
    """Packages as pip is asked for them."""
    permissions: tuple[str, ...] = ()
    """What it says it does beside computing: "network", "files outside its folder", …"""
    starts_on: bool = True
    """Whether it is on before anybody chose."""


def about(folder: Path, name: str) -> About:
    """What lies in a folder; an empty value where nothing is said.

    Raises:
        ExtensionError: the file is there and can't be read as what it should be.
    """
    path = folder / FILE
    if not path.is_file():
        return About()
    try:
        if path.stat().st_size > MOST:
            raise ValueError(f"it is larger than {MOST // 1024} KB")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return About(
            title=_text(values, "title"),
            description=_text(values, "description"),
            version=_text(values, "version"),
            requirements=_texts(values, "requirements"),
            permissions=_texts(values, "permissions"),
            starts_on=values.get("starts_on", True) is not False,
        )
    except (OSError, ValueError) as error:
        raise ExtensionError(f"{name}: {FILE} can't be read: {error}") from error


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text")
    return value[:2000]


def _texts(values: dict[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} must be a list of texts")
    return tuple(one[:500] for one in value[:100])
