"""What a LoRA of each kind does to one weight. Tensors in, tensors out; no names, no files.

Every change is made from the unpatched weight in float32, so several add up in any order. In
shapes: o rows of the weight, i its columns, k l a kernel, r p q ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from einops import einsum
from torch import Tensor

from core.errors import AdapterError

MAX_RANK = 8192
"""Ranks beyond the width of any layer are refused: intermediate results would grow with them."""

EPSILON = torch.finfo(torch.float32).eps


class Change(Protocol):
    """What is added to one weight at weight 1."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, *kernel)."""

    def delta(self, original: Tensor) -> Tensor:
        """Float32, shaped like `original` (float32, any device), which must fit."""


def fits(change: Change, shape: tuple[int, ...]) -> bool:
    """Whether a change is for a weight of this shape. Linear layers and 1×1 convolutions are the
    same, and a kernel may be flattened into the columns."""
    own, wanted = _bare(change.shape), _bare(shape)
    flat = (wanted[0], math.prod(wanted[1:])) if wanted else ()
    return own == wanted or own == _bare(flat)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones at the end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@dataclass(frozen=True, eq=False)
class LowRank:
    """LoRA: scale · up down; arXiv:2106.09685, section 4.1.

    With `mid` (p q k l), LoCon in CP form: Σ up[o p] mid[p q k l] down[q i]; arXiv:2309.14859.
    """

    up: Tensor
    """(o r), ones behind."""
    down: Tensor
    """(r i) or (r i k l)."""
    scale: float
    mid: Tensor | None = None
    _reach: list[float] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        up, down = _matrices(self.up, self.down)
        inner = (up.shape[1], down.shape[0])
        if self.mid is None:
            _check(inner[0] == inner[1], self.up, self.down)
        else:
            _check(self.mid.ndim == 4 and self.mid.shape[:2] == inner, self.up, self.mid, self.down)
            _check(math.prod(self.down.shape[2:]) == 1, self.up, self.mid, self.down)
        _check_rank(*inner)

    @property
    def shape(self) -> tuple[int, ...]:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def factors(self, original: Tensor) -> tuple[Tensor, Tensor]:
        """(o r) and (i r), float32, where `original` is."""
        up, down = (_like(factor.flatten(1), original) for factor in (self.up, self.down))
        return up.contiguous(), down.T.contiguous()

    @property
    def reach(self) -> float:
        """No number of up down is larger than this (Cauchy and Schwarz); NaN if one may be."""
        # Kept by hand: on Python 3.11 cached_property has threads wait for each other.
        if not self._reach:
            up, down = (factor.flatten(1).float() for factor in (self.up, self.down))
            self._reach.append((up.norm(dim=1).max() * down.norm(dim=0).max()).item())
        return self._reach[0]

    def delta(self, original: Tensor) -> Tensor:
        up, down = (_like(factor.flatten(1), original) for factor in (self.up, self.down))
        if self.mid is None:
            return (self.scale * (up @ down)).reshape(original.shape)
        mid = _like(self.mid, original)
        return self.scale * einsum(up, mid, down, "o p, p q k l, q i -> o i k l")


@dataclass(frozen=True, eq=False)
class Hadamard:
    """LoHa: scale · (a₁ b₁) ∘ (a₂ b₂); arXiv:2108.06098, proposition 1.

    With `cores` (r r k l), each factor is Σ core[p q k l] a[p o] b[q i]; proposition 3.
    """

    first: tuple[Tensor, Tensor]
    """(o r) and (r i); with a core (r o) and (r i)."""
    second: tuple[Tensor, Tensor]
    scale: float
    cores: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        cores = self.cores or (None, None)
        for (a, b), core in zip((self.first, self.second), cores, strict=True):
            _matrices(a, b)
            if core is None:
                _check(a.shape[1] == b.shape[0], a, b)
            else:
                ranks = (a.shape[0], b.shape[0])
                _check(core.ndim == 4 and core.shape[:2] == ranks, a, core, b)
            _check_rank(b.shape[0])
        _check(self._shape_of(0) == self._shape_of(1), *self.first, *self.second)

    def _shape_of(self, i: int) -> tuple[int, ...]:
        a, b = (self.first, self.second)[i]
        if self.cores is None:
            return (a.shape[0], *b.shape[1:])
        return (a.shape[1], b.shape[1], *self.cores[i].shape[2:])

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape_of(0)

    def delta(self, original: Tensor) -> Tensor:
        return (self.scale * self._factor(0, original) * self._factor(1, original)).reshape(
            original.shape
        )

    def _factor(self, i: int, original: Tensor) -> Tensor:
        a, b = (_like(factor, original) for factor in (self.first, self.second)[i])
        if self.cores is None:
            return a.flatten(1) @ b.flatten(1)
        core = _like(self.cores[i], original)
        return einsum(core, b, a, "p q k l, q i, p o -> o i k l")


@dataclass(frozen=True, eq=False)
class Factored:
    """One side of a Kronecker product: whole, or a product of smaller ones."""

    whole: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    core: Tensor | None = None

    def __post_init__(self) -> None:
        if self.whole is not None:
            _check(self.whole.ndim in (2, 4) and self.whole.numel() > 0, self.whole)
            return
        if self.a is None or self.b is None:
            raise AdapterError("one side of the Kronecker product is missing")
        _matrices(self.a, self.b)
        if self.core is None:
            _check(self.a.shape[1] == self.b.shape[0], self.a, self.b)
        else:
            ranks = (self.a.shape[0], self.b.shape[0])
            _check(self.core.ndim == 4 and self.core.shape[:2] == ranks, self.a, self.core, self.b)
        _check_rank(self.b.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        if self.whole is not None:
            return tuple(self.whole.shape)
        assert self.a is not None and self.b is not None
        if self.core is not None:
            return (self.a.shape[1], self.b.shape[1], *self.core.shape[2:])
        return (self.a.shape[0], *self.b.shape[1:])

    def matrix(self, original: Tensor) -> Tensor:
        """With a kernel flattened into the columns."""
        if self.whole is not None:
            return _like(self.whole, original).flatten(1)
        assert self.a is not None and self.b is not None
        a, b = _like(self.a, original), _like(self.b, original)
        if self.core is None:
            return a.flatten(1) @ b.flatten(1)
        core = _like(self.core, original)
        return einsum(core, b, a, "p q k l, q i, p o -> o i k l").flatten(1).contiguous()


@dataclass(frozen=True, eq=False)
class Kronecker:
    """LoKr: scale · left ⊗ right; arXiv:2309.14859, section 3.2. Only `right` has a kernel."""

    left: Factored
    right: Factored
    scale: float

    def __post_init__(self) -> None:
        if math.prod(self.left.shape[2:]) != 1:
            raise AdapterError(f"the left side of the Kronecker product is {self.left.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        left, right = self.left.shape, self.right.shape
        return (left[0] * right[0], left[1] * right[1], *right[2:])

    def delta(self, original: Tensor) -> Tensor:
        product = torch.kron(self.left.matrix(original), self.right.matrix(original))
        return (self.scale * product).reshape(original.shape)


@dataclass(frozen=True, eq=False)
class Difference:
    """The whole difference, as it is stored."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def delta(self, original: Tensor) -> Tensor:
        return _like(self.tensor, original).reshape(original.shape)


@dataclass(frozen=True, eq=False)
class Decomposed:
    """DoRA: the changed weight with its norms replaced, m (W + Δ) / ‖W + Δ‖; arXiv:2402.09353,
    equation 5.

    The norm is that of the changed weight, as in the paper, in peft and in LyCORIS; over all but
    the rows, or, in LyCORIS's first form, over all but the columns. It is told by the shape.
    """

    change: Change
    magnitude: Tensor
    """(o 1 …) or (1 i …)."""

    def __post_init__(self) -> None:
        rows, columns = self.change.shape[:2]
        numbers = self.magnitude.numel()
        fits_rows = self.magnitude.shape[:1] == (rows,) and numbers == rows
        if not fits_rows and not (self.magnitude.shape[:1] == (1,) and numbers == columns):
            raise AdapterError(
                f"its magnitudes are {_shown(self.magnitude)}, "
                f"neither one for each of {rows} rows nor one for each of {columns} columns"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.change.shape

    def delta(self, original: Tensor) -> Tensor:
        changed = original + self.change.delta(original)
        axis = 0 if self.magnitude.shape[0] == self.shape[0] else 1
        others = [dim for dim in range(changed.ndim) if dim != axis]
        norms = torch.linalg.vector_norm(changed, dim=others, keepdim=True) + EPSILON
        return changed * (_like(self.magnitude, original).reshape(norms.shape) / norms) - original


def _like(factor: Tensor, original: Tensor) -> Tensor:
    return factor.to(original.device, torch.float32)


def _matrices(*factors: Tensor) -> tuple[Tensor, ...]:
    for factor in factors:
        _check(factor.ndim >= 2 and factor.numel() > 0, *factors)
    return tuple(factor.flatten(1) for factor in factors)


def _check_rank(*ranks: int) -> None:
    if max(ranks) > MAX_RANK:
        raise AdapterError(f"its rank is {max(ranks):,}; {MAX_RANK:,} is the limit")


def _check(fit: bool, *factors: Tensor) -> None:
    if not fit:
        raise AdapterError(f"its factors do not fit together: {', '.join(map(_shown, factors))}")


def _shown(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a single number"
