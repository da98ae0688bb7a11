"""Which checkpoint is in memory, on which device; the only caller that chooses either."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Generator
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


class Store:
    """Keeps the checkpoint used last. For the engine's thread alone."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._catalog = catalog
        self._hashes = HashCache(settings.data_dir / "hashes.json")
        self.device = chosen_device(settings.device)
        self.dtype = chosen_dtype(settings.precision, self.device)
        self._key: tuple[Version | None, ...] | None = None
        self._checkpoint: Checkpoint | None = None
        self._preview: Tensor | None = None

    def loaded(self, name: str, vae: str | None = None) -> Generator[Loading, None, Checkpoint]:
        """The checkpoint of that name, read if it is not the one in memory.

        `vae` names another VAE; None is the one beside it or inside.

        A failed load leaves the previous one in place.

        Raises:
            RequestError, FileError: as Catalog.checkpoint and read_checkpoint.
        """
        file = self._catalog.checkpoint(name)
        vae_file = self._catalog.vae(vae, file)
        key = _version(file.path), None if vae_file is None else _version(vae_file.path)
        if self._checkpoint is None or key != self._key:
            yield Loading("fingerprint", 0, file.path.stat().st_size)
            fingerprint = self._hashes.sha256(_fingerprinted(file.path))
            checkpoint = yield from read_checkpoint(
                file, fingerprint, self.device, self.dtype, vae_file
            )
            self._key, self._checkpoint, self._preview = key, checkpoint, None
            gc.collect()  # modules hold themselves in cycles; the last one goes now, not later
        return self._checkpoint

    def preview(self) -> Tensor:
        """The linear preview of the checkpoint in memory, fitted once; see images.preview."""
        assert self._checkpoint is not None
        if self._preview is None:
            checkpoint = self._checkpoint
            config = checkpoint.vae.config
            self._preview = fit_preview(
                lambda pixels: checkpoint.encode(pixels.to(checkpoint.device)).cpu(),
                config.shrink,
                config.latent_channels,
            )
        return self._preview


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
