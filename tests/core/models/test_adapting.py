"""What is remembered of embeddings from request to request is never an old one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors.torch import save_file

from core.models.adapting import Adapting, Latest
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.request import GenerationRequest
from core.settings import default_settings
from core.text.tokenizer import Tokenizer

WIDTH = 768


def write(path: Path, value: float, count: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.full((count, WIDTH), value)}, path)
    os.utime(path, ns=(0, round(value) * 10**9))


def model() -> Checkpoint:
    text = SimpleNamespace(widths=(WIDTH,))
    return cast(Checkpoint, SimpleNamespace(tokenizer=Tokenizer(), text=text))


def test_the_latest_answer_is_given_again_to_the_same_things_alone() -> None:
    made: list[int] = []
    latest, thing = Latest(), object()

    def answer() -> int:
        made.append(len(made))
        return made[-1]

    same: list[Any] = ["a word", 20, thing]
    assert [latest.of(same, answer), latest.of(["a " + "word", 20, thing], answer)] == [0, 0]
    for number, other in enumerate(
        (["a word", 21, thing], ["a word", 21, object()], ["a word", 21], same), start=1
    ):
        assert latest.of(other, answer) == number


def test_an_answer_that_failed_is_asked_for_anew() -> None:
    latest = Latest()
    for _ in range(2):
        try:
            latest.of(["a"], lambda: 1 // 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("it was not asked")
    assert latest.of(["a"], lambda: 5) == 5


def test_an_embedding_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "models/embeddings/mywords.safetensors"
    write(file, 1.0)
    catalog = Catalog(replace(default_settings(tmp_path), models_dir=tmp_path / "models"))
    adapting, wearer = Adapting(catalog), model()
    request = GenerationRequest(prompt="a mywords apple")
    first = adapting.embeddings(wearer, request)
    assert adapting.embeddings(wearer, request) is first
    assert first.vectors["mywords"][0].unique().tolist() == [1.0]
    write(file, 2.0)
    again = adapting.embeddings(wearer, request)
    assert again.vectors["mywords"][0].unique().tolist() == [2.0]
    assert [one.path for one in adapting.named(request)] == [file]
    file.unlink()
    assert adapting.embeddings(wearer, request).vectors == {}
    assert adapting.named(request) == ()


def test_another_prompt_names_others(tmp_path: Path) -> None:
    for name in ("firstone", "secondone"):
        write(tmp_path / f"models/embeddings/{name}.safetensors", 1.0)
    catalog = Catalog(replace(default_settings(tmp_path), models_dir=tmp_path / "models"))
    adapting, wearer = Adapting(catalog), model()
    for prompt, negative, names in (
        ("a firstone", "", {"firstone"}),
        ("a secondone", "", {"secondone"}),
        ("a secondone", "firstone", {"firstone", "secondone"}),
        ("an apple", "", set()),
    ):
        request = GenerationRequest(prompt=prompt, negative_prompt=negative)
        assert set(adapting.embeddings(wearer, request).vectors) == names
        assert {one.embedding.name for one in adapting.named(request)} == names
