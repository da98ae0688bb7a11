"""A LoRA, of any kind and spelling, from the tensors in its file to changes of layers.

It knows no files and no networks; layers are still called what the file calls them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from core.adapters.changes import (
    Change,
    Decomposed,
    Difference,
    Factored,
    Hadamard,
    Kronecker,
    LowRank,
)
from core.adapters.names import Base, Ranks, base_of, ranks_of, role_of
from core.errors import AdapterError

Place: TypeAlias = tuple[str, Literal["weight", "bias"]]
"""A layer as the file spells it, and which of its parameters."""


@dataclass(frozen=True, eq=False)
class Lora:
    """What a file changes. Compared by identity."""

    name: str
    changes: Mapping[Place, Change]
    base: Base = field(default_factory=Base)
    unread: tuple[str, ...] = ()
    """Tensors in the file that are of no kind known here."""


def lora(name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Lora:
    """The LoRA that a file's tensors make.

    Raises:
        AdapterError: NaN or infinity, factors that do not fit together or are missing, or nothing
            that is known here at all.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    unread = []
    for key, tensor in tensors.items():
        role = role_of(key)
        if role is None:
            unread.append(key)
            continue
        _check_numbers(name, key, tensor)
        layers.setdefault(role[0], {})[role[1]] = tensor
    ranks = ranks_of(metadata)
    changes: dict[Place, Change] = {}
    for layer, parts in layers.items():
        try:
            changes |= {(layer, of): change for of, change in _changes(layer, parts, ranks)}
        except AdapterError as error:
            raise AdapterError(f"{name}: {layer}: {error}") from error
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if not changes:
        raise AdapterError(f"{name} {_what_it_is(unread)}")
    return Lora(name, changes, base_of(shapes, metadata), tuple(unread))


def _check_numbers(name: str, key: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise AdapterError(f"{name}: {key} holds {tensor.dtype} numbers, which make no change")
    if not torch.isfinite(tensor.float()).all():
        raise AdapterError(f"{name} is damaged: {key} holds NaN or infinity")


def _what_it_is(unread: list[str]) -> str:
    for mark, kind in (("oft_", "an OFT"), (".a1.", "a GLoRA"), ("boft", "a BOFT")):
        if any(mark in key for key in unread):
            return f"is {kind}, a kind that this version does not read"
    return f"is no LoRA; its first tensors are: {', '.join(sorted(unread)[:3]) or 'none'}"


_Changes: TypeAlias = list[tuple[Literal["weight", "bias"], Change]]


def _changes(layer: str, parts: dict[str, Tensor], ranks: Ranks) -> _Changes:
    """What one layer's tensors do to its weight and its bias."""
    changes: _Changes = []
    weight = _weight_change(layer, parts, ranks)
    if weight is not None:
        if (magnitude := parts.get("dora_scale")) is not None:
            weight = Decomposed(weight, magnitude)
        elif (magnitude := parts.get("magnitude")) is not None:
            weight = Decomposed(weight, magnitude.reshape(-1, 1))  # peft: always over the rows
        changes.append(("weight", weight))
    elif "dora_scale" in parts or "magnitude" in parts:
        raise AdapterError("it has magnitudes and nothing that they belong to")
    if "up_bias" in parts and isinstance(weight, LowRank):
        changes.append(("bias", Difference(parts["up_bias"].float() * weight.scale)))
    for role in ("diff_b", "b_norm"):
        if role in parts:
            changes.append(("bias", Difference(parts[role])))
    return changes


def _weight_change(layer: str, parts: dict[str, Tensor], ranks: Ranks) -> Change | None:
    alpha = _alpha(layer, parts, ranks)
    if "up" in parts or "down" in parts:
        _need(parts, "up", "down")
        up, down, mid = parts["up"], parts["down"], parts.get("mid")
        rank = down.shape[0] if down.ndim else 0
        scale = _scale(alpha, rank)
        if ranks.stabilised(layer) and alpha is not None:
            scale = alpha / math.sqrt(rank)
        return LowRank(up, down, scale, mid)
    if any(role.startswith("hada") for role in parts):
        _need(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return _hadamard(parts, alpha)
    if any(role.startswith("lokr") for role in parts):
        return _kronecker(parts, alpha)
    for role in ("diff", "w_norm"):
        if role in parts:
            return Difference(parts[role])
    return None


def _hadamard(parts: dict[str, Tensor], alpha: float | None) -> Hadamard:
    cores = None
    if "hada_t1" in parts or "hada_t2" in parts:
        _need(parts, "hada_t1", "hada_t2")
        cores = parts["hada_t1"], parts["hada_t2"]
    first, second = ((parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"]) for i in (1, 2))
    rank = first[1].shape[0] if first[1].ndim else 0
    return Hadamard(first, second, _scale(alpha, rank), cores)


def _kronecker(parts: dict[str, Tensor], alpha: float | None) -> Kronecker:
    """The scale counts the rank of the side that is factored, the right one if both are; it is 1
    where both are whole."""
    left, right = (
        Factored(
            parts.get(f"lokr_w{i}"),
            parts.get(f"lokr_w{i}_a"),
            parts.get(f"lokr_w{i}_b"),
            parts.get("lokr_t2") if i == 2 else None,
        )
        for i in (1, 2)
    )
    factored = next((side.b for side in (right, left) if side.whole is None), None)
    scale = 1.0 if factored is None else _scale(alpha, factored.shape[0])
    return Kronecker(left, right, scale)


def _alpha(layer: str, parts: dict[str, Tensor], ranks: Ranks) -> float | None:
    stored = parts.get("alpha")
    if stored is None:
        alpha = ranks.alpha(layer)
    elif stored.numel() == 1:
        alpha = float(stored)
    else:
        raise AdapterError(f"its alpha is {stored.numel()} numbers")
    if alpha is not None and not math.isfinite(alpha):
        raise AdapterError(f"its alpha is {alpha}")
    return alpha


def _scale(alpha: float | None, rank: int) -> float:
    """No alpha means alpha = rank."""
    if rank < 1:
        raise AdapterError("one of its factors is empty")
    return 1.0 if alpha is None else alpha / rank


def _need(parts: dict[str, Tensor], *roles: str) -> None:
    if missing := [role for role in roles if role not in parts]:
        raise AdapterError(f"it has {', '.join(sorted(parts))}, and lacks {', '.join(missing)}")
