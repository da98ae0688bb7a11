"""What the page says of how a prompt is read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from core.models.catalog import Catalog
from core.request import Emphasis
from core.settings import default_settings
from webui.reading import Reader


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    root = tmp_path_factory.mktemp("house")
    for folder, name, tensors in (
        ("embeddings", "glimmer", {"emb_params": torch.zeros(3, 768)}),
        ("embeddings", "apple", {"emb_params": torch.zeros(1, 1024)}),
        ("models/Lora", "style", lora()),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        save_file(tensors, root / folder / f"{name}.safetensors")
    return Reader(Catalog(default_settings(root)))


def lora() -> dict[str, torch.Tensor]:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    return {
        f"{layer}.lora_down.weight": torch.zeros(2, 320),
        f"{layer}.lora_up.weight": torch.zeros(320, 2),
    }


def test_tokens_carry_their_ids_words_and_weights(reader: Reader) -> None:
    told = reader.reading("a (red:1.5) pear", 20)
    assert (told["tokens"], told["room"]) == (3, 75)
    ((chunk,),) = [part["chunks"] for part in told["parts"]]
    assert [(t["text"], t["weight"]) for t in chunk] == [("a", 1.0), ("red", 1.5), ("pear", 1.0)]
    assert chunk[0]["id"] == 320


def test_brackets_mean_what_the_emphasis_says(reader: Reader) -> None:
    told = reader.reading("a (red:1.5) pear", 20, Emphasis.NONE)
    assert all(t["weight"] == 1 for t in told["parts"][0]["chunks"][0])
    assert told["tokens"] > 3


def test_a_long_prompt_and_break_open_another_chunk(reader: Reader) -> None:
    assert reader.reading("word " * 80, 20)["room"] == 150
    told = reader.reading("one BREAK two", 20)
    assert [len(chunk) for chunk in told["parts"][0]["chunks"]] == [1, 1]


def test_and_makes_parts_with_weights(reader: Reader) -> None:
    assert len(reader.reading("a cat AND a dog:0.5", 20)["parts"]) == 2


def test_networks_are_looked_up(reader: Reader) -> None:
    told = reader.reading("a cat <lora:style:0.8> <lora:other:1> <magic:x>", 20)["networks"]
    problems = {one["tag"]: one["problem"] for one in told}
    assert problems["<lora:style:0.8>"] == ""
    assert "no LoRA named 'other'" in problems["<lora:other:1>"]
    assert "no such kind" in problems["<magic:x>"]
    assert reader.reading("[<lora:style:1>|x]", 20)["networks"][0]["problem"]


def test_embeddings_are_found_by_name(reader: Reader) -> None:
    told = reader.reading("a glimmer of an apple", 20)
    assert told["tokens"] == 3 + 1 + 2 + 1
    assert {e["name"]: (e["vectors"], e["is_ordinary"]) for e in told["embeddings"]} == {
        "glimmer": (3, False),
        "apple": (1, True),
    }
    (chunk,) = told["parts"][0]["chunks"]
    assert [(t.get("vector"), t["text"]) for t in chunk][1:4] == [
        (1, "glimmer"),
        (2, "glimmer"),
        (3, "glimmer"),
    ]


@pytest.mark.parametrize("text", ["", " ", "[", "\x00", "\ud83d", "((((" * 500])
def test_any_text_has_a_reading(text: str, reader: Reader) -> None:
    assert reader.reading(text, 1)["room"] >= 75
