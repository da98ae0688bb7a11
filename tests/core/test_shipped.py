"""What comes with the house, through its own catalog and `generate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.events import ImageDone, Note
from core.generate import House, generate
from core.models.catalog import Catalog, Kind
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import default_settings

ASKED = GenerationRequest(
    prompt="a red apple on a red background", checkpoint="pocket", seed=1, steps=12, cfg_scale=5
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    settings = default_settings(tmp_path_factory.mktemp("house"))
    catalog = Catalog(settings)
    return House(built_in(), catalog, Store(settings, catalog))


def painted(house: House, **changes: object) -> tuple[np.ndarray, list[str]]:
    """(height width 3) and what was noted."""
    events = list(generate(replace(ASKED, **changes), house))  # type: ignore[arg-type]
    (image,) = [event.image for event in events if isinstance(event, ImageDone)]
    return np.asarray(image).astype(float), [e.text for e in events if isinstance(e, Note)]


def test_a_lora_and_an_embedding_ship_with_the_model(house: House) -> None:
    assert [file.name for file in house.catalog.files(Kind.LORA)] == ["cyanotype"]
    assert [file.name for file in house.catalog.files(Kind.EMBEDDING)] == ["tangerine"]


def test_a_file_of_ones_own_of_the_same_name_comes_first(tmp_path: Path) -> None:
    from tests.core.test_adapting import write_lora

    write_lora(tmp_path / "models" / "Lora" / "cyanotype.safetensors", {"lora_unet_x_to_q": 8}, 1)
    catalog = Catalog(default_settings(tmp_path))
    assert catalog.file(Kind.LORA, "cyanotype").path.is_relative_to(tmp_path)


def test_the_lora_prints_in_blue_and_white(house: House) -> None:
    """Blue where there was red, and all of it fits the model."""
    plain, _ = painted(house)
    print_, notes = painted(house, prompt=ASKED.prompt + " <lora:cyanotype:1>")
    assert plain[..., 0].mean() > plain[..., 2].mean() + 60
    assert print_[..., 2].mean() > print_[..., 0].mean() + 20
    assert any("LoRA cyanotype at 1" in note and "no place" not in note for note in notes)


def test_the_embedding_is_an_orange_thing_that_the_model_did_not_know(house: House) -> None:
    """The middle of the picture is orange: more red than green, more green than blue."""
    picture, _ = painted(house, prompt="a tangerine on a blue background")
    red, green, blue = picture[48:88, 48:80].mean((0, 1))
    assert red > green + 20 and green > blue + 20
