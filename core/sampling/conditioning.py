"""What guides a denoiser: the encoded prompt, and how it changes over a walk.

It does not know where encodings come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from core.nn.attention import Words


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One encoded prompt. Compared by identity: the same prompt over several intervals is the
    same object."""

    context: Tensor
    """(b n d) float32; b is 1 for a prompt that all images share."""
    pooled: Tensor | None = None
    """(b d) float32; for XL with the embedded sizes behind it."""
    concat: Tensor | None = None
    """(b c h w): channels put beside the latents."""
    negative: tuple[bool, ...] = (False,)
    """For each row, whether it stands for the negative prompt."""
    words: Words | None = None
    """Where one network's keys and values of the context are kept; None: nowhere."""

    def repeated(self, count: int) -> Conditioning:
        """One row, for `count` images."""
        if count == 1:
            return self

        def rows(t: Tensor) -> Tensor:
            return t.expand(count, *t.shape[1:])

        return Conditioning(
            rows(self.context),
            None if self.pooled is None else rows(self.pooled),
            None if self.concat is None else rows(self.concat),
            self.negative * count,
        )

    def zeroed(self) -> Conditioning:
        """Zeros in place of what the text encoders said."""
        return Conditioning(
            torch.zeros_like(self.context),
            None if self.pooled is None else torch.zeros_like(self.pooled),
            self.concat,
            self.negative,
        )

    @staticmethod
    def stacked(conditionings: Sequence[Conditioning]) -> Conditioning:
        """The rows of all, in order; they must have the same parts and lengths."""
        return Conditioning(
            torch.cat([c.context for c in conditionings]),
            _stacked([c.pooled for c in conditionings]),
            _stacked([c.concat for c in conditionings]),
            tuple(row for c in conditionings for row in c.negative),
        )


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    assert len(present) in (0, len(tensors)), "some conditionings lack what others have"
    return torch.cat(present) if present else None


Weighted: TypeAlias = tuple[Conditioning, float]
"""A prompt, and its share in guidance."""


@dataclass(frozen=True, eq=False)
class PromptOverTime:
    """A prompt whose wording may change from interval to interval, never inside one."""

    intervals: tuple[tuple[Weighted, ...], ...]
    """For each interval of the walk what guides it: several where prompts were joined by AND."""

    def at(self, index: int) -> tuple[Weighted, ...]:
        """What guides interval `index`, from 0."""
        return self.intervals[index]

    def mapped(self, change: Callable[[Conditioning], Conditioning]) -> PromptOverTime:
        """`change` applied once to each distinct conditioning; the same stay the same."""
        changed: dict[int, Conditioning] = {}
        for interval in self.intervals:
            for conditioning, _ in interval:
                if id(conditioning) not in changed:
                    changed[id(conditioning)] = change(conditioning)
        return PromptOverTime(
            tuple(tuple((changed[id(c)], weight) for c, weight in i) for i in self.intervals)
        )
