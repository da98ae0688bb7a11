"""What the page says of how a prompt is read."""

from __future__ import annotations

import pytest

from webui.reading import Reader

READER = Reader()


def test_tokens_carry_their_ids_words_and_weights() -> None:
    told = READER.reading("a (red:1.5) apple", 20)
    assert (told["tokens"], told["room"]) == (3, 75)
    ((chunk,),) = [part["chunks"] for part in told["parts"]]
    assert [(t["text"], t["weight"]) for t in chunk] == [("a", 1.0), ("red", 1.5), ("apple", 1.0)]
    assert chunk[0]["id"] == 320


def test_a_long_prompt_and_break_open_another_chunk() -> None:
    assert READER.reading("word " * 80, 20)["room"] == 150
    told = READER.reading("one BREAK two", 20)
    assert [len(chunk) for chunk in told["parts"][0]["chunks"]] == [1, 1]


def test_and_makes_parts_with_weights_and_tags_are_set_aside() -> None:
    told = READER.reading("a cat AND a dog:0.5 <lora:style:0.8>", 20)
    assert len(told["parts"]) == 2
    assert told["left_out"] == ["<lora:style:0.8>"]


@pytest.mark.parametrize("text", ["", " ", "[", "\x00", "\ud83d", "((((" * 500])
def test_any_text_has_a_reading(text: str) -> None:
    assert READER.reading(text, 1)["room"] >= 75
