"""Encoders are transformers' to the bit, whatever layout their weights come in."""

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from core.errors import FileError, RequestError
from core.text.encoders import SideBySide, clip_text_model, open_clip_text_model
from core.text.prompt import Part
from core.text.tokenizer import END, Tokenizer
from tests.core.text import tiny

MODEL = tiny.text_model()
IDS = torch.tensor(
    [Tokenizer().chunks(Part(text))[0].ids for text in ("a red cat", "", "dog " * 75)]
)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_an_encoder_is_transformers_own():
    encoded = clip_text_model(tiny.weights(MODEL), tiny.HEADS)(IDS)
    assert torch.equal(encoded.context, MODEL(IDS).last_hidden_state)
    assert encoded.pooled is None


def test_names_may_lack_their_prefix():
    bare = clip_text_model(MODEL.state_dict(), tiny.HEADS)(IDS)
    assert torch.equal(bare.context, MODEL(IDS).last_hidden_state)


def by_hand(ids: Tensor) -> Tensor:
    """The transformer of arXiv:2103.00020 written out once more."""
    own = MODEL.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * own[f"{name}.weight"] + own[f"{name}.bias"]

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = (
            rearrange(linear(x, f"{name}.{part}_proj"), "b n (h d) -> b h n d", h=tiny.HEADS)
            for part in "qkv"
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(77, 77).triu(1).bool(), -torch.inf)
        out = rearrange(scores.softmax(-1) @ v, "b h n d -> b n (h d)")
        return linear(out, f"{name}.out_proj")

    def feed_forward(x: Tensor, name: str) -> Tensor:
        inner = linear(x, f"{name}.fc1")
        return linear(inner * torch.sigmoid(1.702 * inner), f"{name}.fc2")

    x = functional.embedding(ids, own["embeddings.token_embedding.weight"])
    x = x + own["embeddings.position_embedding.weight"]
    for i in range(tiny.LAYERS):
        layer = f"encoder.layers.{i}"
        x = x + attention(norm(x, f"{layer}.layer_norm1"), f"{layer}.self_attn")
        x = x + feed_forward(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp")
    return norm(x, "final_layer_norm")


def test_an_encoder_equals_the_formula():
    encoded = clip_text_model(tiny.weights(MODEL), tiny.HEADS)(IDS)
    assert distance(encoded.context, by_hand(IDS)) < 1e-5


def test_clip_skip_norms_an_earlier_layer():
    encoder = clip_text_model(tiny.weights(MODEL), tiny.HEADS)
    hidden = MODEL(IDS, output_hidden_states=True).hidden_states
    for skip in (2, 3):
        expected = MODEL.final_layer_norm(hidden[-skip])
        assert torch.equal(encoder(IDS, clip_skip=skip).context, expected)
    for skip in (0, 4):
        with pytest.raises(RequestError, match="1 to 3"):
            encoder(IDS, clip_skip=skip)


def test_open_clip_is_read_one_layer_early_and_padded_with_0():
    """SD 2: the penultimate layer with the final norm, so that clip skip 1 and 2 are the same."""
    model = tiny.text_model("gelu")
    padded = torch.where((IDS == END).cumsum(-1) > 1, 0, IDS)
    hidden = model(padded, output_hidden_states=True).hidden_states
    encoder = open_clip_text_model(tiny.open_clip_weights(model, torch.eye(tiny.WIDTH)), tiny.HEADS)
    assert torch.equal(encoder(IDS).context, model.final_layer_norm(hidden[-2]))
    assert torch.equal(encoder(IDS, clip_skip=2).context, encoder(IDS).context)
    assert encoder(IDS).pooled is None


def test_xl_reads_both_without_norm_and_pools_the_second():
    model, projection = tiny.text_model("gelu"), torch.randn(tiny.WIDTH, 8)
    first = clip_text_model(tiny.weights(MODEL), tiny.HEADS, layer=-2, final_norm=False)
    second = open_clip_text_model(
        tiny.open_clip_weights(model, projection), tiny.HEADS, final_norm=False, pooled=True
    )
    encoded = SideBySide([first, second])(IDS)
    padded = torch.where((IDS == END).cumsum(-1) > 1, 0, IDS)
    out = model(padded, output_hidden_states=True)
    narrow = MODEL(IDS, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(encoded.context, torch.cat([narrow, out.hidden_states[-2]], dim=-1))
    assert torch.equal(encoded.pooled, out.pooler_output @ projection)
    assert torch.equal(second(IDS, clip_skip=3).pooled, encoded.pooled)


def test_a_linear_projection_is_the_transpose_of_a_bare_one():
    bare = tiny.open_clip_weights(MODEL, torch.randn(tiny.WIDTH, 8))
    linear = dict(bare)
    linear["text_projection.weight"] = linear.pop("text_projection").T
    one, other = (open_clip_text_model(w, tiny.HEADS, pooled=True)(IDS) for w in (bare, linear))
    assert torch.equal(one.pooled, other.pooled)


def test_weights_keep_their_names_dtype_and_memory():
    weights = {name: weight.bfloat16() for name, weight in tiny.weights(MODEL).items()}
    del weights["text_model.embeddings.position_ids"]
    own = clip_text_model(weights, tiny.HEADS).state_dict()
    assert {name: weight.data_ptr() for name, weight in own.items()} == {
        name: weight.data_ptr() for name, weight in weights.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("text_model.final_layer_norm.bias"), "lacks final_layer_norm.bias"),
        (lambda w: w.pop("text_model.embeddings.token_embedding.weight"), "lacks embeddings"),
        (lambda w: w.clear(), "it has nothing"),
        (lambda w: w.update(strange=torch.zeros(1)), "not its own: strange"),
        (
            lambda w: w.update({"text_model.encoder.layers.1.mlp.fc1.bias": torch.zeros(5)}),
            "wrong shape: encoder.layers.1.mlp.fc1.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    weights = tiny.weights(MODEL)
    change(weights)
    with pytest.raises(FileError, match=message):
        clip_text_model(weights, tiny.HEADS)
