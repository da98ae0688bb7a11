"""A picture is its owner's until the owner shows it, and again when it is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.testclient import TestClient

from core.errors import VitrineError
from core.gallery import Gallery
from core.request import GenerationRequest
from webui import sharing, stream


@pytest.fixture
def house(tmp_path: Path) -> tuple[TestClient, int, Gallery]:
    gallery = Gallery(tmp_path / "gallery.sqlite3")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    request = GenerationRequest(prompt="an apple", seed=1)
    picture = gallery.add(tmp_path / "a.png", request, (16, 16), owner="ada")
    app = FastAPI()
    shared = sharing.Shared(tmp_path / "shared.sqlite3")
    app.include_router(
        sharing.routes(gallery, shared, lambda call: call.headers["who"], lambda call: "http://box")
    )

    @app.exception_handler(VitrineError)
    async def sentence(request: Request, error: VitrineError) -> JSONResponse:
        return stream.sentences(error)

    return TestClient(app), picture.id, gallery


def call(client: TestClient, who: str, method: str, path: str = "") -> Any:
    return client.request(method, f"/api/shared{path}", headers={"who": who})


def test_only_the_owner_shares_and_everybody_sees_what_is_shared(house: Any) -> None:
    client, id, _ = house
    assert call(client, "ben", "GET", f"/{id}/picture").status_code == 404
    assert call(client, "ben", "PUT", f"/{id}").status_code == 422
    assert call(client, "ben", "GET").json()["pictures"] == []
    assert call(client, "ada", "PUT", f"/{id}").status_code == 200
    again = call(client, "ada", "PUT", f"/{id}").json()
    assert again["link"] == f"http://box/?tab=gallery&picture={id}"
    (told,) = call(client, "ben", "GET").json()["pictures"]
    assert told["id"] == str(id) and not told["mine"] and told["job"] is None
    assert call(client, "ada", "GET").json()["pictures"][0]["mine"]
    assert call(client, "ben", "GET", "?words=pear").json()["pictures"] == []
    assert call(client, "ben", "GET", f"/{id}/picture").headers["content-type"] == "image/png"
    assert call(client, "ben", "GET", f"/{id}/256.webp").status_code == 200
    assert call(client, "ben", "GET", f"/{id}/257.webp").status_code == 422
    assert call(client, "ben", "DELETE", f"/{id}").status_code == 422
    assert call(client, "ada", "DELETE", f"/{id}").status_code == 200
    assert call(client, "ben", "GET", f"/{id}/picture").status_code == 404


def test_what_is_thrown_away_is_not_shown(house: Any) -> None:
    client, id, gallery = house
    call(client, "ada", "PUT", f"/{id}")
    gallery.bin([id])
    assert call(client, "ben", "GET").json()["pictures"] == []
    assert call(client, "ben", "GET", f"/{id}/picture").status_code == 404
    assert call(client, "ben", "GET", f"/{2**70}/picture").status_code == 404
