"""Pieces of work side by side: all are done, each by one thread, in the caller's mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from core.nn import kernels
from core.nn.abreast import abreast


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_done_once_by_one_thread(threads: int) -> None:
    seen: list[tuple[int, int, int]] = []

    def work(a: int, b: int) -> None:
        seen.append((a, b, torch.get_num_threads()))

    abreast(work, [(n, n * n) for n in range(20)])
    assert sorted(seen) == [(n, n * n, 1) for n in range(20)]
    assert torch.get_num_threads() == threads


def test_as_many_work_at_once_as_torch_has_threads(threads: int) -> None:
    """Each waits for all others, which would never end if one of them were not there."""
    together, arrived = threading.Barrier(threads), list[int]()
    abreast(lambda: arrived.append(together.wait(timeout=30)), [()] * threads)
    assert sorted(arrived) == [*range(threads)]


def test_a_thread_that_comes_later_has_the_usual_number(threads: int) -> None:
    abreast(lambda: None, [()] * 4)
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [threads]


def test_the_first_failure_is_told_when_all_are_done(threads: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number in (1, 3):
            raise ValueError(f"piece {number}")
        done.append(number)

    with pytest.raises(ValueError, match="piece 1"):
        abreast(work, [(number,) for number in range(6)])
    assert threads == 1 or sorted(done) == [0, 2, 4, 5]


@pytest.mark.parametrize("inferring", [True, False])
def test_modes_are_the_callers(inferring: bool, threads: int) -> None:
    modes: list[tuple[bool, bool]] = []

    def work() -> None:
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    with torch.inference_mode(inferring), torch.no_grad():
        abreast(work, [()] * 3)
    assert modes == [(inferring, False)] * 3


@pytest.mark.parametrize("shape", [(2, 3, 700, 40), (1, 1, 900, 64)])
@torch.inference_mode()
def test_attention_has_the_same_bits_on_any_number_of_threads(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "ABREAST", 0)
    q, k, v = (torch.randn(shape) for _ in range(3))
    before, answers = torch.get_num_threads(), list[Tensor]()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            answers.append(kernels.attended(q, k, v))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(answer, answers[0]) for answer in answers)
