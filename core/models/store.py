"""Which checkpoints are in memory, on which device; the only caller that chooses either."""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from core.errors import RequestError
from core.events import Loading
from core.images.preview import fit_preview
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint, read_checkpoint
from core.models.files import sha256
from core.settings import Settings


@dataclass
class _Kept:
    """A checkpoint in memory, and its linear preview once it was asked for."""

    checkpoint: Checkpoint
    preview: Tensor | None = None


class Store:
    """Keeps the checkpoints used last. For the engine's thread alone."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._catalog = catalog
        self._hashes = HashCache(settings.data_dir / "hashes.json")
        self._room = max(1, settings.checkpoints_in_memory)
        self.device = chosen_device(settings.device)
        self.dtype = chosen_dtype(settings.precision, self.device)
        self._kept: OrderedDict[tuple[Version, Version | None], _Kept] = OrderedDict()

    def loaded(self, name: str, vae: str | None = None) -> Generator[Loading, None, Checkpoint]:
        """The checkpoint of that name, read if it is not in memory as the file is now.

        `vae` names another VAE; None is the one beside it or inside. A failed load leaves those in
        memory in place.

        Raises:
            RequestError, FileError: as Catalog.checkpoint and read_checkpoint.
        """
        file = self._catalog.checkpoint(name)
        vae_file = self._catalog.vae(vae, file)
        key = _version(file.path), None if vae_file is None else _version(vae_file.path)
        if key not in self._kept:
            yield Loading("fingerprint", 0, file.path.stat().st_size)
            fingerprint = self._hashes.sha256(_fingerprinted(file.path))
            checkpoint = yield from read_checkpoint(
                file, fingerprint, self.device, self.dtype, vae_file
            )
            self._kept[key] = _Kept(checkpoint)
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
            gc.collect()  # modules hold themselves in cycles; the last one goes now, not later
        self._kept.move_to_end(key)
        return self._kept[key].checkpoint

    def preview(self, checkpoint: Checkpoint) -> Tensor:
        """The linear preview of a checkpoint, fitted once while it is kept; see images.preview."""
        kept = next((k for k in self._kept.values() if k.checkpoint is checkpoint), None)
        kept = kept or _Kept(checkpoint)
        if kept.preview is None:
            config = checkpoint.vae.config
            kept.preview = fit_preview(
                lambda pixels: checkpoint.encode(pixels.to(checkpoint.device)).cpu(),
                config.shrink,
                config.latent_channels,
            )
        return kept.preview


Version: TypeAlias = tuple[Path, int, int]
"""A file as it was: path, bytes, time."""


def _version(path: Path) -> Version:
    stat = path.stat()
    return path, stat.st_size, stat.st_mtime_ns


def _fingerprinted(path: Path) -> Path:
    """The file whose hash stands for a model: itself, or the U-Net of a folder."""
    return next((path / "unet").glob("*.safetensors")) if path.is_dir() else path


class HashCache:
    """SHA-256 of files, computed once per path, size and time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        known = self._known()
        if key not in known:
            known[key] = sha256(path)
            with contextlib.suppress(OSError):  # a cache: what is not kept is computed again
                self._path.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_text(json.dumps(known), encoding="utf-8")
                temporary.replace(self._path)
        return known[key]

    def _known(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # a cache: what can't be read is computed again
        return known if isinstance(known, dict) else {}


def chosen_device(name: str) -> torch.device:
    """ "automatic" is CUDA, else MPS, else the CPU.

    Raises:
        RequestError: there is no such device here.
    """
    if name == "automatic":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"the device {name!r} can't be used here: {error}") from error
    return device


def chosen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """ "automatic" is float32 on a CPU, and on a GPU bfloat16 where it has it, else float16."""
    if precision != "automatic":
        return getattr(torch, precision)
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16 if device.type == "cuda" else torch.float16
