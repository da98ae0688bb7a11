"""Recorded calls of a U-Net; what a card would do again is done again by the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.generate import generate
from core.models.graphs import MOST, Graphs, Recording
from core.models.placing import CPU, PlacedUNet, Placing
from core.nn.attention import PLAIN, Attending, Words, naive_attend
from core.nn.residuals import Residuals
from tests.core.test_generate import ASKED, house_in, pictures
from tests.tiny import UNET_CONFIG, tiny_unet


class Played:
    """Runs a call again, at the same addresses, as a card would."""

    def __init__(self, call: Callable[[], Tensor], answer: Tensor, wrong: float) -> None:
        self.call, self.answer, self.wrong = call, answer, wrong
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.answer.copy_(self.call() + self.wrong)

    def pool(self) -> Any:
        return id(self)


class Recorder:
    def __init__(self, error: Exception | None = None, wrong: float = 0.0) -> None:
        self.error, self.wrong = error, wrong
        self.made: list[Played] = []
        self.beside: list[Recording | None] = []

    def __call__(
        self, call: Callable[[], Tensor], beside: Recording | None
    ) -> tuple[Recording, Tensor]:
        if self.error is not None:
            raise self.error
        answer = call()
        self.beside.append(beside)
        self.made.append(Played(call, answer, self.wrong))
        return self.made[-1], answer


def unet() -> PlacedUNet:
    """In float64, whose weights are never packed."""
    network = PlacedUNet(UNET_CONFIG, Placing(CPU))
    network.load_state_dict(tiny_unet().state_dict())
    return network.double().eval().requires_grad_(False)


def given(seed: int, rows: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, rows, 8, generator=drawn, dtype=torch.float64)
    context = torch.randn(2, 3, UNET_CONFIG.context, generator=drawn, dtype=torch.float64)
    return x, torch.tensor([1.0, 500.0]), context


@torch.inference_mode()
def test_replayed_calls_answer_as_plain_ones_and_answers_are_the_callers_own() -> None:
    network, recorder = unet(), Recorder()
    graphs = Graphs(network, Placing(CPU), recorder)
    answers = [graphs(*given(seed)) for seed in range(5)]
    for seed, answer in enumerate(answers):
        assert torch.equal(answer, network(*given(seed)))
    assert len(recorder.made) == 1
    assert recorder.made[0].replays == 4  # once to be proved, then for the last three calls


@torch.inference_mode()
def test_a_picture_with_several_texts_is_replayed_as_well() -> None:
    network, recorder = unet(), Recorder()
    graphs = Graphs(network, Placing(CPU), recorder)
    for seed in range(4):
        x, timestep, context = given(seed)
        asked = x[:1], timestep[:1], context
        keeping = replace(PLAIN, words=Words())
        assert torch.equal(graphs(*asked, attending=keeping), network(*asked))
    assert recorder.made[0].replays == 3


@torch.inference_mode()
def test_each_shape_has_a_recording_they_share_memory_and_the_oldest_go() -> None:
    recorder = Recorder()
    graphs = Graphs(unet(), Placing(CPU), recorder)
    for rows in (8, 16, 8, 16, 8):
        graphs(*given(0, rows))
    assert len(recorder.made) == 2
    assert recorder.beside == [None, recorder.made[0]]
    for rows in range(24, 24 + 8 * MOST, 8):
        graphs(*given(0, rows))
    graphs(*given(0))
    assert len(recorder.made) == 2  # forgotten, so this call was the first again
    graphs(*given(0))
    assert len(recorder.made) == 3


@torch.inference_mode()
def test_weights_that_are_replaced_are_seen_and_weights_changed_in_place_are_read() -> None:
    network, recorder = unet(), Recorder()
    graphs = Graphs(network, Placing(CPU), recorder)
    for seed in range(3):
        graphs(*given(seed))
    layer = network.out[2]
    original = layer._parameters["weight"]
    assert original is not None
    layer._parameters["weight"] = nn.Parameter(original * 2, requires_grad=False)
    assert torch.equal(graphs(*given(3)), network(*given(3)))
    assert graphs._kept and len(recorder.made) == 1  # called plainly, as for the first time
    graphs(*given(4))
    assert len(recorder.made) == 2
    layer._parameters["weight"].mul_(3)  # type: ignore[union-attr]
    assert torch.equal(graphs(*given(5)), network(*given(5)))
    assert len(recorder.made) == 2


@torch.inference_mode()
def test_what_is_not_plain_is_never_recorded() -> None:
    network, recorder, placing = unet(), Recorder(), Placing(CPU)
    graphs = Graphs(network, placing, recorder)
    for _ in range(3):
        graphs(*given(0), attending=Attending(attend=naive_attend))
        graphs(*given(0), residuals=Residuals())
    placing.memory = "medvram"
    for _ in range(3):
        graphs(*given(0))
    assert not recorder.made


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        (Recorder(RuntimeError("operation not permitted\nin detail")), "operation not permitted"),
        (Recorder(torch.OutOfMemoryError("CUDA out of memory")), "out of memory"),
        (Recorder(wrong=1.0), "other numbers"),
    ],
)
@torch.inference_mode()
def test_a_failure_is_told_once_and_the_network_is_called_plainly(
    recorder: Recorder, reason: str
) -> None:
    network, placing = unet(), Placing(CPU)
    graphs = Graphs(network, placing, recorder)
    for seed in range(4):
        assert torch.equal(graphs(*given(seed)), network(*given(seed)))
    (note,) = placing.taken_notes()
    assert note.kind == "speed" and reason in note.text and "\n" not in note.text
    assert not graphs._kept


class Counted:
    """Stands for recordings: counts the calls, and hands them on."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.calls, self.forgotten = network, 0, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self.network(*args, **options)

    def forget(self) -> None:
        self.forgotten += 1


def test_a_run_asks_its_recordings_unless_its_picture_has_no_edges(tmp_path: Path) -> None:
    house = house_in(tmp_path)
    request = replace(ASKED, images=1, steps=2)
    without = pictures(list(generate(request, house)))
    (kept,) = house.store._kept.values()
    counted = Counted(kept.checkpoint.network)
    kept.checkpoint = replace(kept.checkpoint, graphs=counted)  # type: ignore[arg-type]
    assert pictures(list(generate(request, house))) == without
    assert counted.calls == 2
    list(generate(replace(request, tiling=True), house))
    assert counted.calls == 2
    kept.checkpoint._tighten("medvram")
    assert counted.forgotten == 1
