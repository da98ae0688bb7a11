"""The laws of dynamic prompts: what is drawn, how often, and that drawing twice is drawing once."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import RequestError
from core.request import GenerationRequest
from extensions.wildcards.grammar import LENGTH, GrammarError, drawn
from tests.extensions.shipped import shipped

LISTS = {
    "colour": ["red", "green"],
    "nested": ["{dark|light} __colour__"],
    "loop": ["__pool__"],
    "pool": ["__loop__"],
    "deep/place": ["a hill"],
    "huge": ["x" * (LENGTH // 2)],
}


def every(text: str, times: int = 400) -> Counter[str]:
    return Counter(drawn(text, str(seed), LISTS) for seed in range(times))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a {b|c}", {"a b", "a c"}),
        ("{a|b {c|d}}", {"a", "b c", "b d"}),
        ("{2$$a|b}", {"a, b", "b, a"}),
        ("{1-2$$ and $$a|b}", {"a", "b", "a and b", "b and a"}),
        ("{9$$a|b}", {"a, b", "b, a"}),
        ("{0::a|b}", {"b"}),
        ("__colour__", {"red", "green"}),
        ("__nested__", {"dark red", "dark green", "light red", "light green"}),
        ("on __deep/place__", {"on a hill"}),
        ("{a}", {"{a}"}),
        ("{[a|b]|c}", {"[a|b]", "c"}),
        (r"\{a|b\}", {r"\{a|b\}"}),
        ("{a|b", {"{a|b"}),
        ("a|b}", {"a|b}"}),
        ("{|a}", {"", "a"}),
        ("a (fox:1.2) [b:c:3]", {"a (fox:1.2) [b:c:3]"}),
    ],
)
def test_every_prompt_that_a_text_stands_for_is_drawn(text: str, wanted: set[str]) -> None:
    found = every(text)
    assert set(found) == wanted
    for result in found:
        assert every(result, 5) == Counter({result: 5}), "drawing twice is drawing once"


def test_a_weight_is_how_often() -> None:
    found = every("{3::a|b}", 2000)
    assert found["a"] / found["b"] == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize("text", ["__loop__", "__nobody__", "__huge__ __huge__ __huge__"])
def test_what_can_not_be_drawn_is_said(text: str) -> None:
    with pytest.raises(GrammarError):
        drawn(text, "0", LISTS)


@pytest.mark.parametrize("piece", ["{", "{a|", "}", "__", "{a|b}", "\\", "[", "1$$", "{2$$"])
def test_long_prompts_take_no_longer_than_they_are(piece: str) -> None:
    began = time.perf_counter()
    drawn(piece * (LENGTH // len(piece)), "0", LISTS)
    assert time.perf_counter() - began < 2


def test_a_request_holds_what_was_drawn_from_its_seed(tmp_path: Path) -> None:
    mine = tmp_path / "extension-data" / "wildcards"
    mine.mkdir(parents=True)
    (mine / "mood.txt").write_text("calm  # remark\n\n# nothing\ncalm\n")
    registry = shipped(tmp_path).registry
    request = GenerationRequest(
        prompt="a __mood__ {red|blue} fox",
        negative_prompt="{fog|rain}",
        seed=5,
        extras=registry.checked({"wildcards": {}}),
    )
    once = registry.stepped(request)
    assert once.prompt in ("a calm red fox", "a calm blue fox")
    assert once.negative_prompt in ("fog", "rain")
    assert registry.stepped(once) == once == registry.stepped(request)
    unknown = GenerationRequest(prompt="__nobody__", seed=1, extras=request.extras)
    with pytest.raises(RequestError, match=r"no list named 'nobody'; there are: .*colour.*mood"):
        registry.stepped(unknown)


def test_each_image_is_told_what_its_own_seed_draws(tmp_path: Path) -> None:
    registry = shipped(tmp_path).registry
    extras = registry.checked({"wildcards": {}})
    text = "a {red|blue|green|grey} fox"
    many = GenerationRequest(prompt=text, seed=5, images=8, extras=extras)
    drawn_at_once = registry.stepped(many)
    assert registry.stepped(drawn_at_once) == drawn_at_once
    alone = [registry.stepped(replace(many, seed=5 + n, images=1)).prompt for n in range(8)]
    assert [told.prompt for told in drawn_at_once.prompts] == alone
    assert len(set(alone)) > 1 and drawn_at_once.prompt == alone[0]
    plain = GenerationRequest(prompt="a fox", seed=5, images=8, extras=extras)
    assert registry.stepped(plain) == plain
