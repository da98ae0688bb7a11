"""A weight with changes added to it: in float32, into new memory or memory given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from core.adapters.changes import Change, LowRank
from core.nn import kernels

Weighted: TypeAlias = tuple[Change, float]

PIECE = 2**19
"""Numbers of a weight changed at a time on a CPU, a product of 2 MB: it is added while at hand."""
SAFE = 1e30
"""What may be added to any finite float32 or bfloat16 without leaving their range."""


@torch.no_grad()
def summed(original: Tensor, changes: Sequence[Weighted], spare: Tensor | None = None) -> Tensor:
    """original + Σ weight · delta in the original's dtype and layout, each delta of the original.
    Gradients do not flow through.

    Args:
        spare: memory that may be written over; used where it fits.

    Raises:
        OverflowError: the changes make NaN or infinity of it in that dtype.
    """
    factored = [
        (change, weight)
        for change, weight in changes
        if isinstance(change, LowRank) and change.mid is None
    ]
    answer = spare if spare is not None and _fits(spare, original) else torch.empty_like(original)
    if len(factored) == len(changes):
        if answer.is_contiguous():
            _by_rows(original, factored, answer.detach())
        else:  # channels last on a graphics card
            total = torch.empty_like(original, memory_format=torch.contiguous_format)
            _by_rows(original, factored, total)
            answer.detach().copy_(total)
        return answer
    exact = original.float()
    total = exact
    for change, weight in changes:
        total = torch.add(total, change.delta(exact), alpha=weight)
    _check(total, original.dtype)
    answer.detach().copy_(total)
    return answer


def _by_rows(original: Tensor, changes: Sequence[tuple[LowRank, float]], answer: Tensor) -> None:
    """The kind that most files are made of: some rows at a time, none of its deltas in whole."""
    flat = original.reshape(len(original), -1)  # a norm's weight has no columns
    out = answer.view(flat.shape)
    factors = [(*change.factors(original), weight * change.scale) for change, weight in changes]
    reach = sum(change.reach * max(1.0, abs(weight * change.scale)) for change, weight in changes)
    is_safe = reach < SAFE < torch.finfo(original.dtype).max  # NaN is not
    rows = max(1, PIECE // flat.shape[1]) if original.device.type == "cpu" else len(flat)
    for begin in range(0, len(flat), rows):
        part = slice(begin, begin + rows)
        total = flat[part].float()
        for number, (up, down, scale) in enumerate(factors):
            into = out[part] if out.dtype == total.dtype else total if number else None
            total = torch.add(total, _product(up[part], down), alpha=scale, out=into)
        if not is_safe:
            _check(total, original.dtype)
        if out.dtype != total.dtype:
            out[part] = total


def _product(up: Tensor, down: Tensor) -> Tensor:
    """(o r), (i r) → (o i)."""
    return kernels.linear(up, down, None) if kernels.quick(up) else up @ down.T


def _check(total: Tensor, dtype: torch.dtype) -> None:
    low, high = torch.aminmax(total)
    largest = torch.finfo(dtype).max
    if not (-largest <= low and high <= largest):  # NaN is neither
        raise OverflowError


def _fits(spare: Tensor, like: Tensor) -> bool:
    """Whether a sum shaped like this tensor can be written into it."""
    if spare.is_mkldnn or (spare.dtype, spare.device) != (like.dtype, like.device):
        return False
    if (spare.shape, spare.stride()) != (like.shape, like.stride()):
        return False
    return torch.is_inference_mode_enabled() or not spare.is_inference()
