"""What GLoRA does to one weight. In shapes: o rows, i columns, k l a kernel, r s ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from einops import einsum
from torch import Tensor

from core.adapters.changes import Change, LowRank
from core.errors import AdapterError


@dataclass(frozen=True, eq=False)
class GeneralLowRank:
    """scale · (b₁b₂ + W a₁a₂), W the unpatched weight."""

    added: LowRank
    """b₁b₂, scaled."""
    first: Tensor
    """a₁ (i r)."""
    second: Tensor
    """a₂ (r i)."""
    scale: float

    def __post_init__(self) -> None:
        columns, rank = self.first.shape
        if self.second.shape != (rank, columns) or self.added.shape[1] != columns:
            there = " × ".join(map(str, self.second.shape))
            raise AdapterError(
                f"a1 ({columns} × {rank}) and a2 ({there}) do not fit a weight of "
                f"{self.added.shape[1]} columns"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.added.shape

    def delta(self, original: Tensor) -> Tensor:
        first, second = (factor.to(original) for factor in (self.first, self.second))
        turned = einsum(original, first, second, "o i ..., i r, r j -> o j ...")
        return self.added.delta(original) + self.scale * turned


def glora(
    parts: Mapping[str, Tensor], scale: Callable[[int], float]
) -> Mapping[Literal["weight", "bias"], Change]:
    if missing := [name for name in ("a1", "a2", "b1", "b2") if name not in parts]:
        raise AdapterError(f"it lacks {', '.join(missing)}")
    first, second = (parts[name].flatten(1) for name in ("a1", "a2"))
    factor = scale(second.shape[0])
    added = LowRank(parts["b1"], parts["b2"], factor, parts.get("bm"))
    return {"weight": GeneralLowRank(added, first, second, factor)}
