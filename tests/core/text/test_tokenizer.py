"""Ids are CLIP's, and chunks keep every token, in order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.attention import Segment
from core.text.prompt import Part
from core.text.tokenizer import BACKTRACK, CHUNK, COMMA, END, START, Chunk, Tokenizer

TOKENIZER = Tokenizer()
CAT, DOG = 2368, 1929


def ids(text: str) -> list[int]:
    return [token.id for token in TOKENIZER.tokens(Segment(text))]


def chunks(text: str) -> tuple[Chunk, ...]:
    return TOKENIZER.chunks(Part(text))


def lengths(text: str) -> list[int]:
    return [len(chunk.tokens) for chunk in chunks(text)]


@pytest.fixture(scope="module")
def transformers_ids():
    from transformers import CLIPTokenizer

    from core.text import tokenizer

    folder = tokenizer._VOCABULARY
    theirs = CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    return lambda text: theirs(text, add_special_tokens=False)["input_ids"]


def test_a_known_sentence_has_its_known_ids():
    assert ids("a photo of a cat") == [320, 1125, 539, 320, CAT]
    assert ids("A  Photo\nof a CAT") == [320, 1125, 539, 320, CAT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n\u00a0\u3000",
        "it's they're we'd I'll O'Brien's",
        "café cafe\u0301 naïve ﬁancée Straße İstanbul ſ",
        "猫が日本で 한국어 고양이 кошка قطة",
        "👩‍👩‍👧 🇫🇷 🐱🐱 ☕️",
        "1234 3.14 ½ x² 10x20",
        "masterpiece,,, best-quality!!! (wow) [x] <lora:a:1> __w__ \\o/",
        "supercalifragilisticexpialidocious" * 20,
        "<|startoftext|>a<|endoftext|> <|ENDOFTEXT|>",
        "\x00\u200b\ufeff\u202e",
    ],
)
def test_ids_are_those_of_transformers(text, transformers_ids):
    assert ids(text) == transformers_ids(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_ids_of_any_text_are_those_of_transformers(transformers_ids, text):
    assert ids(text) == transformers_ids(text)


def test_half_a_character_is_read_as_a_replacement():
    assert ids("a \ud800 b") == ids("a \ufffd b")


def test_tokens_remember_their_text_and_weight():
    tokens = chunks("A (Café:1.3)")[0].tokens
    assert [(token.text, token.weight) for token in tokens] == [("A", 1.0), ("Café", 1.3)]


def test_a_chunk_is_77_ids_and_weights():
    (chunk,) = chunks("(cat:1.5) dog")
    assert chunk.ids == (START, CAT, DOG) + (END,) * 74
    assert chunk.weights == (1.0, 1.5) + (1.0,) * 75
    assert chunks("") == (Chunk(),)
    assert Chunk().ids == (START,) + (END,) * 76


def test_chunks_are_filled_with_75():
    assert lengths("cat " * 75) == [75]
    assert lengths("cat " * 76) == [75, 1]
    assert lengths("cat " * 151) == [75, 75, 1]


@pytest.mark.parametrize("after", range(30))
def test_a_phrase_near_the_end_moves_to_the_next_chunk(after):
    """`after` words stand between the comma and the first chunk's end."""
    text = "cat " * (CHUNK - 1 - after) + ", " + "dog " * (after + 1)
    moved = after if after < BACKTRACK else 0
    assert lengths(text) == [CHUNK - moved, moved + 1]


def test_a_comma_that_overflows_stays_with_what_follows():
    first, second = chunks("cat, " * 37 + "cat , dog")
    assert len(first.tokens) == CHUNK
    assert [token.id for token in second.tokens] == [COMMA, DOG]


def test_break_ends_a_chunk():
    assert lengths("cat BREAK dog dog") == [1, 2]
    assert lengths("cat BREAK BREAK dog") == [1, 0, 1]
    assert lengths("cat BREAK") == [1]
    assert lengths("BREAK cat") == [0, 1]
    assert lengths("cat " * 75 + "BREAK dog") == [75, 1]


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(["cat", "dog", ",", "a"]), max_size=400))
def test_chunks_keep_every_token_in_order(words):
    text = " ".join(words)
    read = chunks(text)
    assert [token.id for chunk in read for token in chunk.tokens] == ids(text)
    assert all(len(chunk.ids) == len(chunk.weights) == CHUNK + 2 for chunk in read)
    assert all(CHUNK - BACKTRACK < len(chunk.tokens) <= CHUNK for chunk in read[:-1])


def test_count_is_the_most_of_any_step_and_side():
    count = TOKENIZER.count("cat AND [dog|dog dog dog]")
    assert (count.tokens, count.room) == (3, 75)
    count = TOKENIZER.count("cat BREAK dog")
    assert (count.tokens, count.room) == (76, 150)
    assert TOKENIZER.count("").tokens == 0
