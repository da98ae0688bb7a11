"""`<lora:…>` in a prompt: names, weights, times."""

from __future__ import annotations

import pytest

from core.errors import RequestError
from core.text.networks import HYPERNET, LORA, NetworkUse, networks


def only(text: str, steps: int = 20) -> NetworkUse:
    (use,) = networks(text, steps).uses
    return use


@pytest.mark.parametrize(
    ("tag", "use"),
    [
        ("<lora:style>", NetworkUse(LORA, "style")),
        ("<lora:style:0.8>", NetworkUse(LORA, "style", 0.8)),
        ("<lora:my folder/style v2:-1>", NetworkUse(LORA, "my folder/style v2", -1.0)),
        ("<lora:style:0.5:0.9>", NetworkUse(LORA, "style", 0.9, 0.5)),
        ("<lora:style:te=0.5:unet=0.9>", NetworkUse(LORA, "style", 0.9, 0.5)),
        ("<lora:style:unet=0.9>", NetworkUse(LORA, "style", 0.9, 1.0)),
        ("<lora:style:te=0.5>", NetworkUse(LORA, "style", 0.5)),
        ("<lyco:style:0.5>", NetworkUse(LORA, "style", 0.5)),
        ("<lora:style:1:start=0.2:end=0.7>", NetworkUse(LORA, "style", start=0.2, end=0.7)),
        ("<lora:style:1:blocks=1,0,0.5>", NetworkUse(LORA, "style", blocks=(1.0, 0.0, 0.5))),
        ("<lora:style:1:lbw=1,0,0.5>", NetworkUse(LORA, "style", blocks=(1.0, 0.0, 0.5))),
        ("<hypernet:style:0.5>", NetworkUse(HYPERNET, "style", 0.5)),
        ("[<lora:style:1>::0.5]", NetworkUse(LORA, "style", end=0.5)),
        ("[<lora:style:1>:0.5]", NetworkUse(LORA, "style", start=0.5)),
        ("[<lora:style:1>::5]", NetworkUse(LORA, "style", end=0.25)),
        ("[a:<lora:style:1>:5]", NetworkUse(LORA, "style", start=0.25)),
        ("[[<lora:style:1>:0.25]::0.75]", NetworkUse(LORA, "style", start=0.25, end=0.75)),
        ("[<lora:style:1:start=0.3>::0.5]", NetworkUse(LORA, "style", start=0.3, end=0.5)),
        ("([a <lora:style:1>::0.5]:1.2) AND b", NetworkUse(LORA, "style", end=0.5)),
        ("[<lora:style:1>::1.5]", NetworkUse(LORA, "style")),
    ],
)
def test_each_way_of_asking(tag: str, use: NetworkUse) -> None:
    assert only(tag) == use
    assert only(f"a \ue000 cat {tag} on a [red|blue] mat") == use


def test_what_is_left_is_the_prompt_without_tags() -> None:
    found = networks("a <lora:x:1>cat [<lora:y:1>::0.5], <foo:bar> <b", 20)
    assert found.text == "a cat [::0.5],  <b"
    assert [use.name for use in found.uses] == ["x", "y"]
    assert [tag.kind for tag in found.unknown] == ["foo"]


def test_one_ends_where_the_other_begins() -> None:
    one, other = networks("[<lora:a:1>:<lora:b:1>:0.4]", 10).uses
    assert (one.name, one.start, one.end) == ("a", 0.0, 0.4)
    assert (other.name, other.start, other.end) == ("b", 0.4, 1.0)
    for passed in range(10):
        assert one.acts(passed, 10) != other.acts(passed, 10)
        assert one.acts(passed, 10) == (passed < 4)


@pytest.mark.parametrize("steps", [1, 3, 7, 20, 49, 150])
def test_whole_steps_survive_being_shares(steps: int) -> None:
    for step in range(1, steps):
        use = only(f"[<lora:a:1>::{step}]", steps)
        assert [use.acts(passed, steps) for passed in range(steps)] == [
            passed < step for passed in range(steps)
        ]


def test_a_lora_that_never_acts_is_left_out() -> None:
    assert networks("[<lora:a:1>::0]", 20).uses == ()
    assert networks("[<lora:a:1:end=0.5>:0.6]", 20).uses == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[<lora:a:1>|<lora:b:1>]", "can't alternate with something else at every step"),
        ("[a|[b <lora:a:1>::0.5]]", "can't alternate"),
        ("<lora:a:x>", "'x' must be a number from -100 to 100"),
        ("<lora:a:nan>", "'nan' must be a number"),
        ("<lora:a:1e9>", "must be a number from -100 to 100"),
        ("<lora:a:1:start=2>", "'2' must be a number from 0 to 1"),
        ("<lora:a:1:what=2>", "'what' is not known; there are: te, unet, start, end, blocks, lbw"),
        ("<lora:a:1:1:8>", "dyn, which cuts a LoRA down to a smaller rank, is not done here"),
        ("<lora:a:1:dyn=8>", "dyn"),
        ("<lora:a:1:1:1:1>", "has 4 numbers"),
        ("<lora: :1>", "has no name"),
        ("<lora:a:1:lbw=ALL>", "'ALL' must be a number"),
        ("[<hypernet:a:1>::0.5]", "acts over the whole run"),
    ],
)
def test_what_can_not_be_is_said(text: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        networks(text, 20, "negative_prompt")
    assert caught.value.field == "negative_prompt"


@pytest.mark.parametrize("text", ["", "[" * 5000, "<lora:a:1>" * 500, "[<lora:a:1>:" * 3000])
def test_any_text_is_read_in_time(text: str) -> None:
    networks(text, 20)
