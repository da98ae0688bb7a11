"""Which parts of checkpoints lie on the device, and how the others come there when they are used.

Whole parts are moved, or under lowvram the blocks of a U-Net one by one. A part asks for its place
itself, just before it is used; nothing is hooked into its layers.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.events import Note
from core.models.compiling import CompiledBlocks
from core.models.footprint import Free, free_bytes
from core.nn.unet import UNet, UNetConfig
from core.settings import Memory, Tiles

CPU = torch.device("cpu")
TIGHTER: Mapping[Memory, Memory] = {"plenty": "medvram", "medvram": "lowvram"}


def moved(module: nn.Module, device: torch.device) -> None:
    """Moves every tensor of a module, in place, and lays it out as the device likes it."""
    module.to(device)
    laid_out(module, device)


def laid_out(module: nn.Module, device: torch.device) -> None:
    """Convolutions' weights channels last where the device convolves so; elsewhere as they are.

    NVIDIA's tensor cores do, and otherwise turn every picture round on its way in and out.
    """
    if device.type == "cuda" and has_tensor_cores(device):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def has_tensor_cores(device: torch.device) -> bool:
    """Of an NVIDIA card; AMD's are called cuda as well, and convolve otherwise."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (7, 0)


@dataclass(frozen=True)
class Thrift:
    """What a run does without, from the first time that memory ran out to its end."""

    apart: Literal["nothing", "prompts", "images"] = "nothing"
    """What of a network call is asked for by itself."""
    decodes_apart: bool = False
    """Whether the VAE sees images one by one."""
    tile: int | None = None
    """Cells of the latents on each side of what the VAE sees at once; None: whatever there is."""


class Placing:
    """Knows what is on the device. For the engine's thread alone.

    Args:
        device: where networks run.
        memory: how much of them lies there; without effect where the device is the CPU.
        move: puts a module on a device.
        tiles: when the VAE may see a picture in tiles.
        free: bytes that can still be had on a device.
    """

    def __init__(
        self,
        device: torch.device,
        memory: Memory = "plenty",
        move: Callable[[nn.Module, torch.device], None] = moved,
        tiles: Tiles = "automatic",
        free: Free = free_bytes,
    ) -> None:
        self.device = device
        self.memory: Memory = "plenty" if device.type == "cpu" else memory
        self.tiles = tiles
        self.free = free
        self.forgo: Callable[[], bool] = lambda: False
        """Lets go of memory that nobody needs, before anything is done with less; whether there was
        any."""
        self.thrift = Thrift()
        self._happened: list[Note] = []
        self._usual: Memory | None = None
        """The policy that is to come back, once memory ran out."""
        self._was_tight = False
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
            self._bring(part, [m for name, m in part.named_children() if name not in BLOCKS])
        else:
            self._bring(part, [part])

    def join(self, part: nn.Module) -> None:
        """Brings a part to the device beside whatever is there: a network that guides another."""
        if part not in self._here:
            self._bring(part, [part])

    def _bring(self, part: nn.Module, modules: Sequence[nn.Module]) -> None:
        try:
            for module in modules:
                self._move(module, self.device)
        except BaseException:
            self._move(part, CPU)  # some of it may have come before there was no more room
            raise
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

    @property
    def tighter(self) -> Memory | None:
        """The next policy that leaves more of the device free; None: there is none."""
        return None if self.device == CPU else TIGHTER.get(self.memory)

    def tighten(self, memory: Memory) -> None:
        """Another policy until `ease`. Everything leaves the device, to come back when used."""
        self._usual = self._usual or self.memory
        self._was_tight = True
        self.memory = memory
        self.leave(*self._here)

    def ease(self) -> None:
        """Everything as before memory ran out, and nothing left to say of it."""
        self.thrift = Thrift()
        self._happened.clear()
        if self._usual is not None:
            self.leave(*self._here)
            self.memory, self._usual = self._usual, None

    def tell(self, text: str, kind: str = "memory") -> None:
        """What a person should hear of the run: a fallback."""
        if (note := Note(kind, text)) not in self._happened:
            self._happened.append(note)

    def taken_notes(self) -> tuple[Note, ...]:
        """What was told since the last time."""
        notes = tuple(self._happened)
        self._happened.clear()
        return notes

    @contextlib.contextmanager
    def eased(self) -> Iterator[None]:
        """What is done without within is done without no longer than that."""
        self.ease()
        try:
            yield
        finally:
            self.ease()

    def gather(self, *parts: nn.Module) -> None:
        """Of parts that are on the device: what was put into them and lies elsewhere, too.

        So it is with weights that were changed under a tighter policy than they are put back.
        """
        if self._was_tight and self.memory == "plenty":
            for part in parts:
                if part in self._here:
                    self._move(part, self.device)

    def passing(self, blocks: Iterator[nn.Module]) -> Iterator[nn.Module]:
        """Block after block, each on the device only while it is the current one."""
        for block in blocks:
            try:
                self._move(block, self.device)
                yield block
            finally:
                self._move(block, CPU)


BLOCKS = ("input_blocks", "middle_block", "output_blocks")
"""What of a U-Net is moved block by block under lowvram: all but a few small layers."""


class Passing(nn.ModuleList):
    """Blocks that under lowvram come to the device one by one while they are gone through."""

    def __init__(self, blocks: nn.ModuleList, placing: Placing) -> None:
        super().__init__(blocks._modules.values())
        self._placing = placing

    def __iter__(self) -> Iterator[nn.Module]:
        blocks = super().__iter__()
        return self._placing.passing(blocks) if self._placing.memory == "lowvram" else blocks


class PlacedUNet(UNet):
    """A U-Net that comes to the device when it is used."""

    def __init__(self, config: UNetConfig, placing: Placing) -> None:
        super().__init__(config)
        self._placing = placing
        self._compiled: CompiledBlocks | None = None
        for name in BLOCKS:
            setattr(self, name, Passing(getattr(self, name), placing))

    def compile_blocks(self) -> None:
        """From now on its transformer blocks are compiled when they are first used."""
        self._compiled = CompiledBlocks(self, self._placing.tell)

    def forward(self, *args: Any, **options: Any) -> Tensor:
        self._placing.need(self)
        if self._compiled is not None:
            return self._compiled(super().forward, *args, **options)
        return super().forward(*args, **options)
