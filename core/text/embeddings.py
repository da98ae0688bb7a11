"""Textual inversion as prompts see it: names that stand for vectors. Torch-free.

arXiv:2208.01618. An embedding is called by its file's bare name, anywhere in a prompt, and takes as
many places of a chunk as it has vectors. It knows no files; `core.models.embeddings` reads those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MAX_VECTORS = 75
"""One chunk's worth: an embedding is never split."""

PLACEHOLDER = 0
"""The id that keeps a vector's place; the network never sees what it stands for."""


@dataclass(frozen=True)
class Embedding:
    """An embedding as far as its header tells."""

    name: str
    """What a prompt says."""
    count: int
    """Vectors, so places in a chunk."""
    widths: tuple[int, ...]
    """Width of the vectors for each text encoder: (768,) SD 1.x, (1024,) SD 2.x, (768, 1280)
    SDXL."""


@dataclass(frozen=True)
class Vector:
    """One vector of an embedding, as a token carries it."""

    name: str
    index: int
    """From 0."""
    count: int
    """Of how many."""


def fitting(widths: tuple[int, ...], encoders: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which of an embedding's `widths` serves each of a model's encoders; None: it does not fit.

    An SDXL embedding also fits the refiner, which has the second encoder alone.
    """
    if widths == encoders:
        return tuple(range(len(widths)))
    if len(encoders) == 1 and widths.count(encoders[0]) == 1:
        return (widths.index(encoders[0]),)
    return None


@dataclass(frozen=True)
class Names:
    """The names of embeddings as token ids, to be found among a prompt's."""

    by_first: Mapping[int, tuple[tuple[tuple[int, ...], Embedding], ...]] = field(
        default_factory=dict
    )
    """First id → (all ids, the embedding), longest first."""

    @staticmethod
    def of(spelled: Iterable[tuple[tuple[int, ...], Embedding]]) -> Names:
        """Of two names with the same ids the first counts; a name without any is never found."""
        by_first: dict[int, dict[tuple[int, ...], Embedding]] = {}
        for ids, embedding in spelled:
            if ids:
                by_first.setdefault(ids[0], {}).setdefault(ids, embedding)
        return Names(
            {
                first: tuple(sorted(named.items(), key=lambda item: -len(item[0])))
                for first, named in by_first.items()
            }
        )

    def at(self, ids: Sequence[int], start: int) -> tuple[int, Embedding] | None:
        """The longest name that begins at `start`: (how many ids it takes, the embedding)."""
        for name, embedding in self.by_first.get(ids[start], ()):
            if tuple(ids[start : start + len(name)]) == name:
                return len(name), embedding
        return None
