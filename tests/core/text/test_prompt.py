"""The grammar reads what A1111 documents, and anything else without complaint."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.request import Emphasis
from core.text.attention import MAX_WEIGHT, emphasised
from core.text.prompt import Counting, Prompt, read

STEPS = 10


def weighed(text: str) -> list[list[tuple[str, float]]]:
    return [[(s.text, s.weight) for s in block] for block in emphasised(text)]


def worded(text: str, counting: Counting | None = None) -> list[str]:
    """The wording of a prompt without AND: at each step from 1, as A1111 documents schedules."""
    counting = counting or Counting(STEPS, tuple(range(1, STEPS + 1)))
    prompt = read(text)
    return [
        part.text for index in range(len(counting.passed)) for part in prompt.at(index, counting)
    ]


def over_steps(*until: tuple[int, str]) -> list[str]:
    """A1111's way to write a schedule: the last step of each wording, and the wording."""
    words: list[str] = []
    for step, wording in until:
        words += [wording] * (step - len(words))
    return words


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
    ],
)
def test_attention_is_read_as_a1111_documents_it(text, segments):
    assert weighed(text) == [segments]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", []),
        ("[x]", [("x", 1 / 1.1)]),
        ("a)b]", [("a)b]", 1.0)]),
        ("x:1.3)", [("x:1.3)", 1.0)]),
        ("(x: 1.3 )", [("x", 1.3)]),
        ("(x:-0.5)", [("x", -0.5)]),
        ("(x:1.2.3)", [("x:1.2.3", 1.1)]),
        ("([a)b]", [("a", 1.1 / 1.1), ("b", 1 / 1.1)]),
        (r"\\\(a\\", [("\\(a\\", 1.0)]),
        (r"a\b", [("ab", 1.0)]),
    ],
)
def test_attention_takes_odd_text(text, segments):
    assert weighed(text) == [segments]


def test_weights_stay_finite():
    ((segment,),) = emphasised(f"((x:{'9' * 400}):{'9' * 400})")
    assert segment.weight == MAX_WEIGHT


def test_break_separates_blocks_and_eats_space():
    assert weighed("a BREAK  b") == [[("a", 1.0)], [("b", 1.0)]]
    assert weighed("BREAK BREAK") == [[], [], []]
    assert weighed("UNBREAKABLE break") == [[("UNBREAKABLE break", 1.0)]]


def test_break_works_inside_brackets():
    assert weighed("(a BREAK b:1.5)") == [[("a", 1.5)], [("b", 1.5)]]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ],
)
def test_schedules_are_read_as_a1111_documents_them(text, until):
    assert worded(text) == over_steps(*until)


def test_alternatives_take_turns():
    assert worded("[a|(b:1.1)]") == ["a", "(b:1.1)"] * 5
    assert worded("[fe|]male") == ["female", "male"] * 5
    assert worded("[fe|||]male") == (["female", "male", "male", "male"] * 3)[:STEPS]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("[a::3]", [(3, "a"), (10, "")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:-1]", [(10, "b")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[a:b:99]", [(10, "a")]),
        ("[a:b:1e999]", [(10, "a")]),
        ("[a:b:0.29]", [(2, "a"), (10, "b")]),
        (r"[a\:b:c:3]", [(3, r"a\:b"), (10, "c")]),
        ("([a:b:3]:1.2)", [(3, "(a:1.2)"), (10, "(b:1.2)")]),
        ("[a|b:.5]", [(5, ""), (10, "a|b")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        ("[(a:3]", [(10, "[(a:3]")]),
        ("[x [a:b] y:3]", [(10, "[x [a:b] y:3]")]),
        ("a | b: [c:d:5]", [(5, "a | b: c"), (10, "a | b: d")]),
    ],
)
def test_schedules_take_odd_text(text, until):
    assert worded(text) == over_steps(*until)


def a1111(until: list[tuple[int, str]], calls: int) -> list[str]:
    """What A1111 tells the network at each call: the first wording whose end is not passed."""
    return [next(words for end, words in until if call <= end) for call in range(calls)]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b:0]", [(10, "a b")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("[a|b]", [(step, "ab"[(step - 1) % 2]) for step in range(1, 11)]),
    ],
)
@pytest.mark.parametrize("calls", [1, 2])
def test_a_walk_switches_at_the_call_at_which_a1111_does(text, until, calls):
    """One that asks the network twice a step has switched by the start of the next step."""
    intervals = STEPS // calls
    counting = Counting(STEPS, tuple(calls * index for index in range(intervals)))
    assert worded(text, counting) == a1111(until, STEPS)[::calls]


def test_steps_are_counted_evenly_where_nothing_else_is_said():
    prompt = read("[a:b:3]")
    said = [prompt.at(index, STEPS)[0].text for index in range(STEPS)]
    assert said == worded("[a:b:3]", Counting.evenly(STEPS)) == ["a"] * 4 + ["b"] * 6


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b:3] c", [(10, "a b c")]),
        ("a [b:24] c", [(4, "a  c"), (10, "a b c")]),
        ("[a|b]", [(step, "ab"[(step - 1) % 2]) for step in range(1, 11)]),
    ],
)
def test_a_second_pass_counts_on_from_the_first(text, until):
    """A1111's documented parses for ten steps after ten, here after twenty."""
    counting = Counting(10, tuple(range(1, 11)), pass_index=1, earlier=20)
    assert worded(text, counting) == over_steps(*until)


def test_the_first_pass_knows_nothing_of_the_second():
    assert worded("[a:b:1.5] [c:d:24]") == ["a c"] * STEPS


def sides(text: str, **options: bool) -> list[tuple[str, float]]:
    return [(part.text, part.weight) for part in read(text, **options).at(0, STEPS)]


def test_and_joins_weighted_prompts():
    assert sides("a cat AND a dog :0.5 AND x:-2") == [("a cat", 1.0), (" a dog", 0.5), (" x", -2.0)]
    assert sides("a BAND AND") == [("a BAND", 1.0), ("", 1.0)]
    assert sides("(a cat:1.2)") == [("(a cat:1.2)", 1.0)]


def test_and_is_a_word_in_a_negative_prompt():
    assert sides("a AND b:2", negative=True) == [("a AND b:2", 1.0)]


GRAMMAR = st.lists(
    st.sampled_from([*"ab ()[]:|\\.,1", ":3]", ":.5]", ":1.3)", "BREAK", " AND ", "\\("])
).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(st.text(), GRAMMAR),
    steps=st.integers(1, 5),
    emphasis=st.sampled_from(Emphasis),
)
def test_any_text_is_a_prompt(text, steps, emphasis):
    prompt = read(text, emphasis=emphasis)
    assert isinstance(prompt, Prompt)
    for index in range(steps):
        parts = prompt.at(index, steps)
        assert parts
        for part in parts:
            assert part.blocks
            assert all(abs(s.weight) <= MAX_WEIGHT for block in part.blocks for s in block)


@settings(max_examples=100, deadline=None)
@given(text=GRAMMAR)
def test_reading_only_takes_away(text):
    """No wording holds a character that was not typed, in another order or more often."""
    for part in read(text, negative=True).at(0, STEPS):
        typed = iter(text)
        assert all(character in typed for character in part.text)


@pytest.mark.parametrize("emphasis", Emphasis)
@pytest.mark.parametrize(
    "piece",
    ["(", "[", "(a", "[a|", "[a:", ":3]", "a:", " ", "\\", ": ", ":1 ", "(a:1.1)", "BREAK ", ")("],
)
def test_long_and_deep_text_takes_no_longer_than_it_should(piece, emphasis):
    """Quadratic time or recursion would not come back, or fail."""
    begun = time.process_time()
    for part in read(piece * (60_000 // len(piece)), emphasis=emphasis).at(3, STEPS):
        assert part.blocks
    assert time.process_time() - begun < 5


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(min_size=1), GRAMMAR), emphasis=st.sampled_from(Emphasis))
def test_any_text_is_read_in_milliseconds(text, emphasis):
    """A prompt of two thousand letters, made of whatever comes."""
    text = (text * 2000)[:2000]
    spent = []
    for _ in range(3):  # the quickest, since others use this processor too
        begun = time.process_time()
        for part in read(text, emphasis=emphasis).at(0, 1):
            assert part.blocks
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.1


def comfy(text: str) -> list[tuple[str, float]]:
    (block,) = emphasised(text, Emphasis.COMFY)
    return [(segment.text, segment.weight) for segment in block]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", []),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (b:1.3) c:0.5)", [("a ", 0.5), ("b", 1.3), (" c", 0.5)]),
        ("(a (b) c:0.5)", [("a ", 0.5), ("b", 0.5 * 1.1), (" c", 0.5)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("[a|b] BREAK c AND d", [("[a|b] BREAK c AND d", 1.0)]),
        (r"\(a\) (b\):1.2)", [("(a) ", 1.0), ("b)", 1.2)]),
        ("(a:1.0)b", [("a", 1.0), ("b", 1.0)]),
        ("x (a b", [("x ", 1.0), ("(a b", 1.0)]),
        ("a) (b)", [("a) (b)", 1.0)]),
        ("()", []),
    ],
)
def test_comfys_brackets_are_read_as_there(text, segments):
    assert comfy(text) == segments


def naive_comfy(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """The same, letter by letter and by recursion."""
    pieces, current, depth = [], "", 0
    for letter in text:
        if letter == "(" and depth == 0:
            pieces, current = [*pieces, current], ""
        current += letter
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and depth == 0:
            pieces, current = [*pieces, current], ""
    found = []
    for piece in [*pieces, current]:
        if len(piece) < 2 or (piece[0], piece[-1]) != ("(", ")"):
            found += [(piece, weight)] if piece else []
            continue
        inside, around = piece[1:-1], weight * 1.1
        words, _, number = inside.rpartition(":")
        if words and number.strip() in ("1.3", "0.5"):
            inside, around = words, float(number)
        found += naive_comfy(inside, around)
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"ab (((()))):", ":1.3)", ":0.5)"]), max_size=25).map("".join))
def test_comfys_brackets_nest_as_the_recursion_says(text):
    assert comfy(text) == naive_comfy(text)


def test_in_comfys_prompts_nothing_changes_over_time():
    (part,) = read("[a:b:3] AND (c:1.2)", emphasis=Emphasis.COMFY).at(5, STEPS)
    assert part.text == "[a:b:3] AND (c:1.2)"
    assert part.weight == 1.0


def test_without_emphasis_brackets_are_letters_but_schedules_hold():
    """A1111's "None": what is left of BREAK is a word, too."""
    (part,) = read(r"(a:1.3) \( [b:c:3] BREAK d", emphasis=Emphasis.NONE).at(9, STEPS)
    ((segment,),) = part.blocks
    assert segment.text == r"(a:1.3) \( c BREAK d"
    assert segment.weight == 1.0


def test_prompts_are_read_without_torch():
    code = "import sys, core.text.prompt, core.text.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
