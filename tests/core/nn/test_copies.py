"""Copies to and from a card, whose slowness is played: it copies only when it is waited for."""

from __future__ import annotations

import torch
from torch import Tensor

from core.nn.copies import Card, Stages, fetched, sent

CPU = torch.device("cpu")


class SlowCard(Card):
    """Does what it is told as late as it may."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.told: list[tuple[Tensor, Tensor] | None] = []
        self.waits = 0

    def pinned(self, like: Tensor) -> Tensor:
        return torch.empty_like(like)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.told.append((target, source))

    def mark(self) -> SlowMark:
        return SlowMark(self, len(self.told))

    def finish(self, count: int) -> None:
        for place, copied in enumerate(self.told[:count]):
            if copied:
                copied[0].copy_(copied[1])
                self.told[place] = None


class SlowMark:
    def __init__(self, card: SlowCard, behind: int) -> None:
        self.card, self.behind = card, behind

    def synchronize(self) -> None:
        self.card.waits += 1
        self.card.finish(self.behind)


def poured(card: SlowCard | None, numbers: Tensor, wanted: torch.dtype) -> Tensor:
    """What a target holds after numbers went through stages of 16 bytes."""
    data, read = memoryview(bytearray(numbers.numpy().tobytes())), 0

    def fill(buffer: memoryview) -> None:
        nonlocal read
        buffer[:] = data[read : read + len(buffer)]
        read += len(buffer)

    target = torch.zeros(len(numbers), dtype=wanted)
    stages = Stages(16, CPU, card)
    stages.pour(target[:5], numbers.dtype, fill)
    stages.pour(target[5:], numbers.dtype, fill)
    if card is not None:
        card.finish(len(card.told))
    return target


def test_no_buffer_is_filled_again_while_a_card_may_still_read_it() -> None:
    numbers = torch.arange(23, dtype=torch.float32)
    card = SlowCard()
    assert torch.equal(poured(card, numbers, torch.float64), numbers.double())
    assert torch.equal(poured(None, numbers, torch.float64), numbers.double())
    assert card.waits == len(card.told) - 2  # the first two pieces find empty buffers


def test_tensors_of_a_step_come_together_and_each_once() -> None:
    first, second = torch.randn(2, 3), torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)
    card = SlowCard()
    fetch = fetched([first, second, first], card)
    assert card.waits == 1 and len(card.told) == 2
    assert torch.equal(fetch(first), first) and torch.equal(fetch(second), second)
    assert fetch(first).data_ptr() != first.data_ptr()


def test_on_a_cpu_nothing_is_copied() -> None:
    x = torch.randn(3)
    assert fetched([x])(x) is x
    assert sent(x, CPU) is x
