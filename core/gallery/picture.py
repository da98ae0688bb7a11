"""One saved picture as the gallery's index knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.request import MAX_SEED, GenerationRequest

BIN = ".bin"
"""Folder beside a deleted picture that holds it until the bin is emptied."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One saved picture as the index knows it."""

    id: int
    path: Path
    """Where it was saved; deleted ones lie in the bin beside it."""
    made: float
    """Seconds since 1970."""
    width: int
    height: int
    prompt: str = ""
    negative_prompt: str = ""
    checkpoint: str = ""
    seed: int | None = None
    job: str = ""
    """Id of the job that made it; empty for files found on the disk."""
    image: int = 0
    """Its number among the job's images."""
    owner: str = "local"
    starred: bool = False
    deleted: float | None = None
    """Seconds since 1970; None: it is there."""
    parent: str = ""
    """SHA-256 of the picture it was made from."""

    @property
    def file(self) -> Path:
        """Where it lies now."""
        if self.deleted is None:
            return self.path
        return self.path.parent / BIN / f"{self.id}-{self.path.name}"


@dataclass(frozen=True)
class Page:
    """Pictures, newest first. `more` is the cursor of the next page; None: these were the last."""

    pictures: tuple[Picture, ...]
    more: str | None


@dataclass(frozen=True)
class Scan:
    """What a scan changed, in files."""

    added: int = 0
    changed: int = 0
    dropped: int = 0
    unreadable: int = 0


def of_request(request: GenerationRequest) -> dict[str, Any]:
    """What a row takes from the request that made its picture."""
    seed = request.seed
    return {
        "prompt": stored(request.prompt),
        "negative_prompt": stored(request.negative_prompt),
        "seed": seed if seed is not None and 0 <= seed <= MAX_SEED else None,
        "parent": "" if request.start is None else request.start.picture,
    }


def stored(text: str) -> str:
    """SQLite takes no halves of pairs, and ends a text at NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")
