"""A LoRA, of any kind and spelling, from the tensors in its file to changes of layers.

It knows no files and no networks; layers are still called what the file calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from core.adapters.kinds import KINDS, AdapterKind
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


def lora(
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    kinds: Sequence[AdapterKind] = KINDS,
) -> Lora:
    """The LoRA that a file's tensors make.

    Args:
        kinds: what is known; of several that a layer has tensors of, the first has its weight.

    Raises:
        AdapterError: NaN or infinity, factors that do not fit together or are missing, or nothing
            that is known here at all.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    unread = []
    for key, tensor in tensors.items():
        role = role_of(key, kinds)
        if role is None:
            unread.append(key)
            continue
        _check_numbers(name, key, tensor)
        layers.setdefault(role[0], {})[role[1]] = tensor
    ranks = ranks_of(metadata)
    changes: dict[Place, Change] = {}
    for layer, parts in layers.items():
        try:
            changes |= _changes(layer, parts, ranks, kinds)
        except AdapterError as error:
            raise AdapterError(f"{name}: {layer}: {error}") from error
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if not changes:
        raise AdapterError(f"{name} {_what_it_is(unread)}")
    return Lora(name, changes, base_of(shapes, metadata, kinds), tuple(unread))


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


def _changes(
    layer: str, parts: Mapping[str, Tensor], ranks: Ranks, kinds: Sequence[AdapterKind]
) -> dict[Place, Change]:
    """What one layer's tensors do to its weight and its bias."""
    alpha = _alpha(layer, parts, ranks)
    stabilised = ranks.stabilised(layer)
    changes: dict[Literal["weight", "bias"], Change] = {}
    for kind in kinds:
        own = {role for _, role in kind.endings}
        if own & parts.keys():
            made = kind.load()(parts, lambda rank: _scale(alpha, rank, stabilised))
            changes = {**made, **changes}
    magnitude = parts.get("dora_scale")
    if magnitude is None and "magnitude" in parts:
        magnitude = parts["magnitude"].reshape(-1, 1)  # peft: always over the rows
    if magnitude is not None:
        if "weight" not in changes:
            raise AdapterError("it has magnitudes and nothing that they belong to")
        changes["weight"] = Decomposed(changes["weight"], magnitude)
    return {(layer, of): change for of, change in changes.items()}


Made: TypeAlias = dict[Literal["weight", "bias"], Change]
Parts: TypeAlias = Mapping[str, Tensor]
Scale: TypeAlias = Callable[[int], float]


def low_rank(parts: Parts, scale: Scale) -> Made:
    _need(parts, "up", "down")
    up, down = parts["up"], parts["down"]
    weight = LowRank(up, down, scale(_rows(down)), parts.get("mid"))
    made: Made = {"weight": weight}
    if "up_bias" in parts:
        made["bias"] = Difference(parts["up_bias"].float() * weight.scale)
    return made


def hadamard(parts: Parts, scale: Scale) -> Made:
    _need(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    cores = None
    if "hada_t1" in parts or "hada_t2" in parts:
        _need(parts, "hada_t1", "hada_t2")
        cores = parts["hada_t1"], parts["hada_t2"]
    first, second = ((parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"]) for i in (1, 2))
    return {"weight": Hadamard(first, second, scale(_rows(first[1])), cores)}


def kronecker(parts: Parts, scale: Scale) -> Made:
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
    return {"weight": Kronecker(left, right, 1.0 if factored is None else scale(len(factored)))}


def difference(parts: Parts, scale: Scale) -> Made:
    """Alpha has no say in it."""
    made: Made = {}
    for of, roles in (("weight", ("diff", "w_norm")), ("bias", ("b_norm", "diff_b"))):
        for role in roles:
            if role in parts:
                made.setdefault(of, Difference(parts[role]))  # type: ignore[arg-type]
    return made


def _alpha(layer: str, parts: Mapping[str, Tensor], ranks: Ranks) -> float | None:
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


def _rows(factor: Tensor) -> int:
    return factor.shape[0] if factor.ndim else 0


def _scale(alpha: float | None, rank: int, stabilised: bool) -> float:
    """No alpha means alpha = rank."""
    if rank < 1:
        raise AdapterError("one of its factors is empty")
    if alpha is None:
        return 1.0
    return alpha / math.sqrt(rank) if stabilised else alpha / rank


def _need(parts: Mapping[str, Tensor], *roles: str) -> None:
    if missing := [role for role in roles if role not in parts]:
        raise AdapterError(f"it has {', '.join(sorted(parts))}, and lacks {', '.join(missing)}")
