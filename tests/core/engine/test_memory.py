"""Memory: told before, and survived when it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.engine.job import JobState
from core.engine.local import LocalEngine
from core.engine.memory import check_room, is_out_of_memory, make_room, needed
from core.errors import OutOfMemory
from core.events import Event, ImageDone, Note, Step
from core.request import Enlarge, GenerationRequest, Record
from core.settings import Settings
from tests.core.engine.test_local import ASKED, PATIENCE, image, running, settings

__all__ = ["settings"]

WHOLE = GenerationRequest(prompt="", seed=1, width=512, height=512, steps=20)


def test_room_is_counted_by_the_largest_pass() -> None:
    assert needed(replace(WHOLE, enlarge=Enlarge(scale=2)), 0) == 4 * needed(WHOLE, 0)
    assert needed(WHOLE, 1000) == needed(WHOLE, 0) + 1000


def test_what_cant_fit_is_said_with_figures() -> None:
    check_room(WHOLE, 2**30, 2 * 2**30)
    with pytest.raises(OutOfMemory, match=r"32\.0 GB .* 8\.0 GB are free"):
        check_room(replace(WHOLE, width=4096, height=4096), 0, 8 * 2**30)


def test_what_is_loaded_makes_room_for_what_is_asked() -> None:
    free, device = [2**30], torch.device("cpu")

    def unload() -> None:
        free[0] = 8 * 2**30

    make_room(WHOLE, lambda: 4 * 2**30, device, unload, lambda _: free[0])
    with pytest.raises(OutOfMemory):
        make_room(WHOLE, lambda: 40 * 2**30, device, unload, lambda _: free[0])


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_every_device_are_known(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


class Cramped(LocalEngine):
    """Has memory for two steps, so many times."""

    def __init__(self, settings: Settings, registry: Any, times: int) -> None:
        self.times = times
        super().__init__(settings, registry)

    def _events(self, job: Any, progress: Any) -> Iterator[Event]:
        seen = 0
        for event in super()._events(job, progress):
            yield event
            seen += isinstance(event, Step)
            if seen == 2 and self.times:
                self.times -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")


def cramped(settings: Settings, times: int) -> Cramped:
    from core.registry import built_in

    return Cramped(settings, built_in(), times)


@pytest.mark.parametrize("record", [Record.STEPS, Record.NOTHING])
def test_once_out_of_memory_a_job_goes_on_to_the_same_picture(
    settings: Settings, record: Record
) -> None:
    asked = replace(ASKED, record=record)
    with running(settings) as engine:
        expected = engine.submit(asked)
        assert expected.wait(PATIENCE)
    engine = cramped(settings, 1)
    job = engine.submit(asked)
    assert job.wait(PATIENCE)
    engine.close()
    assert job.state is JobState.FINISHED
    assert image(job) == image(expected)
    assert [e.kind for e in job.events() if isinstance(e, Note)] == ["memory"]


def test_twice_out_of_memory_is_a_sentence_and_the_next_job_is_as_ever(settings: Settings) -> None:
    engine = cramped(settings, 2)
    first, second = engine.submit(ASKED), engine.submit(ASKED)
    assert first.wait(PATIENCE) and second.wait(PATIENCE)
    engine.close()
    assert first.state is JobState.FAILED and "smaller picture" in str(first.error)
    assert not [e for e in first.events() if isinstance(e, ImageDone)]
    with running(settings) as usual:
        again = usual.submit(ASKED)
        assert again.wait(PATIENCE)
    assert image(second) == image(again)
