"""Weights of single blocks of a U-Net: the lists that A1111's LoRA Block Weight takes.

The first number of a list is BASE, the text encoders; then come blocks on the way down (IN), the
middle (MID) and blocks on the way up (OUT), in the order in which the network runs:

    17   SD 1.x and 2.x, blocks with attention: BASE, IN01 02 04 05 07 08, MID, OUT03 to 11
    26   SD 1.x and 2.x, all blocks: BASE, IN00 to 11, MID, OUT00 to 11
    12   SDXL, blocks with attention: BASE, IN04 05 07 08, MID, OUT00 to 05
    20   SDXL, all blocks: BASE, IN00 to 08, MID, OUT00 to 08

Blocks that a list leaves out are not changed. What lies in no block (the embedding of time, the
last convolution) is changed as if its number were 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from core.errors import AdapterError
from core.nn.unet import UNet

BASE = "BASE"


def _list(down: tuple[int, ...], up: tuple[int, ...]) -> tuple[str, ...]:
    return (BASE, *(f"IN{n:02}" for n in down), "MID", *(f"OUT{n:02}" for n in up))


_LISTS: Mapping[int, Mapping[int, tuple[str, ...]]] = {
    12: {
        17: _list((1, 2, 4, 5, 7, 8), tuple(range(3, 12))),
        26: _list(tuple(range(12)), tuple(range(12))),
    },
    9: {
        12: _list((4, 5, 7, 8), tuple(range(6))),
        20: _list(tuple(range(9)), tuple(range(9))),
    },
}
"""By the number of blocks on the way down: the lists by their length."""

_PARTS = {"input_blocks": "IN", "output_blocks": "OUT"}


def block_of(path: str) -> str | None:
    """The block of a layer by its path in the U-Net; None: it lies in none."""
    if path.startswith("middle_block."):
        return "MID"
    found = re.match(r"(input_blocks|output_blocks)\.(\d+)\.", path)
    return f"{_PARTS[found[1]]}{int(found[2]):02}" if found else None


def block_weights(weights: tuple[float, ...], unet: nn.Module) -> Mapping[str, float]:
    """The factor of each block that a list names.

    Raises:
        AdapterError: no list of this length is for this network.
    """
    lists = _LISTS.get(len(unet.input_blocks), {}) if isinstance(unet, UNet) else {}
    if len(weights) not in lists:
        there = " or ".join(map(str, lists)) or "no list at all"
        raise AdapterError(f"{len(weights)} weights of blocks were given; this model takes {there}")
    return dict(zip(lists[len(weights)], weights, strict=True))
