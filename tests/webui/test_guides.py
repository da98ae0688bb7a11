"""The routes of the guides: what there is, and that a preview is the guide of the run."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from core.errors import VitrineError
from core.images.guides import PREPROCESSORS, preprocessor
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.registry import built_in
from core.request import ControlUse, as_json
from core.settings import default_settings
from tests.core.images.test_guides import noisy
from webui.app import _sentence
from webui.guides import routes, what_there_is


class Engine:
    def __init__(self, root: Path) -> None:
        self.catalog = Catalog(default_settings(root))
        self.registry = built_in()


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "inputs")


@pytest.fixture
def client(tmp_path: Path, inputs: Inputs) -> Iterator[TestClient]:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "models/ControlNet"
    folder.mkdir(parents=True)
    save_file({"control_model.zero_convs.0.0.weight": torch.ones(1)}, folder / "edges.safetensors")
    app = FastAPI()
    app.include_router(routes(Engine(tmp_path), inputs))
    app.add_exception_handler(VitrineError, _sentence)
    with TestClient(app) as client:
        yield client


def test_all_that_can_guide_is_listed_with_its_settings(client: TestClient) -> None:
    client.get("/api/guides")
    there = client.get("/api/guides").json()
    assert [model["name"] for model in there["models"]] == ["edges", "outline", "palette"]
    assert [one["name"] for one in there["preprocessors"]] == list(PREPROCESSORS)
    (canny,) = (one for one in there["preprocessors"] if one["name"] == "canny")
    assert {s["name"]: (s["low"], s["high"]) for s in canny["settings"]} == {
        "low": (1, 255),
        "high": (1, 255),
    }


def test_the_guides_that_ship_say_whom_they_fit_and_what_makes_their_pictures(
    tmp_path: Path,
) -> None:
    offered = what_there_is(Engine(tmp_path).catalog, PREPROCESSORS)["models"]
    assert [one["name"] for one in offered] == ["outline", "palette"]
    for one in offered:
        assert one["for"] == "pocket" and one["preprocessor"] in PREPROCESSORS and one["about"]


def preview(client: TestClient, use: ControlUse, **more: object):  # type: ignore[no-untyped-def]
    asked = {"use": as_json(use), "width": 32, "height": 32, **more}
    return client.post("/api/guides/preview", content=json.dumps(asked))


@pytest.mark.parametrize(
    "name",
    [one.name for one in PREPROCESSORS.values() if one.ask is None and one.name != "inpaint"],
)
def test_a_preview_is_what_the_preprocessor_makes(
    name: str, client: TestClient, inputs: Inputs
) -> None:
    use = ControlUse(model="edges", picture=inputs.add(noisy()), preprocessor=name)
    answer = preview(client, use)
    assert answer.status_code == 200
    seen = np.asarray(Image.open(io.BytesIO(answer.content), formats=("PNG",)))
    one = preprocessor(name)
    assert np.array_equal(seen, np.asarray(one(noisy(), one.checked({}))))


def test_a_preview_follows_the_start_picture_and_its_mask(
    client: TestClient, inputs: Inputs
) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (8, 8, 24, 24))
    start = {"picture": inputs.add(noisy()), "mask": inputs.add(mask), "blur": 0}
    answer = preview(client, ControlUse(model="edges", preprocessor="inpaint"), start=start)
    seen = np.asarray(Image.open(io.BytesIO(answer.content), formats=("PNG",)))
    assert np.array_equal(seen[..., 3] == 0, np.asarray(mask) == 255)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"picture": None}, "a guide needs a picture"),
        ({"preprocessor": "x"}, "no preprocessor named"),
        ({"settings": {"low": 0}, "preprocessor": "canny"}, "must lie between 1 and 255"),
    ],
)
def test_what_can_not_be_shown_is_said(
    change: dict[str, object], sentence: str, client: TestClient, inputs: Inputs
) -> None:
    use = {"model": "edges", "picture": inputs.add(noisy())} | change
    asked = {"use": use, "width": 32, "height": 32}
    answer = client.post("/api/guides/preview", content=json.dumps(asked))
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


def test_too_large_a_preview_is_refused(client: TestClient, inputs: Inputs) -> None:
    use = ControlUse(model="edges", picture=inputs.add(noisy()))
    assert preview(client, use, width=8192, height=8192).status_code == 422
