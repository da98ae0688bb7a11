"""Calls of a U-Net recorded on a graphics card and played back (CUDA graphs): nothing is launched
kernel by kernel.

A recording holds for the shapes it was made with, and for weights that lie where they lay then. It
is used only if it answers bit for bit as the plain call does.
"""

from __future__ import annotations

import textwrap
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from core.models.placing import Placing
from core.nn.attention import PLAIN, Attending
from core.nn.residuals import Residuals

MOST = 4
"""Recordings of one network that are kept; each has its inputs and answers in memory."""

Given: TypeAlias = tuple[Tensor | None, ...]
Shapes: TypeAlias = tuple[Any, ...]


class Recording(Protocol):
    """What a card was told to do, to be done again."""

    def replay(self) -> None: ...

    def pool(self) -> Any:
        """The memory it works in, which another recording may share."""


Record: TypeAlias = Callable[[Callable[[], Tensor], Recording | None], tuple[Recording, Tensor]]
"""(a call, a recording to share memory with) -> its recording, and where each replay answers."""


@dataclass(frozen=True)
class _Kept:
    given: Given
    """Where the recording reads what it is given."""
    recording: Recording
    answer: Tensor
    """Where it answers."""

    def replayed(self, given: Given) -> Tensor:
        for place, value in zip(self.given, given, strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        self.recording.replay()
        return self.answer


class Graphs:
    """A U-Net that is called plainly the first time for each shape, then recorded and played back.

    What is not plain is never recorded: residuals, another way of attending, parts that move. For
    the engine's thread alone.

    Args:
        network: told by the arguments of a UNet.
        placing: knows where it is, and is told if recording fails.
        record: makes a recording.
    """

    def __init__(self, network: nn.Module, placing: Placing, record: Record) -> None:
        self._network = network
        self._placing = placing
        self._record = record
        self._slots = [(m._parameters, name) for m in network.modules() for name in m._parameters]
        self._kept: OrderedDict[Shapes, _Kept | None] = OrderedDict()
        """By shapes; None: called once, plainly."""
        self._lay: list[int] = []
        self._failed = False

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        attending: Attending = PLAIN,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """As UNet.forward."""
        given = (x, timestep, context, vector)
        is_plain = attending == PLAIN and residuals is None and self._placing.memory == "plenty"
        if self._failed or not is_plain:
            return self._network(*given, attending=attending, residuals=residuals)
        self._placing.need(self._network)
        self._forget_if_moved()
        shapes = tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in given)
        if shapes not in self._kept:
            self._kept[shapes] = None
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)
            return self._network(*given)  # libraries set themselves up in their first call
        self._kept.move_to_end(shapes)
        kept = self._kept[shapes]
        if kept is None:
            return self._recorded(shapes, given)
        return kept.replayed(given).clone()

    def forget(self) -> None:
        """Lets go of all recordings, and of their memory."""
        self._kept.clear()
        self._lay = []

    def _forget_if_moved(self) -> None:
        """Recordings read weights from where they lay; what lies there is free to change."""
        lie = [0 if (p := of[name]) is None else p.data_ptr() for of, name in self._slots]
        if lie != self._lay:
            self.forget()
            self._lay = lie

    def _recorded(self, shapes: Shapes, given: Given) -> Tensor:
        """The plain call's answer; from now on a recording answers, if it can."""
        with torch.inference_mode(False):  # else they could be written to in that mode alone
            places = tuple(None if t is None else t.clone() for t in given)
        answer: Tensor = self._network(*places)  # what is still to be compiled is compiled here
        try:
            beside = next((kept.recording for kept in self._kept.values() if kept), None)
            recording, place = self._record(lambda: self._network(*places), beside)
            kept = _Kept(places, recording, place)
            if torch.equal(kept.replayed(given), answer):
                self._kept[shapes] = kept
            else:
                self._give_up("played back it answered with other numbers")
        except RuntimeError as error:
            self._give_up(textwrap.shorten(str(error), 160, placeholder=" …"))
        return answer

    def _give_up(self, reason: str) -> None:
        self._failed = True
        self.forget()
        self._placing.tell(
            f"the network could not be recorded (CUDA graphs), so it is called plainly: {reason}",
            "speed",
        )


def cuda_recorder(device: torch.device) -> Record:
    """Records on an NVIDIA card."""

    def record(
        call: Callable[[], Tensor], beside: Recording | None
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(device),
            torch.cuda.graph(
                graph,
                pool=None if beside is None else beside.pool(),
                stream=torch.cuda.Stream(device),
                capture_error_mode="thread_local",  # other threads may do as they like
            ),
        ):
            answer = call()
        return graph, answer

    return record
