"""Styles over HTTP: read from the file, put on prompts, kept and deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from core.errors import VitrineError
from webui import wordings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "styles.csv"
    path.write_text(
        'name,prompt,negative_prompt\nink,"ink drawing of {prompt}, fine lines",colour\n',
        encoding="utf-8",
    )
    return path


@pytest.fixture
def client(path: Path) -> TestClient:
    app = FastAPI()
    app.include_router(wordings.routes(path))
    return TestClient(app)


def test_a_style_is_put_on_both_prompts(client: TestClient) -> None:
    asked = {"prompt": "a cat", "negative_prompt": "dog", "names": ["ink"]}
    answer = client.post("/api/styles/applied", json=asked).json()
    assert answer == {
        "prompt": "ink drawing of a cat, fine lines",
        "negative_prompt": "dog, colour",
    }


def test_a_prompt_is_kept_and_deleted_and_the_rest_stays(client: TestClient, path: Path) -> None:
    before = path.read_text(encoding="utf-8-sig")
    told = client.post("/api/styles", json={"name": "a/b, c", "prompt": 'say "hi"'}).json()
    assert [style["name"] for style in told["styles"]] == ["ink", "a/b, c"]
    again = client.get("/api/styles").json()
    assert again["styles"][1]["prompt"] == 'say "hi"'
    client.delete("/api/styles/a%2Fb%2C%20c")
    assert path.read_text(encoding="utf-8-sig").splitlines() == before.splitlines()


@pytest.mark.parametrize(
    "asked", [{"names": ["nothing"]}, {"names": "ink"}, {"names": ["ink"], "prompt": 3}, []]
)
def test_what_makes_no_sense_is_refused(client: TestClient, asked: object) -> None:
    with pytest.raises(VitrineError):
        client.post("/api/styles/applied", json=asked)


def test_a_style_needs_a_name(client: TestClient) -> None:
    with pytest.raises(VitrineError, match="name"):
        client.post("/api/styles", json={"name": " ", "prompt": "x"})


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(wordings.routes(tmp_path / "styles.csv"))
    assert TestClient(app).get("/api/styles").json() == {"styles": [], "problems": []}
