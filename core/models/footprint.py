"""How much memory networks take while they work, from their numbers alone, and how much is free.

Counted are the tensors that live at once where a network is widest, as `core.nn` computes on a
CPU, not the copies that some kernels make beside them: rather too little, so nothing that fits is
refused. Elsewhere norms and activations are whole as well, and it takes up to twice as much.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from core.nn.unet import UNetConfig
from core.nn.vae import VAEConfig

RESIDUAL = 2
"""Tensors at once in a residual block: what came in, and its own answer so far."""
FEED_FORWARD = 9
"""Tensors of a U-Net's width in its feed-forward: value and gate of four widths each, beside what
came in."""

Free = Callable[[torch.device], int]
"""Bytes that can still be had on a device."""


def decoding_bytes(config: VAEConfig, dtype: torch.dtype, cells: int) -> int:
    """Of decoding latents of so many cells: the last level's first block, which is given as many
    channels as the level below has, and its answer so far. Beside it the picture itself, in
    float32."""
    channels = max(config.multipliers[:2]) + config.multipliers[0]
    pixels = cells * config.shrink**2
    each = channels * config.channels * dtype.itemsize
    return pixels * (each + 3 * torch.float32.itemsize)


def encoding_bytes(config: VAEConfig, dtype: torch.dtype, cells: int) -> int:
    """Of encoding to latents of so many cells: the first level, on the picture's own pixels."""
    widest = config.channels * config.multipliers[0]
    pixels = cells * config.shrink**2
    return pixels * (RESIDUAL * widest * dtype.itemsize + 3 * torch.float32.itemsize)


def network_bytes(config: UNetConfig, dtype: torch.dtype, cells: int, rows: int = 1) -> int:
    """Of one call of a U-Net on so many rows of so many cells: what waits for the way up, and the
    widest place. Attention itself takes next to nothing: it is never written out."""
    waiting = cells * config.channels
    widest = 0
    for level, (multiplier, depth) in enumerate(
        zip(config.multipliers, config.depths, strict=True)
    ):
        places = -(-cells // 4**level)
        width = config.channels * multiplier
        waiting += places * width * config.blocks
        if level < len(config.multipliers) - 1:
            waiting += -(-places // 4) * width
        at_once = FEED_FORWARD if depth else RESIDUAL
        widest = max(widest, places * width * at_once)
    return rows * (waiting + widest) * dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """What can still be had on the device; on a CPU, of the machine's memory."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    import psutil

    return int(psutil.virtual_memory().available)


def amount(count: int) -> str:
    """Bytes, for a sentence."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 // 10 else f"{count / 2**20:.0f} MB"
