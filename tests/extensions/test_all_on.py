"""With every extension that ships on, a run is still one that can be resumed at any step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.events import Event, Finished, ImageDone, Step
from core.generate import House, Progress, generate
from core.models.catalog import Catalog
from core.models.store import Store
from core.request import GenerationRequest, Wording
from core.resolve import submitted
from core.settings import default_settings
from tests.extensions.shipped import shipped
from tests.tiny import write_sd1

STEPS = 4
EXTRAS = {
    "wildcards": {},
    "guidance_rescale": {"amount": 0.5},
    "limited_interval": {"low": 0.2, "high": 8.0},
    "larger_pictures": {"times": 2.0},
    "detail": {},
    "film_grain": {"amount": 0.2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("house")


@pytest.fixture(scope="module")
def house(root: Path) -> House:
    write_sd1(root / "models" / "Stable-diffusion" / "tiny.safetensors")
    settings = default_settings(root)
    catalog = Catalog(settings)
    registry = shipped(settings.data_dir, "run_log").registry
    return House(registry, catalog, Store(settings, catalog))


def request(house: House, **changes: object) -> GenerationRequest:
    values = {"extras": EXTRAS, "sampler": "gradient_estimation", "schedule": "laplace", **changes}
    asked = GenerationRequest(
        prompt="a {red|blue} fox",
        seed=3,
        steps=STEPS,
        width=64,
        height=64,
        **values,  # type: ignore[arg-type]
    )
    return submitted(asked, house.catalog, house.registry)


def pixels(events: Iterator[Event]) -> np.ndarray:
    (image,) = (event.image for event in events if isinstance(event, ImageDone))
    return np.asarray(image)


@pytest.mark.parametrize("sampler", ["gradient_estimation", "dpmpp_2m", "euler_ancestral"])
def test_a_run_resumes_at_every_step_bit_for_bit(house: House, sampler: str) -> None:
    asked = request(house, sampler=sampler)
    events = list(generate(asked, house))
    whole = pixels(iter(events))
    for step in (event for event in events if isinstance(event, Step)):
        progress = Progress(images=(0,), state=step.state)
        assert np.array_equal(pixels(generate(asked, house, progress=progress)), whole)


def test_an_image_with_a_prompt_of_its_own_resumes_as_itself(house: House) -> None:
    told = (Wording(prompt="a red fox"), Wording(prompt="a blue owl"))
    asked = request(house, images=2, prompts=told)
    events = list(generate(asked, house))
    first, second = (np.asarray(e.image) for e in events if isinstance(e, ImageDone))
    assert not np.array_equal(first, second)
    for step in (e for e in events if isinstance(e, Step) and e.images == (1,)):
        progress = Progress(done=frozenset({0}), images=(1,), state=step.state)
        assert np.array_equal(pixels(generate(asked, house, progress=progress)), second)


def test_each_of_them_changes_the_picture(house: House) -> None:
    plain = pixels(generate(request(house, extras={}), house))
    for name in EXTRAS.keys() - {"wildcards"}:
        changed = pixels(generate(request(house, extras={name: EXTRAS[name]}), house))
        assert not np.array_equal(changed, plain), name


def test_their_settings_are_in_the_request_and_its_json(house: House) -> None:
    asked = request(house)
    assert asked.prompt in ("a red fox", "a blue fox")
    assert asked.extras["film_grain"] == {"amount": 0.2, "size": 1}
    assert GenerationRequest.from_json(asked.to_json()) == asked


def test_readers_are_told_of_every_event(house: House, root: Path) -> None:
    told = list(house.registry.told(generate(request(house), house)))
    assert isinstance(told[-1], Finished)
    (reader,) = house.registry.readers.values()
    assert reader.name == "run_log"
    table = root / "data" / "extension-data" / "run_log" / "pictures.csv"
    lines = table.read_text().splitlines()
    assert len(lines) == 2 and ",3,4," in lines[1]
