"""The kinds of LoRA: which tensors belong to a layer's change, and what makes a change of them.

Torch-free, as shelves are; a kind's reader is imported when a file holds its tensors.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from core.adapters.changes import Change

Reader: TypeAlias = Callable[
    ["Mapping[str, Tensor]", Callable[[int], float]],
    "Mapping[Literal['weight', 'bias'], Change]",
]
"""(a layer's tensors by role, rank -> scale) -> what becomes of its weight and its bias.

The scale is alpha / rank as the file says it; an AdapterError says what does not fit together.
"""


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """One way to store what is added to weights. `target` is "module:function", a Reader."""

    name: str
    title: str
    help: str
    endings: tuple[tuple[str, str], ...]
    """(regular expression, role): what follows a layer's name in its tensors' names, with the dot.
    The roles alpha, dora_scale and magnitude are every kind's."""
    target: str

    def load(self) -> Reader:
        module, _, name = self.target.partition(":")
        reader: Reader = getattr(importlib.import_module(module), name)
        return reader


SHARED = (
    (r"\.alpha", "alpha"),
    (r"\.dora_scale", "dora_scale"),
    (r"\.lora_magnitude_vector(?:\.\w+)*", "magnitude"),
)
"""Endings of what stands beside every kind."""

_LORA = "core.adapters.lora:"

KINDS = (
    AdapterKind(
        name="lora",
        title="LoRA",
        help="A product of two thin matrices, LoCon's kernels with it: arXiv:2106.09685.",
        endings=(
            (r"\.lora_down\.weight", "down"),
            (r"\.lora_up\.weight", "up"),
            (r"\.lora_mid\.weight", "mid"),
            (r"\.lora_A(?:\.\w+)?\.weight", "down"),
            (r"\.lora_B(?:\.\w+)?\.weight", "up"),
            (r"\.lora_B(?:\.\w+)?\.bias", "up_bias"),
            (r"\.lora\.down\.weight", "down"),
            (r"\.lora\.up\.weight", "up"),
            (r"\.lora_linear_layer\.down\.weight", "down"),
            (r"\.lora_linear_layer\.up\.weight", "up"),
        ),
        target=_LORA + "low_rank",
    ),
    AdapterKind(
        name="loha",
        title="LoHa",
        help="Two such products, multiplied number by number: arXiv:2108.06098.",
        endings=tuple(
            (rf"\.hada_{part}", f"hada_{part}")
            for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
        ),
        target=_LORA + "hadamard",
    ),
    AdapterKind(
        name="lokr",
        title="LoKr",
        help="A Kronecker product of two small matrices: arXiv:2309.14859.",
        endings=tuple(
            (rf"\.lokr_{part}", f"lokr_{part}")
            for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
        ),
        target=_LORA + "kronecker",
    ),
    AdapterKind(
        name="difference",
        title="Whole difference",
        help="What is added, as it is, to weights, biases and norms.",
        endings=tuple((rf"\.{part}", part) for part in ("diff", "diff_b", "w_norm", "b_norm")),
        target=_LORA + "difference",
    ),
)
"""Those that ship; where a layer has tensors of several, the first one has its weight."""
