"""Extensions and the engine: what fails fails alone, and the queue outlives a reload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.engine.job import JobState
from core.engine.local import LocalEngine
from core.errors import ExtensionError, NotFinite, RequestError
from core.events import ImageDone
from core.extend.house import Extensions
from core.images.capsule import read_any
from core.registry import built_in
from core.request import GenerationRequest, Wording
from core.settings import default_settings
from tests.core.extend.test_house import write
from tests.extensions.shipped import shipped
from tests.tiny import write_sd1

FAILS = """
    from dataclasses import dataclass
    from core.extend import DenoiserWrapper, Finisher, hookimpl, setting

    @dataclass(frozen=True)
    class Settings:
        how: str = setting("well", choices=("well", "raise", "exit", "nan"))

    def wrap(denoise, settings):
        def wrapped(x, sigma):
            if settings.how == "raise": return x + None
            if settings.how == "exit": raise SystemExit(3)
            return denoise(x, sigma) * float("nan" if settings.how == "nan" else 1)
        return wrapped

    @hookimpl
    def denoiser_wrappers():
        return [DenoiserWrapper("{name}", Settings, wrap)]
"""
ASKED = GenerationRequest(
    prompt="a fox", checkpoint="tiny", seed=1, steps=2, width=64, height=64, sampler="euler"
)


@pytest.fixture
def house(tmp_path: Path) -> Extensions:
    write_sd1(tmp_path / "models" / "Stable-diffusion" / "tiny.safetensors")
    write(tmp_path / "extensions", "fails", FAILS)
    data = default_settings(tmp_path).data_dir
    return Extensions(built_in(), [(tmp_path / "extensions", True)], data, tmp_path, packages=False)


@pytest.fixture
def engine(house: Extensions, tmp_path: Path) -> Iterator[LocalEngine]:
    made = LocalEngine(default_settings(tmp_path), house.registry)
    house.listen(made.adopt)
    yield made
    made.close()


def asked(how: str) -> GenerationRequest:
    return replace(ASKED, extras={"fails": {"how": how}})


def test_a_run_that_an_extension_fails_is_the_only_one(
    house: Extensions, engine: LocalEngine
) -> None:
    jobs = {how: engine.submit(asked(how)) for how in ("raise", "exit", "nan", "well")}
    plain = engine.submit(ASKED)
    assert all(job.wait(120) for job in (*jobs.values(), plain))
    for how, said in (("raise", "fails: TypeError"), ("exit", "fails: SystemExit")):
        assert isinstance(jobs[how].error, ExtensionError)
        assert said in str(jobs[how].error)
    assert isinstance(jobs["nan"].error, NotFinite)
    assert jobs["well"].error is None and plain.error is None
    account = house.one("fails").account
    assert account.errors == 2 and account.calls > 2
    pictures = [
        next(event.image for event in job.events() if isinstance(event, ImageDone))
        for job in (jobs["well"], plain)
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_settings_are_in_the_picture_and_the_queue_outlives_a_reload(
    house: Extensions, engine: LocalEngine, tmp_path: Path
) -> None:
    jobs = [engine.submit(replace(asked("well"), seed=seed)) for seed in range(3)]
    write(tmp_path / "extensions", "fails", FAILS.replace("nan", "none"))
    house.reload("fails")
    assert engine.registry is house.registry
    for job in jobs:
        assert job.wait(120) and job.state is JobState.FINISHED, job.error
        (done,) = (event for event in job.events() if isinstance(event, ImageDone))
        assert done.path is not None
        recipe = read_any(done.path, house.registry, {"tiny"})
        assert recipe.request is not None and recipe.request.extras == {"fails": {"how": "well"}}
    house.disable("fails")
    with pytest.raises(Exception, match="no extension named 'fails'"):
        engine.submit(asked("well"))


def test_each_image_of_a_request_carries_its_own_prompt(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Pixel for pixel what its own request makes, and that is in the file."""
    engine.adopt(shipped(tmp_path / "other").registry)
    extras = {"wildcards": {}, "film_grain": {}}
    asked_for = replace(ASKED, prompt="a {red|blue|green|grey} fox", images=4, extras=extras)
    job = engine.submit(asked_for)
    assert job.wait(120) and job.error is None
    made = [event for event in job.events() if isinstance(event, ImageDone)]
    told = [done.request.prompt for done in made]
    assert len(made) == 4 and len(set(told)) > 1 and all("{" not in text for text in told)
    for done in made:
        assert done.path is not None and not done.request.prompts
        recipe = read_any(done.path, engine.registry, {"tiny"}).request
        assert recipe is not None and recipe.prompt == done.request.prompt
        again = engine.submit(recipe)
        assert again.wait(120)
        (same,) = (event for event in again.events() if isinstance(event, ImageDone))
        assert same.image.tobytes() == done.image.tobytes()
    with pytest.raises(RequestError, match="there are 1 prompts for 2 images"):
        engine.submit(replace(ASKED, images=2, prompts=(Wording(prompt="one"),)))
