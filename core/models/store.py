"""Which checkpoints are in memory, on which device; the only caller that chooses either."""

from __future__ import annotations

import contextlib
import gc
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from core.events import Loading
from core.images.preview import fit_preview
from core.models.adapting import Adapting
from core.models.catalog import Catalog, Version
from core.models.checkpoint import Checkpoint
from core.models.controlling import Controlling
from core.models.graphs import Graphs, cuda_recorder
from core.models.placing import PlacedUNet, Placing
from core.models.precision import Precisions, chosen_device, has_bfloat16
from core.models.reading import read_checkpoint
from core.settings import Settings

__all__ = ["Store", "chosen_device"]


@dataclass
class _Kept:
    """A checkpoint in memory, and its linear preview once it was asked for."""

    checkpoint: Checkpoint
    preview: Tensor | None = None


class Store:
    """Keeps the checkpoints used last. For the engine's thread alone."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._catalog = catalog
        self.device = chosen_device(settings.device)
        self._precisions = Precisions(
            settings.precision, settings.vae_precision, has_bfloat16(self.device)
        )
        self.dtype = self._precisions.usual(self.device)
        self.adapting = Adapting(catalog)
        self.placing = Placing(self.device, settings.memory, tiles=settings.vae_tiles)
        self.placing.forgo = self._forgo
        self.controlling = Controlling(catalog, self.placing)
        self._compiles = settings.compile == "blocks"
        self._records = settings.cuda_graphs == "on"
        self._unsaid = _without_effect(settings, self.device)
        self._room = max(1, settings.checkpoints_in_memory)
        self._shelf = 0 if self.device.type == "cpu" else settings.checkpoints_in_ram
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def loaded(self, name: str, vae: str | None = None) -> Generator[Loading, None, Checkpoint]:
        """The checkpoint of that name, read if it is not in memory as the file is now.

        `vae` names another VAE; None is the one beside it or inside. A failed load leaves those in
        memory in place.

        Raises:
            RequestError, FileError: as Catalog.checkpoint and read_checkpoint.
        """
        file = self._catalog.checkpoint(name)
        vae_file = self._catalog.vae(vae, file)
        key: _Key = (
            file.version,
            None if vae_file is None else _version_of_vae(vae_file.path),
            None if file.donor is None else file.donor.version,
        )
        if key not in self._kept:
            self._forgo()
            read = read_checkpoint(file, self.placing, self._precisions, vae_file)
            checkpoint = yield from read
            remarks = checkpoint.remarks + self._unsaid
            self._unsaid = ()  # once is enough
            self._kept[key] = _Kept(self._hastened(replace(checkpoint, remarks=remarks)))
        self._kept.move_to_end(key)
        self._make_room()
        return self._kept[key].checkpoint

    def _hastened(self, checkpoint: Checkpoint) -> Checkpoint:
        """With what the settings ask for where there is an NVIDIA card."""
        if self.device.type != "cuda":
            return checkpoint
        network = checkpoint.network
        if self._compiles and isinstance(network, PlacedUNet):
            network.compile_blocks()
        if not self._records:
            return checkpoint
        return replace(checkpoint, graphs=Graphs(network, self.placing, cuda_recorder(self.device)))

    @contextlib.contextmanager
    def room_for(self, checkpoints: int) -> Iterator[None]:
        """Keeps at least so many while it lasts: what one run goes back and forth between."""
        before = self._room
        self._room = max(before, checkpoints)
        try:
            yield
        finally:
            self._room = before
            self._make_room()

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

    def _forgo(self) -> bool:
        """Lets go of what is only kept so that something is quicker; whether there was any."""
        gone = [kept.checkpoint.forgo() for kept in self._kept.values()]
        return any(gone)

    def _make_room(self) -> None:
        """Takes those used longest ago off the device, and drops what has no place in RAM."""
        dropped = False
        while len(self._kept) > self._room + self._shelf:
            self._kept.popitem(last=False)
            dropped = True
        for kept in list(self._kept.values())[: -self._room]:
            model = kept.checkpoint
            model.wear(())  # else what its LoRAs replaced would stay on the device
            model.forgo()
            model.forget_graphs()
            self.placing.leave(model.network, model.vae, model.text)
        if dropped:
            gc.collect()  # modules hold themselves in cycles; the last one goes now, not later


_Key: TypeAlias = tuple[Version, Version | None, Version | None]
"""A checkpoint, the VAE that takes the place of its own, and what lends it the missing parts."""


def _without_effect(settings: Settings, device: torch.device) -> tuple[str, ...]:
    """What the settings ask for that the device does not have."""
    remarks: list[str] = []
    if device.type == "cpu" and settings.memory != "plenty":
        remarks.append(
            f"{settings.memory} has no effect on a CPU: there is one memory for everything"
        )
    for name in ("compile", "cuda_graphs"):
        if device.type != "cuda" and getattr(settings, name) != "off":
            remarks.append(f"{name} has no effect on this device: it is for graphics cards (cuda)")
    return tuple(remarks)


def _version_of_vae(path: Path) -> Version:
    stat = path.stat()
    return path, stat.st_size, stat.st_mtime
