"""Memory: told before, and survived when it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.engine.answers import exhausted
from core.engine.job import JobState
from core.engine.local import LocalEngine
from core.engine.memory import (
    check_room,
    is_out_of_memory,
    make_room,
    needed,
    sizes_of,
    sizes_on,
)
from core.errors import OutOfMemory
from core.events import Event, ImageDone, Note, Step
from core.models.catalog import Catalog
from core.models.footprint import decoding_bytes
from core.nn.vae import VAEConfig
from core.request import Enlarge, GenerationRequest, Record
from core.settings import Settings
from tests.core.engine.test_local import ASKED, PATIENCE, image, running, settings
from tests.tiny import UNET_CONFIG, VAE_CONFIG

__all__ = ["settings"]

WHOLE = GenerationRequest(prompt="", seed=1, width=512, height=512, steps=20)


CPU = torch.device("cpu")
SD1 = sizes_on(CPU)
UNTILED = replace(SD1, tiles="never")


def test_room_is_counted_by_the_largest_pass() -> None:
    larger = replace(WHOLE, enlarge=Enlarge(scale=2))
    assert needed(larger, 0, UNTILED) == 4 * needed(WHOLE, 0, UNTILED)
    assert needed(WHOLE, 1000, UNTILED) == needed(WHOLE, 0, UNTILED) + 1000


def test_room_is_counted_by_the_models_numbers_and_their_format(settings: Settings) -> None:
    half = replace(UNTILED, dtype=torch.float16, vae_dtype=torch.float16)
    assert needed(WHOLE, 0, half) / needed(WHOLE, 0, UNTILED) == pytest.approx(0.5, rel=0.01)
    file = Catalog(settings).checkpoint("tiny")
    tiny = sizes_of(file, torch.float32, CPU, "never")
    assert (tiny.unet, tiny.vae) == (UNET_CONFIG, VAE_CONFIG)
    assert needed(WHOLE, 0, tiny) < needed(WHOLE, 0, UNTILED) / 3
    assert sizes_of(file, torch.float16, torch.device("cuda")).vae_dtype is torch.float16


def test_tiles_bound_what_decoding_takes() -> None:
    huge = replace(WHOLE, width=4096, height=4096)
    assert needed(huge, 0, SD1) < needed(huge, 0, UNTILED) / 4
    asked_for = needed(replace(WHOLE, width=2048), 0, replace(SD1, tiles="always"))
    assert asked_for == needed(WHOLE, 0, UNTILED)


@pytest.mark.parametrize(("side", "measured"), [(512, 491), (1024, 1604)])
def test_decoding_is_counted_below_what_was_measured_and_near_it(side: int, measured: int) -> None:
    """MB of the real size in float32, as its process grew by them on a CPU."""
    counted = decoding_bytes(VAEConfig(), torch.float32, (side // 8) ** 2) / 2**20
    assert 0.75 * measured < counted < measured


def test_what_cant_fit_is_said_with_figures() -> None:
    check_room(WHOLE, 2**30, 2 * 2**30)
    with pytest.raises(OutOfMemory, match=r"24\.2 GB .* 8\.0 GB are free"):
        check_room(replace(WHOLE, width=4096, height=4096), 0, 8 * 2**30, UNTILED)


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
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
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


class Poor(LocalEngine):
    """Has no memory for the network in its first job, however little is asked of it."""

    def _events(self, job: Any, progress: Any) -> Iterator[Event]:
        assert self._house is not None
        network = exhausted(self._house.store.loaded("tiny")).network

        def hook(module: Any, given: Any) -> None:
            if job.request.prompt == "too much":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

        handle = network.register_forward_pre_hook(hook)
        try:
            yield from super()._events(job, progress)
        finally:
            handle.remove()


def test_a_job_for_which_nothing_helps_fails_with_the_size_and_hurts_no_other(
    settings: Settings,
) -> None:
    from core.registry import built_in

    engine = Poor(settings, built_in())
    first, second = engine.submit(replace(ASKED, prompt="too much")), engine.submit(ASKED)
    assert first.wait(PATIENCE) and second.wait(PATIENCE)
    engine.close()
    assert first.state is JobState.FAILED
    assert isinstance(first.error, OutOfMemory) and "painting at 64x64" in str(first.error)
    assert not [e for e in second.events() if isinstance(e, Note) and e.kind == "memory"]
    with running(settings) as usual:
        again = usual.submit(ASKED)
        assert again.wait(PATIENCE)
    assert image(second) == image(again)
