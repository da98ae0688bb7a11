"""What encoding a prompt keeps: chunks alone, steps apart, weights where they were typed."""

import pytest
import torch
from torch import Tensor

from core.request import Emphasis
from core.sampling.conditioning import Conditioning, PromptOverTime
from core.text.encode import Encodings, encode, weighed
from core.text.encoders import Encoded, clip_text_model
from core.text.prompt import Counting, Part
from core.text.tokenizer import Tokenizer
from tests.core.text import tiny

TOKENIZER = Tokenizer()
ENCODER = clip_text_model(tiny.weights(tiny.text_model()), tiny.HEADS)


def encoded(
    prompt: str, negative: str = "", steps: int = 4, emphasis: Emphasis = Emphasis.ORIGINAL
) -> tuple[PromptOverTime, PromptOverTime]:
    return encode(prompt, negative, ENCODER, steps, tokenizer=TOKENIZER, emphasis=emphasis)


def context(prompt: str, negative: str = "", **options: Emphasis) -> Tensor:
    ((conditioning, _),) = encoded(prompt, negative, **options)[0].at(0)
    return conditioning.context


def chunk(text: str) -> Tensor:
    """One chunk straight from the encoder."""
    return ENCODER(torch.tensor([TOKENIZER.chunks(Part(text))[0].ids])).context


def test_each_chunk_is_encoded_alone():
    whole = context("red BREAK a blue cat BREAK dog")
    assert whole.shape == (1, 3 * 77, tiny.WIDTH)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, torch.cat([chunk("red"), chunk("a blue cat"), chunk("dog")], dim=1))


def test_both_prompts_are_filled_up_to_the_same_length():
    positive, negative = encoded("a BREAK b [x:y BREAK z:2] AND short", "ugly")
    lengths = {
        conditioning.context.shape[1]
        for prompt in (positive, negative)
        for index in range(4)
        for conditioning, _ in prompt.at(index)
    }
    assert lengths == {3 * 77}
    ((ugly, _),) = negative.at(0)
    assert torch.equal(ugly.context, torch.cat([chunk("ugly"), chunk(""), chunk("")], dim=1))


def test_wording_follows_the_steps():
    """The same words are the same object. As in A1111 what holds up to step 3 holds for 0 to 3."""
    positive, negative = encoded("a [cat:dog:3]", steps=5)
    cats = [positive.at(i)[0][0] for i in range(4)]
    assert cats[0] is cats[1] is cats[2] is cats[3]
    assert torch.equal(cats[0].context, chunk("a cat"))
    assert torch.equal(positive.at(4)[0][0].context, chunk("a dog"))
    assert negative.at(0)[0][0] is negative.at(4)[0][0]


def test_steps_are_counted_as_the_walk_says():
    """Two calls a step: half way through twenty calls is the start of the sixth interval."""
    counting = Counting(20, tuple(range(0, 20, 2)))
    positive, _ = encode("[cat:dog:.5]", "", ENCODER, 10, tokenizer=TOKENIZER, counting=counting)
    said = [torch.equal(positive.at(i)[0][0].context, chunk("cat")) for i in range(10)]
    assert said == [True] * 6 + [False] * 4


class Asked:
    """The encoder, and how often it was asked."""

    device = ENCODER.device

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, ids: Tensor, clip_skip: int = 1) -> Encoded:
        self.times += 1
        return ENCODER(ids, clip_skip)


def test_each_distinct_chunk_is_encoded_once():
    asked = Asked()
    encode("[a|b] BREAK same AND (same:1.2)", "", asked, 20, tokenizer=TOKENIZER)
    assert asked.times == 4  # a, b, same, and the empty one


def test_what_was_encoded_before_is_not_encoded_again_until_it_is_forgotten():
    asked, encodings = Asked(), Encodings(room=3)

    def times(prompt: str, clip_skip: int = 1) -> int:
        before = asked.times
        positive, _ = encode(
            prompt, "", asked, 2, tokenizer=TOKENIZER, clip_skip=clip_skip, encodings=encodings
        )
        fresh, _ = encode(prompt, "", ENCODER, 2, tokenizer=TOKENIZER, clip_skip=clip_skip)
        assert torch.equal(positive.at(0)[0][0].context, fresh.at(0)[0][0].context)
        return asked.times - before

    assert times("a cat") == 2  # and the empty one
    assert times("(a cat:1.3)") == 0  # weights come later
    assert times("a cat", clip_skip=2) == 2
    assert times("a cat") == 2  # room is for three chunks
    encodings.forget()
    assert times("a cat") == 2


def test_and_keeps_its_weights():
    positive, negative = encoded("cat AND dog:0.5", "x AND y:0.5")
    assert [weight for _, weight in positive.at(0)] == [1.0, 0.5]
    assert [weight for _, weight in negative.at(0)] == [1.0]


@pytest.mark.parametrize("emphasis", [e for e in Emphasis if e is not Emphasis.NONE])
def test_weights_of_1_change_no_bit(emphasis):
    cat = "cat" if emphasis is Emphasis.COMFY else "([cat])"
    assert torch.equal(context(f"a (red:1.0) {cat}", emphasis=emphasis), chunk("a red cat"))


def test_weights_multiply_their_own_tokens():
    plain = chunk("a red cat")
    scaled = context("a (red:1.5) cat", emphasis=Emphasis.NO_NORM)
    assert torch.equal(scaled[:, 2], plain[:, 2] * 1.5)
    others = [i for i in range(77) if i != 2]
    assert torch.equal(scaled[:, others], plain[:, others])


def test_original_emphasis_restores_the_mean_of_each_chunk():
    both = context("a (red:1.5) cat BREAK (dog:0.3)")
    first, second = both.split(77, dim=1)
    for weighted, plain in ((first, chunk("a red cat")), (second, chunk("dog"))):
        assert float(weighted.mean()) == pytest.approx(float(plain.mean()), rel=1e-4)
    assert torch.equal(first, context("a (red:1.5) cat"))


def test_a_mean_of_nothing_is_left_alone():
    silent = weighed(torch.ones(1, 2, 1), [1.0, -1.0], Emphasis.ORIGINAL)
    assert silent.flatten().tolist() == [1.0, -1.0]


def test_ignored_emphasis_drops_weights():
    assert torch.equal(context("a (red:1.5) [cat]", emphasis=Emphasis.IGNORE), chunk("a red cat"))


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.7, -1.0])
def test_comfys_weights_move_tokens_away_from_the_empty_prompt(weight):
    """A naive loop over positions; what is not weighted keeps every bit."""
    scaled = context(f"a (red:{weight}) cat", emphasis=Emphasis.COMFY)
    plain, empty = chunk("a red cat"), chunk("")
    expected = plain.clone()
    for d in range(plain.shape[2]):
        expected[0, 2, d] = (plain[0, 2, d] - empty[0, 2, d]) * weight + empty[0, 2, d]
    assert torch.allclose(scaled, expected, atol=1e-6)
    others = [i for i in range(77) if i != 2]
    assert torch.equal(scaled[:, others], plain[:, others])


def test_comfy_measures_each_chunk_from_an_empty_one():
    words = " ".join(["word"] * 75)
    both = context(f"{words} (red:0)", emphasis=Emphasis.COMFY)
    assert torch.equal(both[:, :77], chunk(words))
    assert torch.allclose(both[:, 78], chunk("")[:, 1], atol=1e-6)


def test_comfy_keeps_words_together():
    """ "unbelievablexyz" has fewer than 8 tokens, "xqzj…" more: the one moves, the other is cut."""
    small, long = "unbelievablexyz", "xqzjkvwpqxzjqkxvzw"
    (count,) = [len(TOKENIZER.chunks(Part(small))[0].tokens)]
    assert 2 <= count < 8 <= len(TOKENIZER.chunks(Part(long))[0].tokens)
    for word, first in ((small, 74), (long, 75)):
        part = Part(" ".join(["a"] * 74 + [word]), emphasis=Emphasis.COMFY)
        assert len(TOKENIZER.chunks(part)[0].tokens) == first
    part = Part("a , " * 40, emphasis=Emphasis.COMFY)
    assert len(TOKENIZER.chunks(part)[0].tokens) == 75  # commas do not count


def test_brackets_without_emphasis_are_read_as_tokens():
    literal = context("a (red:1.5)", emphasis=Emphasis.NONE)
    ids = torch.tensor([TOKENIZER.chunks(Part(r"a \(red:1.5\)"))[0].ids])
    assert torch.equal(literal, ENCODER(ids).context)


def test_half_precision_encoders_give_float32():
    half = clip_text_model(
        {name: w.bfloat16() for name, w in tiny.weights(tiny.text_model()).items()}, tiny.HEADS
    )
    positive, _ = encode("a (cat)", "", half, 1)
    assert positive.at(0)[0][0].context.dtype == torch.float32


def test_stacked_conditionings_are_rows_in_order():
    one, two = (Conditioning(torch.full((1, 2, 3), x), torch.full((1, 4), x)) for x in (1.0, 2.0))
    both = Conditioning.stacked([one.repeated(2), two])
    assert both.context[:, 0, 0].tolist() == [1.0, 1.0, 2.0]
    assert both.pooled is not None and both.pooled.shape == (3, 4)
    assert both.concat is None
