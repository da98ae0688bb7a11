"""The cards of the models: what they say, how they are found, and that no name leads elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

from core.errors import VitrineError
from core.models.catalog import Catalog
from core.settings import Settings
from webui.cards import routes
from webui.gate import Gate, Rules
from webui.stream import sentences

HOME = "http://127.0.0.1:7860"
DOWN = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
UP = DOWN.replace("down.weight", "up.weight")


class Shelf:
    """As much of an engine as cards need."""

    def __init__(self, settings: Settings) -> None:
        self.catalog = Catalog(settings)


def put(path: Path, **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({DOWN: torch.zeros(4, 768), UP: torch.zeros(320, 4)}, path, metadata=metadata)


@pytest.fixture
def caller(settings: Settings) -> Iterator[TestClient]:
    lora = settings.models_dir / "Lora"
    put(lora / "ink.safetensors", ss_tag_frequency=json.dumps({"a": {"inkwash": 9, "paper": 2}}))
    put(lora / "people/old/aunt.safetensors")
    (lora / "people/old/aunt.json").write_text(json.dumps({"preferred weight": 0.7}))
    Image.new("RGB", (640, 480), "red").save(lora / "ink.preview.png")
    (lora / "broken.safetensors").write_text("<html>")
    app, shelf = FastAPI(), Shelf(settings)
    app.include_router(routes(shelf, settings))  # type: ignore[arg-type]
    app.add_exception_handler(VitrineError, lambda request, error: sentences(error))  # type: ignore[arg-type]
    app.add_middleware(Gate, rules=Rules(port=7860))
    yield TestClient(app, base_url=HOME)
    shelf.catalog.end()


def cards(caller: TestClient, kind: str = "LoRA") -> dict[str, Any]:
    """By name, once everything is read."""
    for _ in range(200):
        found = caller.get(f"/api/cards/{kind}").json()
        if all(card["is_read"] for card in found["cards"]):
            return {card["name"]: card for card in found["cards"]} | {"": found}
        caller.get("/api/cards")  # begins to read
    raise AssertionError("the catalog never read its files")


def test_every_file_has_a_card_with_what_is_known_of_it(caller: TestClient) -> None:
    found = cards(caller)
    ink, aunt = found["ink"], found["people/old/aunt"]
    assert (ink["family"], ink["folder"], ink["triggers"]) == ("SD 1.x", "", ["inkwash", "paper"])
    assert (aunt["title"], aunt["folder"], aunt["weight"]) == ("aunt", "people/old", 0.7)
    assert ink["picture"] and not aunt["picture"]
    assert ink["size"] > 10_000


def test_a_damaged_file_is_named_with_its_reason(caller: TestClient) -> None:
    (broken,) = cards(caller)[""]["broken"]
    assert broken["name"] == "broken" and "HTML" in broken["problem"]


def test_a_hash_arrives_by_itself_and_the_version_tells(caller: TestClient) -> None:
    before = caller.get("/api/cards").json()["version"]
    for _ in range(300):
        if cards(caller)["ink"]["hash"]:
            break
    details = caller.get("/api/card", params={"kind": "LoRA", "name": "ink"}).json()
    assert len(details["hash"]) == 64 and details["hash"].startswith(details["hash"][:10])
    assert caller.get("/api/cards/version").json()["version"] > before


def test_a_preview_is_small_and_may_be_kept(caller: TestClient) -> None:
    cards(caller)
    answer = caller.get("/cards/picture.webp", params={"kind": "LoRA", "name": "ink"})
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert len(answer.content) < 5000


def test_the_details_of_the_model_that_ships_say_what_it_likes(caller: TestClient) -> None:
    details = caller.get("/api/card", params={"kind": "checkpoint", "name": "pocket"}).json()
    assert details["pixels"] == 128 and details["examples"] and details["description"]


@pytest.mark.parametrize("name", ["gone", "../ink", "/etc/passwd", "people/old/../../ink", "\0"])
def test_no_name_leads_out_of_the_folders(caller: TestClient, name: str) -> None:
    for path in ("/api/card", "/cards/picture.webp"):
        assert caller.get(path, params={"kind": "LoRA", "name": name}).status_code == 404


def test_a_kind_there_is_not_is_a_sentence(caller: TestClient) -> None:
    answer = caller.get("/api/cards/spoon")
    assert answer.status_code == 422 and "checkpoint" in answer.json()["error"]


def test_new_files_are_found_at_the_next_look(caller: TestClient, settings: Settings) -> None:
    assert "fresh" not in cards(caller)
    put(settings.models_dir / "Lora/fresh.safetensors")
    assert "fresh" in {card["name"] for card in caller.get("/api/cards/LoRA").json()["cards"]}
