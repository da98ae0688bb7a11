"""What `resolve` says of a schedule's options, and that those it takes act."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import RequestError
from core.events import Step
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest, ScheduleOptions
from core.resolve import resolve
from core.settings import default_settings
from tests.tiny import write_sd1

ASKED = GenerationRequest(
    prompt="an apple", checkpoint="tiny", seed=7, steps=4, sampler="euler", schedule="karras"
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root: Path = tmp_path_factory.mktemp("house")
    write_sd1(root / "models" / "Stable-diffusion" / "tiny.safetensors")
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(built_in(), catalog, Store(settings, catalog))


def asked(schedule: Any = "karras", **options: Any) -> GenerationRequest:
    return replace(ASKED, schedule=schedule, schedule_options=ScheduleOptions(**options))


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (asked("simple", sigma_max=10.0), "the schedule Simple takes no sigma_max; it takes:"),
        (asked("exponential", rho=3.0), "the schedule Exponential takes no rho"),
        (asked((2.0, 1.0, 0.0), discard_penultimate=True), "a drawn schedule takes no discard"),
        (asked(sigma_min=5.0, sigma_max=2.0), "sigma_min, 5, must lie below sigma_max, 2"),
        (asked(rho=0.0), "rho must lie between"),
    ],
)
def test_options_that_can_not_act_are_refused(
    request_: GenerationRequest, sentence: str, house: House
) -> None:
    with pytest.raises(RequestError, match=sentence) as refused:
        resolve(request_, house.catalog, house.registry)
    assert refused.value.field is not None
    assert refused.value.field.startswith("schedule_options.")


def test_a_request_with_options_is_kept_through_json(house: House) -> None:
    request = resolve(asked(rho=5.0, round_timesteps=True), house.catalog, house.registry)
    assert GenerationRequest.from_json(request.to_json()) == request


def walked(request: GenerationRequest, house: House) -> list[Step]:
    return [event for event in generate(request, house) if isinstance(event, Step)]


@pytest.mark.parametrize(
    "options",
    [
        {"rho": 3.0},
        {"sigma_min": 0.1},
        {"sigma_max": 9.0},
        {"discard_penultimate": True},
    ],
)
def test_options_change_the_levels_that_are_walked(options: dict[str, Any], house: House) -> None:
    plain, changed = walked(asked(), house), walked(asked(**options), house)
    assert len(plain) == len(changed) == ASKED.steps + 1
    assert plain[0].sigmas != changed[0].sigmas
    if "sigma_max" in options:
        assert changed[0].sigma == pytest.approx(9, rel=1e-5)


def test_automatic_is_the_samplers_own_schedule(house: House) -> None:
    for sampler, name, intervals in (("ddim", "timesteps", 3), ("unipc", "time_uniform", 4)):
        request = replace(asked("automatic"), sampler=sampler)
        resolved = resolve(request, house.catalog, house.registry)
        assert resolved.schedule == name
        assert walked(request, house)[-1].state.index == intervals
