"""Which checkpoint is in memory, on which device; the only caller that chooses either."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from core.errors import RequestError
from core.events import Loading
from core.images.preview import fit_preview
from core.models.catalog import Catalog, CheckpointFile
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
        self._key: tuple[Path, int, int] | None = None
        self._checkpoint: Checkpoint | None = None
        self._preview: Tensor | None = None

    def loaded(self, name: str) -> Generator[Loading, None, Checkpoint]:
        """The checkpoint of that name, read if it is not the one in memory.

        A failed load leaves the previous one in place.

        Raises:
            RequestError, FileError: as Catalog.checkpoint and read_checkpoint.
        """
        file = self._catalog.checkpoint(name)
        key = _version(file)
        if self._checkpoint is None or key != self._key:
            yield Loading("fingerprint", 0, file.path.stat().st_size)
            fingerprint = self._hashes.sha256(file.path)
            checkpoint = yield from read_checkpoint(file, fingerprint, self.device, self.dtype)
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


def _version(file: CheckpointFile) -> tuple[Path, int, int]:
    stat = file.path.stat()
    return file.path, stat.st_size, stat.st_mtime_ns


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
