"""The noise levels that the page's axis shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.engine.engine import EngineInfo
from core.errors import RequestError
from core.request import ScheduleOptions
from tests.webui.fake_engine import FakeEngine
from webui.levels import walked


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.close()


def test_levels_fall_from_the_noisiest_to_nothing(engine: FakeEngine) -> None:
    told = walked(engine, "euler", "automatic", 20)
    sigmas, timesteps = told["sigmas"], told["timesteps"]
    assert len(sigmas) == len(timesteps) == 21
    assert sigmas == sorted(sigmas, reverse=True) and sigmas[-1] == timesteps[-1] == 0
    assert sigmas[0] == pytest.approx(14.6146, abs=1e-3)  # of SD's 1000 training levels
    assert timesteps[0] == pytest.approx(999)


def test_a_schedule_bends_them(engine: FakeEngine) -> None:
    plain = walked(engine, "euler", "automatic", 10)["sigmas"]
    bent = walked(engine, "euler", "karras", 10)["sigmas"]
    assert bent[0] == pytest.approx(plain[0]) and bent[5] != pytest.approx(plain[5])


def test_options_bend_them_further(engine: FakeEngine) -> None:
    options = ScheduleOptions(rho=3, sigma_max=5)
    bent = walked(engine, "euler", "karras", 10, options)["sigmas"]
    assert bent[0] == pytest.approx(5)
    assert (
        bent[5] > walked(engine, "euler", "karras", 10, ScheduleOptions(sigma_max=5))["sigmas"][5]
    )


def test_nothing_is_said_before_the_engine_is_ready() -> None:
    """torch may take seconds; the page is up before it."""
    early = FakeEngine()
    early.describe = lambda: EngineInfo(False, "", "", 0, 0)  # type: ignore[method-assign]
    assert walked(early, "euler", "karras", 10) == {}
    early.close()


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e9])
def test_options_out_of_bounds_are_a_sentence(engine: FakeEngine, value: float) -> None:
    with pytest.raises(RequestError, match="sigma_max"):
        walked(engine, "euler", "karras", 10, ScheduleOptions(sigma_max=value))


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps"),
    [("nobody", "automatic", 10), ("euler", "nothing", 10), ("euler", "karras", 10_000)],
)
def test_what_there_is_not_is_a_sentence(
    engine: FakeEngine, sampler: str, schedule: str, steps: int
) -> None:
    with pytest.raises(RequestError):
        walked(engine, sampler, schedule, steps)
