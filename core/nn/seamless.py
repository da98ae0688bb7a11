"""Networks whose pictures have no edges: what leaves on one side comes in on the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def seamless(network: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Every padded convolution pads with what lies on the opposite side, while it lasts.

    Then shifting what goes in, round the edges and by whole cells of the coarsest level, shifts
    what comes out.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.padding != (0, 0)]
    before = [layer.padding_mode for layer in layers]
    try:
        if wanted:
            for layer in layers:
                layer.padding_mode = "circular"
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.padding_mode = mode
