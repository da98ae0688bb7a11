"""Whether a request has room, told before it begins; and what to say when memory runs out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from core.errors import OutOfMemory
from core.models.catalog import CheckpointFile, Version
from core.models.family import VAE, read_card, unet_config, vae_config
from core.models.footprint import amount, decoding_bytes, free_bytes, network_bytes
from core.models.layouts import read_model_header
from core.models.sparing import SET_TILE, TILES, is_out_of_memory, let_go
from core.nn.unet import UNetConfig
from core.nn.vae import VAEConfig
from core.passes import passes
from core.request import GenerationRequest
from core.settings import Tiles

__all__ = [
    "Sizes",
    "check_room",
    "free_bytes",
    "is_out_of_memory",
    "let_go",
    "make_room",
    "needed",
    "sentence",
    "sizes_of",
    "sizes_on",
]


@dataclass(frozen=True)
class Sizes:
    """The numbers of a model that its memory follows from."""

    unet: UNetConfig
    vae: VAEConfig
    dtype: torch.dtype
    """Of the U-Net."""
    vae_dtype: torch.dtype
    tiles: Tiles = "automatic"


def sizes_on(device: torch.device) -> Sizes:
    """Those of SD 1.x, in what a device usually computes with."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    return Sizes(UNetConfig(), VAEConfig(), dtype, dtype)


def sizes_of(
    file: CheckpointFile, dtype: torch.dtype, device: torch.device, tiles: Tiles = "automatic"
) -> Sizes:
    """Those of a checkpoint, by its header; of a VAE that lies elsewhere, those all families have.

    Raises:
        FileError: as `read_model_header`, `unet_config` and `vae_config`.
    """
    unet, vae = _configs(file.version, file.family.heads)
    return Sizes(unet, vae, dtype, torch.float32 if device.type == "cpu" else dtype, tiles)


@functools.lru_cache(maxsize=16)
def _configs(version: Version, heads: int | None) -> tuple[UNetConfig, VAEConfig]:
    """Of the file as it is now: every job asks, and a header of thousands of names is read once."""
    header = read_model_header(version[0])
    card = read_card(header)
    inside = any(name.startswith(VAE) for name in header.tensors)
    return unet_config(header, heads, card), vae_config(header, card) if inside else VAEConfig()


def needed(request: GenerationRequest, weights: int, sizes: Sizes) -> int:
    """Bytes that a resolved request takes at least: painting one prompt at a time, and decoding,
    in tiles where they are allowed.

    Args:
        weights: bytes of what is not in memory yet.
    """
    most = 0
    for part in passes(request):
        width, height = (part.request.width or 0), (part.request.height or 0)
        rows, columns = (side // sizes.vae.shrink for side in (height, width))
        painting = network_bytes(sizes.unet, sizes.dtype, rows * columns)
        if sizes.tiles != "never":
            tile = SET_TILE if sizes.tiles == "always" else TILES[-1]
            rows, columns = min(rows, tile), min(columns, tile)
        most = max(most, painting, decoding_bytes(sizes.vae, sizes.vae_dtype, rows * columns))
    return weights + most


def check_room(
    request: GenerationRequest, weights: int, free: int, sizes: Sizes | None = None
) -> None:
    """Raises OutOfMemory, with the figures, where the request can't fit into `free` bytes.

    Args:
        sizes: of the model; None: those of SD 1.x on a CPU.
    """
    wanted = needed(request, weights, sizes or sizes_on(torch.device("cpu")))
    if wanted > free:
        raise OutOfMemory(
            f"this would take about {amount(wanted)} of memory, and {amount(free)} are "
            "free; ask for a smaller picture or a smaller model"
        )


def make_room(
    request: GenerationRequest,
    weights: Callable[[], int],
    device: torch.device,
    unload: Callable[[], None],
    free: Callable[[torch.device], int] | None = None,
    sizes: Sizes | None = None,
) -> None:
    """Checks that there is room, and where there is not, once more with nothing loaded.

    Args:
        weights: bytes of what is not in memory yet, as it is when asked.
        free: what can be had on the device; None: what it says.
        sizes: of the model; None: those of SD 1.x.

    Raises:
        OutOfMemory: the request can't fit.
    """
    free = free or free_bytes
    sizes = sizes or sizes_on(device)
    try:
        check_room(request, weights(), free(device), sizes)
    except OutOfMemory:
        unload()
        check_room(request, weights(), free(device), sizes)


def sentence(device: torch.device) -> str:
    where = "the graphics card's memory" if device.type == "cuda" else "memory"
    return (
        f"{where} has run out, also in smaller pieces; ask for a smaller picture, or start with "
        "--medvram or --lowvram"
    )
