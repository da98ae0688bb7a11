"""Transformer blocks of a U-Net through torch.compile: one region that repeats, so it is quick to
compile, and the rest as it is.

A compiled block reads its weights anew in every call, so LoRAs come and go as without it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.nn.attention import PLAIN, TransformerBlock
from core.nn.blocks import as_many

FORMS = 64
"""Shapes, types and numbers of rows that blocks of one kind may be compiled for; behind the last
torch leaves them as they are, and says nothing."""


class CompiledBlocks:
    """How a U-Net is called whose transformer blocks are compiled, each shape at its first use.

    Another way of attending is not compiled, as it may be any code. Where compiling fails, that is
    told once and nothing is compiled any more. A picture is given for each of its texts: a block
    that sees as many rows as all others needs no compiled form of its own.

    Args:
        tell: takes a sentence and its kind.
        backend: of torch.compile.
    """

    def __init__(
        self,
        network: nn.Module,
        tell: Callable[[str, str], object],
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        from torch._dynamo import config  # seconds: only where it is wanted

        self._tell = tell
        self._failed = False
        config.recompile_limit = max(config.recompile_limit, FORMS)
        for block in network.modules():
            if isinstance(block, TransformerBlock):
                block.compile(backend=backend)

    def __call__(
        self,
        call: Callable[..., Tensor],
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **beside: Any,
    ) -> Tensor:
        """`call` with the arguments of UNet.forward; how to attend, and residuals, by name."""
        if not self._failed and beside.get("attending", PLAIN) == PLAIN:
            from torch._dynamo.exc import TorchDynamoException

            x, timestep = (as_many(rows, len(context)) for rows in (x, timestep))
            try:
                return call(x, timestep, context, vector, **beside)
            except TorchDynamoException as error:
                self._failed = True
                reason = textwrap.shorten(str(error), 160, placeholder=" …")
                self._tell(
                    f"the network could not be compiled, so it runs as it is: {reason}", "speed"
                )
        with torch.compiler.set_stance("force_eager"):
            return call(x, timestep, context, vector, **beside)
