"""Which parts of checkpoints lie on the device, and how the others come there when they are used.

Whole parts are moved, or under lowvram the blocks of a U-Net one by one. A part asks for its place
itself, just before it is used; nothing is hooked into its layers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.nn.unet import UNet, UNetConfig
from core.settings import Memory

CPU = torch.device("cpu")


def moved(module: nn.Module, device: torch.device) -> None:
    """Moves every tensor of a module, in place."""
    module.to(device)


class Placing:
    """Knows what is on the device. For the engine's thread alone.

    Args:
        device: where networks run.
        memory: how much of them lies there; without effect where the device is the CPU.
        move: puts a module on a device.
    """

    def __init__(
        self,
        device: torch.device,
        memory: Memory = "plenty",
        move: Callable[[nn.Module, torch.device], None] = moved,
    ) -> None:
        self.device = device
        self.memory: Memory = "plenty" if device.type == "cpu" else memory
        self._move = move
        self._here: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @property
    def reads_to(self) -> torch.device:
        """Where the tensors of a checkpoint are read to."""
        return self.device if self.memory == "plenty" else CPU

    def took(self, part: nn.Module) -> None:
        """Says that a part was read to `reads_to`."""
        if self.reads_to == self.device:
            self._here.add(part)

    def need(self, part: nn.Module) -> None:
        """Brings a part to the device; unless there is plenty, all others leave it first."""
        if part in self._here:
            return
        if self.memory != "plenty":
            self.leave(*self._here)
        if isinstance(part, PlacedUNet) and self.memory == "lowvram":
            for name, layer in part.named_children():
                if name not in BLOCKS:
                    self._move(layer, self.device)
        else:
            self._move(part, self.device)
        self._here.add(part)

    def join(self, part: nn.Module) -> None:
        """Brings a part to the device beside whatever is there: a network that guides another."""
        if part not in self._here:
            self._move(part, self.device)
            self._here.add(part)

    def leave(self, *parts: nn.Module) -> None:
        """Takes parts off the device, into plain memory."""
        for part in parts:
            if part in self._here and self.device != CPU:
                self._move(part, CPU)
                self._here.discard(part)

    def rest(self, *parts: nn.Module) -> None:
        """Takes parts to where they wait: off the device, unless there is plenty of memory."""
        if self.memory != "plenty":
            self.leave(*parts)

    def passing(self, blocks: Iterator[nn.Module]) -> Iterator[nn.Module]:
        """Block after block, each on the device only while it is the current one."""
        for block in blocks:
            self._move(block, self.device)
            try:
                yield block
            finally:
                self._move(block, CPU)


BLOCKS = ("input_blocks", "middle_block", "output_blocks")
"""What of a U-Net is moved block by block under lowvram: all but a few small layers."""


class Passing(nn.ModuleList):
    """Blocks that come to the device one by one while they are gone through."""

    def __init__(self, blocks: nn.ModuleList, placing: Placing) -> None:
        super().__init__(blocks._modules.values())
        self._placing = placing

    def __iter__(self) -> Iterator[nn.Module]:
        return self._placing.passing(iter(self._modules.values()))


class PlacedUNet(UNet):
    """A U-Net that comes to the device when it is used."""

    def __init__(self, config: UNetConfig, placing: Placing) -> None:
        super().__init__(config)
        self._placing = placing
        if placing.memory == "lowvram":
            for name in BLOCKS:
                setattr(self, name, Passing(getattr(self, name), placing))

    def forward(self, *args: Any, **options: Any) -> Tensor:
        self._placing.need(self)
        return super().forward(*args, **options)
