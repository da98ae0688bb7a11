"""Copies between plain memory and a graphics card, on which nobody waits longer than must be.

A card copies by itself only from and to pinned memory. Elsewhere these are plain copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A place in what a card was told to do."""

    def synchronize(self) -> None:
        """Waits until everything before it is done."""


class Card:
    """What of a graphics card is needed here."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def pinned(self, like: Tensor) -> Tensor:
        """Empty memory of the shape and layout of a tensor, which the card reaches by itself."""
        return torch.empty_like(like, device="cpu", pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Returns at once; numbers change their format on the card."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> Mark:
        """Behind all that it was told so far."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event


def card_of(device: torch.device) -> Card | None:
    return Card(device) if device.type == "cuda" else None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of plain memory on the device. What the device is told next finds it there."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # torch keeps the pinned memory until the card has read it.
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensors: Sequence[Tensor], card: Card | None = None) -> Callable[[Tensor], Tensor]:
    """What gives each of these tensors as it is in plain memory.

    All are on their way before the first is waited for, and one that is named twice comes once.

    Args:
        card: that they are on; None: as they say themselves.
    """
    if card is None and tensors:
        card = card_of(tensors[0].device)
    distinct = {id(tensor): tensor for tensor in tensors}
    if card is None:
        there = {key: (tensor, tensor.cpu()) for key, tensor in distinct.items()}
    else:
        staged = {key: card.pinned(tensor) for key, tensor in distinct.items()}
        for key, tensor in distinct.items():
            card.copy(staged[key], tensor)
        card.mark().synchronize()
        # Pinned memory is scarce, and steps are kept: it is for the way alone.
        there = {key: (distinct[key], tensor.clone()) for key, tensor in staged.items()}
    # Each is held on to with its copy, or another tensor might be given the same id.
    return lambda tensor: there[id(tensor)][1]


class Stages:
    """What is read in pieces, on its way to a device.

    Onto a card two buffers take turns: while one is copied, the other is filled.

    Args:
        size: bytes of a buffer.
    """

    def __init__(self, size: int, device: torch.device, card: Card | None = None) -> None:
        self._card = card or card_of(device)
        buffer = torch.empty(size, dtype=torch.uint8)
        if self._card is None:
            self._buffers = [buffer]
        else:
            self._buffers = [self._card.pinned(buffer) for _ in range(2)]
        self._marks: list[Mark | None] = [None for _ in self._buffers]
        self._turn = 0

    def pour(
        self, target: Tensor, stored: torch.dtype, fill: Callable[[memoryview], object]
    ) -> None:
        """Fills a flat tensor, piece by piece.

        Args:
            stored: the format that its numbers are read in.
            fill: reads on, as many bytes as it is handed.
        """
        width = stored.itemsize
        step = len(self._buffers[0]) // width
        for start in range(0, len(target), step):
            part = target[start : start + step]
            buffer = self._buffers[self._turn][: len(part) * width]
            if (mark := self._marks[self._turn]) is not None:
                mark.synchronize()  # the card may still be reading it
            fill(buffer.numpy().data)
            if self._card is None:
                part.copy_(buffer.view(stored))
            else:
                self._card.copy(part, buffer.view(stored))
                self._marks[self._turn] = self._card.mark()
            self._turn = (self._turn + 1) % len(self._buffers)
