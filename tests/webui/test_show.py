"""Where each step of a run stands on the page's timeline, also with several passes."""

from __future__ import annotations

from typing import Any

import torch

from core.engine.job import Job, JobState
from core.events import Loaded, Started, Step
from core.request import Enlarge, GenerationRequest, StartImage
from core.sampling.state import State
from tests.webui.fake_engine import factors
from webui.show import FrameKey, Place, Show, planned

REQUEST = GenerationRequest(
    prompt="a cat", checkpoint="pocket", seed=1, width=64, height=48, steps=4, schedule="normal"
)
LEVELS = (4.0, 2.0, 1.0, 0.5, 0.0)


def step(pass_index: int, index: int, sigmas: tuple[float, ...] = LEVELS, **more: Any) -> Step:
    cells = 8 * (pass_index + 1)
    state = State(index, torch.zeros(1, 4, cells, cells), torch.zeros(1, 4, cells, cells))
    return Step((0,), pass_index, sigmas, sigmas[index], 9.0, state, 0.1, **more)


def shown(*steps: Step) -> tuple[Show, list[dict[str, Any]]]:
    job = Job(REQUEST, "me")
    assert job.begin()
    job.publish(Started(REQUEST))
    job.publish(Loaded("pocket", "sd1", "0" * 64, "cpu", "float32", factors()))
    for one in steps:
        job.publish(one)
    job.end(JobState.FINISHED)
    show = Show(job)
    assert show.settle(timeout=10)
    return show, [m for m in show.messages() if m["type"] == "step"]


def test_a_second_pass_goes_on_where_the_first_ended() -> None:
    first = [step(0, k, begins=k == 0) for k in range(5)]
    second = [step(1, k, LEVELS[2:], begins=k == 0) for k in range(3)]
    show, messages = shown(*first, *second)
    assert [m["at"] for m in messages] == list(range(8))
    assert [m["at"] for m in messages if m.get("begins")] == [0, 5]
    assert [len(m["sigmas"]) for m in messages if m.get("begins")] == [5, 3]
    assert show.place(FrameKey(0, "latents", 4)) == Place(0, 4)
    assert show.place(FrameKey(0, "latents", 5)) == Place(1, 0)
    assert all(show.frame(FrameKey(0, "latents", at)) for at in range(8))
    assert show.frame(FrameKey(0, "latents", 2)) != show.frame(FrameKey(0, "latents", 7))


def test_a_branch_stands_where_it_begins() -> None:
    _, messages = shown(*(step(0, k, begins=k == 2) for k in range(2, 5)))
    assert [m["at"] for m in messages] == [2, 3, 4]
    assert messages[0]["sigmas"] == LEVELS


def test_passes_are_known_before_they_begin() -> None:
    assert planned(REQUEST) == [{"width": 64, "height": 48, "steps": 4}]
    start = StartImage(picture="a" * 64, strength=0.5)
    enlarge = Enlarge(scale=2, steps=10, strength=0.4)
    both = planned(GenerationRequest(**{**vars(REQUEST), "start": start, "enlarge": enlarge}))
    assert both == [
        {"width": 64, "height": 48, "steps": 3},
        {"width": 128, "height": 96, "steps": 5},
    ]
