"""What may be added inside a U-Net from outside: to its skips, its middle, or its way down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Residuals:
    """Additions for one forward pass; None adds nothing."""

    skips: tuple[Tensor | None, ...] = ()
    """(b c h w) for each input block: added to what it hands over to the way up alone, as
    ControlNet does (arXiv:2302.05543, section 3.2)."""
    middle: Tensor | None = None
    """Added to what the middle block answers."""
    features: tuple[Tensor | None, ...] = ()
    """(b c h w) for each input block: added to what it answers, so all later blocks see it too, as
    T2I-Adapter does (arXiv:2302.08453, equation 3)."""


def summed(parts: Sequence[Residuals]) -> Residuals | None:
    """The additions of all; None where there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return Residuals(
        _rows_summed([part.skips for part in parts]),
        _summed([part.middle for part in parts]),
        _rows_summed([part.features for part in parts]),
    )


def at(row: tuple[Tensor | None, ...], index: int) -> Tensor | None:
    """The addition of one block; a row may be shorter than the network."""
    return row[index] if index < len(row) else None


def _rows_summed(rows: Sequence[tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
    longest = max(map(len, rows))
    return tuple(_summed([at(row, index) for row in rows]) for index in range(longest))


def _summed(tensors: Sequence[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for tensor in tensors:
        if tensor is not None:
            total = tensor if total is None else total + tensor
    return total
