"""Whether a request has room, told before it begins; and what to do when memory runs out."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable

import torch

from core.errors import OutOfMemory
from core.passes import passes
from core.request import GenerationRequest

PIXEL = 2048
"""Bytes that decoding takes for each pixel: the VAE's last layers hold four tensors or so of 128
channels in float32. Rather too little, so nothing that fits is refused."""


def needed(request: GenerationRequest, weights: int) -> int:
    """Bytes that a resolved request takes at least.

    Args:
        weights: bytes of what is not in memory yet.
    """
    sizes = (part.request for part in passes(request))
    pixels = max((size.width or 0) * (size.height or 0) for size in sizes)
    return weights + pixels * PIXEL


def check_room(request: GenerationRequest, weights: int, free: int) -> None:
    """Raises OutOfMemory, with the figures, where the request can't fit into `free` bytes."""
    wanted = needed(request, weights)
    if wanted > free:
        raise OutOfMemory(
            f"this would take about {_gigabytes(wanted)} of memory, and {_gigabytes(free)} are "
            "free; ask for a smaller picture or a smaller model"
        )


def make_room(
    request: GenerationRequest,
    weights: Callable[[], int],
    device: torch.device,
    unload: Callable[[], None],
    free: Callable[[torch.device], int] | None = None,
) -> None:
    """Checks that there is room, and where there is not, once more with nothing loaded.

    Args:
        weights: bytes of what is not in memory yet, as it is when asked.
        free: what can be had on the device; None: what it says.

    Raises:
        OutOfMemory: the request can't fit.
    """
    free = free or free_bytes
    try:
        check_room(request, weights(), free(device))
    except OutOfMemory:
        unload()
        check_room(request, weights(), free(device))


def free_bytes(device: torch.device) -> int:
    """What can still be had on the device; on a CPU, of the machine's memory."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it means that memory has run out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    )


def let_go(error: BaseException) -> None:
    """Frees what an error holds: the tensors of every call it came through."""
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sentence(device: torch.device) -> str:
    where = "the graphics card's memory" if device.type == "cuda" else "memory"
    return (
        f"{where} has run out, also in smaller pieces; ask for a smaller picture, or start with "
        "--medvram or --lowvram"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
