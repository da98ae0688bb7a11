"""What is done when memory runs out: the call that failed is made again with one thing less.

What changes no picture comes first: fewer things at once, then parts that wait in plain memory.
Tiles come last, for norms and attention see the whole picture otherwise. What was once done without
is done without until the run ends (`Placing.eased`), so memory runs out once for each, not at every
step.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from core.errors import OutOfMemory
from core.models.footprint import amount
from core.models.placing import Placing
from core.sampling.conditioning import Conditioning
from core.sampling.guidance import Ask, one_by_one, row_by_row, together
from core.sampling.prediction import Predictor
from core.settings import Memory

TILES = (96, 64, 32)
"""Sides of tiles that are tried, in cells of the latents."""
SET_TILE = 64
"""The side where tiles are asked for always."""

SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "_status_alloc_failed")
"""What errors say of which there is no class; the last one is cuBLAS and cuDNN."""
WAYS: dict[str, Ask] = {"nothing": together, "prompts": one_by_one, "images": row_by_row}

Tighten: TypeAlias = Callable[[Memory], None]
"""Takes a tighter policy for a model: parts of it leave the device."""
T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """Something that may not fit, for the sentences about it."""

    name: str
    """As in "ran out of memory while …"."""
    width: int
    height: int
    """Pixels."""


def kept_trying(call: Callable[[], T], measures: Iterator[str], work: Work, placing: Placing) -> T:
    """What `call` returns, made again after each measure while memory runs out.

    Args:
        measures: asking for the next one takes it; what it gives is told.

    Raises:
        OutOfMemory: there is no further measure; says what is free and what would help.
    """
    while True:
        try:
            return call()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
        if placing.forgo():
            continue
        measure = next(measures, None)
        if measure is None:
            raise OutOfMemory(_sentence(work, placing))
        placing.tell(f"memory ran out while {work.name}; from here on {measure}")


def asking(placing: Placing, shrink: int, tighten: Tighten) -> Ask:
    """How a U-Net is asked for its estimates: all at once, and less where memory runs out.

    Args:
        shrink: pixels that a cell of the latents covers on each side.
    """

    def ask(
        predictor: Predictor, x: Tensor, sigma: Tensor, asked: Sequence[Conditioning]
    ) -> tuple[Tensor, ...]:
        def call() -> tuple[Tensor, ...]:
            apart = placing.thrift.apart
            is_ample = placing.memory == "plenty" and apart == "nothing"
            asks = predictor if is_ample else predictor.keeping_nothing()
            return WAYS[apart](asks, x, sigma, asked)

        return kept_trying(
            call,
            network_measures(placing, len(asked), len(x), tighten),
            Work("painting", x.shape[-1] * shrink, x.shape[-2] * shrink),
            placing,
        )

    return ask


def network_measures(
    placing: Placing, prompts: int, images: int, tighten: Tighten
) -> Iterator[str]:
    """What a call of the U-Net can do without, step by step."""
    if prompts > 1 and placing.thrift.apart == "nothing":
        placing.thrift = replace(placing.thrift, apart="prompts")
        yield "the network is asked for one prompt after another"
    if images > 1 and placing.thrift.apart != "images":
        placing.thrift = replace(placing.thrift, apart="images")
        yield "the network is asked for one image after another"
    yield from offloading(placing, tighten)


def offloading(placing: Placing, tighten: Tighten, blocks: bool = True) -> Iterator[str]:
    """Parts off the device: those not at work, then (of a U-Net, `blocks`) all but a block."""
    if placing.tighter == "medvram":
        tighten("medvram")
        yield "parts of the model that are not at work wait in plain memory (medvram)"
    if blocks and placing.tighter == "lowvram":
        tighten("lowvram")
        yield "only the block at work of the U-Net is on the device (lowvram)"


def vae_measures(
    placing: Placing, images: int, cells: int, shrink: int, tighten: Tighten
) -> Iterator[str]:
    """What a call of the VAE can do without, step by step.

    Args:
        cells: of the longer side of the latents.
    """
    if images > 1 and not placing.thrift.decodes_apart:
        placing.thrift = replace(placing.thrift, decodes_apart=True)
        yield "the VAE works on one image after another"
    yield from offloading(placing, tighten, blocks=False)
    for tile in TILES:
        if placing.tiles != "never" and tile < min(cells, tile_of(placing) or cells):
            placing.thrift = replace(placing.thrift, tile=tile)
            yield (
                f"the VAE works in tiles of {tile * shrink} pixels, so the picture is slightly "
                "another one than as a whole"
            )


def tile_of(placing: Placing) -> int | None:
    """Cells on each side of what the VAE sees at once; None: the whole picture."""
    return placing.thrift.tile or (SET_TILE if placing.tiles == "always" else None)


def chosen_ahead(
    needed: Callable[[], int], measures: Iterator[str], work: Work, placing: Placing
) -> None:
    """Takes measures until what is needed is free, or there are none left: then it is tried.

    Args:
        needed: bytes at least, with the measures taken so far.
    """
    while (wanted := needed()) > (there := placing.free(placing.device)):
        if placing.forgo():
            continue
        measure = next(measures, None)
        if measure is None:
            return
        placing.tell(
            f"{work.name} would take about {amount(wanted)} of memory, and {amount(there)} "
            f"are free; {measure}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it means that memory has run out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS)


def let_go(error: BaseException) -> None:
    """Frees what an error holds: the tensors of every call it came through."""
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _sentence(work: Work, placing: Placing) -> str:
    device = placing.device
    where = "memory" if device.type == "cpu" else "the graphics card's memory"
    help = "ask for a smaller picture, use a smaller model or close other programs"
    if device.type != "cpu":
        help += ", or start with --medvram or --lowvram"
    return (
        f"{where} has run out while {work.name} at {work.width}x{work.height}, also in smaller "
        f"pieces; {amount(placing.free(device))} are free now; {help}"
    )
