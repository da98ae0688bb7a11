"""Pictures that are put in: stored, shown, and prepared as a run will begin with them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image
from starlette.testclient import TestClient

from core.errors import VitrineError
from core.images.inputs import Inputs
from core.images.start import prepared
from core.request import StartImage
from webui import pictures, stream


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "inputs")


@pytest.fixture
def client(inputs: Inputs) -> TestClient:
    app = FastAPI()
    app.include_router(pictures.routes(inputs))

    async def sentence(request: Request, error: Exception) -> Response:
        assert isinstance(error, VitrineError)
        return stream.sentences(error)

    app.add_exception_handler(VitrineError, sentence)
    return TestClient(app)


def drawn(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def filed(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def put(client: TestClient, picture: Image.Image) -> str:
    answer = client.post("/api/pictures", content=filed(picture))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["name"])


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))


def test_a_picture_comes_back_pixel_for_pixel(client: TestClient) -> None:
    picture = drawn()
    answer = client.post("/api/pictures", content=filed(picture)).json()
    assert (answer["width"], answer["height"]) == (48, 32)
    back = opened(client.get(f"/api/pictures/{answer['name']}.png").content)
    assert back.mode == "RGB" and back.tobytes() == picture.tobytes()
    assert put(client, picture) == answer["name"]


def test_a_photo_is_turned_upright(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = filed(drawn(), "JPEG", exif=exif)
    answer = client.post("/api/pictures", content=data).json()
    assert (answer["width"], answer["height"]) == (32, 48)


def test_a_thumbnail_is_small(client: TestClient) -> None:
    name = put(client, drawn(900, 300))
    assert opened(client.get(f"/api/pictures/{name}/thumbnail.jpg").content).size == (192, 64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"GIF89a nothing", "not a PNG, JPEG or WebP"),
        (filed(drawn())[:200], "damaged"),
        (filed(Image.new("1", (20_000, 10))), "too large"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(
    client: TestClient, inputs: Inputs, data: bytes, words: str
) -> None:
    answer = client.post("/api/pictures", content=data)
    assert answer.status_code == 409 and words in answer.json()["error"]
    assert not list(inputs.path("0" * 64).parent.glob("*"))


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "A" * 64, "0" * 63])
def test_a_name_is_no_path(client: TestClient, name: str) -> None:
    assert client.get(f"/api/pictures/{name}.png").status_code in (404, 422)


def test_a_picture_that_is_not_there_is_said(client: TestClient) -> None:
    assert client.get(f"/api/pictures/{'0' * 64}.png").status_code == 404


@pytest.mark.parametrize(
    "options", [{}, {"grow": 3, "blur": 0}, {"invert": True}, {"extend": (8, 0, 0, 16)}]
)
def test_the_mask_that_is_shown_is_the_one_that_acts(
    client: TestClient, inputs: Inputs, options: dict[str, Any]
) -> None:
    mask = Image.new("L", (48, 32))
    mask.paste(255, (10, 10, 20, 20))
    start = StartImage(picture=put(client, drawn()), mask=put(client, mask), **options)
    asked = {"width": 48, "height": 32}
    told = {name: getattr(start, name) for name in ("picture", "mask", *options)}
    answer = client.post("/api/pictures/prepared", json={"start": told, "show": "mask", **asked})
    shown = opened(answer.content)
    acting = prepared(start, inputs, 48, 32).whole_mask
    assert acting is not None and shown.mode == "L"
    assert shown.tobytes() == acting.tobytes()


def test_the_picture_before_has_the_result_s_size(client: TestClient) -> None:
    told = {"picture": put(client, drawn()), "resize": "stretch"}
    asked = {"start": told, "width": 64, "height": 64, "show": "picture"}
    assert opened(client.post("/api/pictures/prepared", json=asked).content).size == (64, 64)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"grow": 10_000}, "start.grow"),
        ({"blur": -1}, "start.blur"),
        ({"mask": "x"}, None),
        ({"nonsense": 1}, "start.nonsense"),
        ({"width": 0}, "width"),
        ({"height": "tall"}, "height"),
        ({"width": 8192, "height": 8192}, "width"),
        ({"mask": None}, "start.mask"),
    ],
)
def test_what_is_wrong_in_what_is_asked_is_named(
    client: TestClient, change: dict[str, Any], field: str | None
) -> None:
    told = {"picture": put(client, drawn()), "mask": put(client, Image.new("L", (48, 32), 255))}
    asked: dict[str, Any] = {"width": 48, "height": 32, "show": "mask"}
    for name, value in change.items():
        (asked if name in ("width", "height") else told)[name] = value
    answer = client.post("/api/pictures/prepared", json={"start": told, **asked})
    assert answer.status_code == 422
    assert answer.json()["error"] and answer.json()["field"] == field
