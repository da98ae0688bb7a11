"""What attention need not do again: rows that are told apart by their text alone, keys and values
of a text that stays, three products where one does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from core.adapters import patch
from core.adapters.lora import lora
from core.adapters.patch import Kept, Use, patched
from core.nn import attention
from core.nn.attention import PLAIN, Attention, Site, Words, places_side_by_side
from core.nn.layers import Conv2d, side_by_side
from core.nn.unet import UNet, UNetConfig
from tests.core.nn.test_parity import TINY_UNETS
from tests.tiny import seeded, tiny_unet

ALIKE = [name for name, config in TINY_UNETS.items() if config.vector is None]
SELF, CROSS = Site("middle", 0, 0, "self"), Site("middle", 0, 0, "cross")


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(config: UNetConfig, pictures: int, texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, each with a timestep of its own, and so many texts for all of them."""
    x = drawn(pictures, config.in_channels, 12, 20)
    timestep = torch.linspace(21.5, 981, pictures)
    return x, timestep, drawn(pictures * texts, 7, config.context, seed=2)


def repeated(t: Tensor, times: int) -> Tensor:
    return t.repeat(times, *[1] * (t.dim() - 1))


# --- rows that are told apart by their text alone ------------------------------------------------


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize(("pictures", "texts"), [(1, 2), (2, 2), (2, 3), (3, 1)])
@torch.inference_mode()
def test_pictures_told_once_are_pictures_told_for_each_text(
    name: str, pictures: int, texts: int
) -> None:
    config = TINY_UNETS[name]
    unet = seeded(UNet(config), 0)
    x, timestep, context = given(config, pictures, texts)
    whole = unet(repeated(x, texts), repeated(timestep, texts), context)
    torch.testing.assert_close(unet(x, timestep, context), whole, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_what_comes_before_the_first_text_is_done_once() -> None:
    config = TINY_UNETS["sd1"]
    unet = seeded(UNet(config), 0)
    rows: list[int] = []

    def count(layer: nn.Module, taken: tuple[Tensor, ...], out: Tensor) -> None:
        rows.append(len(out))

    for layer in unet.modules():
        if isinstance(layer, Conv2d):
            layer.register_forward_hook(count)
    unet(*given(config, 2, 2))
    assert rows[:4] == [2, 2, 2, 2] and set(rows[4:]) == {4}


@torch.inference_mode()
def test_without_any_text_inside_there_are_as_many_answers() -> None:
    config = replace(TINY_UNETS["sd1"], depths=(0, 0, 0, 0), middle_depth=0)
    unet = seeded(UNet(config), 0)
    x, timestep, context = given(config, 2, 3)
    assert torch.equal(unet(x, timestep, context), repeated(unet(x, timestep, context[:2]), 3))


# --- keys and values that are kept ---------------------------------------------------------------


@pytest.mark.parametrize("name", ALIKE)
@torch.inference_mode()
def test_kept_words_change_no_bit(name: str) -> None:
    config = TINY_UNETS[name]
    unet = seeded(UNet(config), 0)
    x, timestep, context = given(config, 1, 2)
    keeping = replace(PLAIN, words=Words())
    for number in range(3):
        latents = x * (number + 1)
        kept = unet(latents, timestep, context, attending=keeping)
        assert torch.equal(kept, unet(latents, timestep, context))


@torch.inference_mode()
def test_a_text_for_several_pictures_is_kept_once() -> None:
    unet = tiny_unet().double()
    x, timestep, texts = (t.double() for t in given(unet.config, 3, 2))
    context = texts[:2].repeat_interleave(3, 0)  # as guidance stacks them
    keeping = replace(PLAIN, words=Words(3))
    for _ in range(2):
        kept = unet(x, timestep, context, attending=keeping)
        torch.testing.assert_close(kept, unet(x, timestep, context))
    rows: list[int] = []

    def made(context: Tensor) -> tuple[Tensor, Tensor]:
        rows.append(len(context))
        return context, context

    assert torch.equal(Words(3).made(CROSS, context, made)[0], context) and rows == [2]


@torch.inference_mode()
def test_keys_and_values_of_a_text_are_made_once() -> None:
    unet = tiny_unet()
    made: list[tuple[int, ...]] = []
    for layer in unet.modules():
        if isinstance(layer, Attention) and layer.to_k.in_features == unet.config.context:
            for projection in (layer.to_k, layer.to_v):
                projection.register_forward_pre_hook(lambda _, of: made.append(of[0].shape))
    x, timestep, context = given(unet.config, 1, 2)
    keeping = replace(PLAIN, words=Words())
    for _ in range(3):
        unet(x, timestep, context, attending=keeping)
    of_text = [shape for shape in made if shape == context.shape]
    layers = sum(isinstance(layer, Attention) for layer in unet.modules()) // 2
    assert len(of_text) == 2 * layers


def test_a_way_of_attending_is_plain_whatever_it_keeps() -> None:
    assert replace(PLAIN, words=Words()) == PLAIN
    assert replace(PLAIN, attend=attention.naive_attend) != PLAIN


# --- one product for three -----------------------------------------------------------------------


def one_weight(layer: Attention) -> Tensor | None:
    return side_by_side([layer.to_q.weight, layer.to_k.weight, layer.to_v.weight])


def laid(network: nn.Module) -> nn.Module:
    """With the weights of q, k and v where a card's model has them."""
    if isinstance(network, Attention):
        laid(nn.ModuleDict({"attn1": network}))
        return network
    weights = network.state_dict()
    places = places_side_by_side(network, next(iter(weights.values())).dtype, torch.device("cpu"))
    placed = {name: place.copy_(weights[name]) for name, place in places.items()}
    network.load_state_dict({**weights, **placed}, assign=True)
    return network


def own_attention() -> Attention:
    layer = seeded(Attention(32, 32, 4, 8), 0).double().requires_grad_(False)
    assert isinstance(layer, Attention)
    return layer


def test_places_are_for_what_attends_to_what_it_is_asked_about() -> None:
    unet = tiny_unet()
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    laid(unet)
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    layers = [layer for layer in unet.modules() if isinstance(layer, Attention)]
    own = [layer.to_q.in_features == layer.to_k.in_features for layer in layers]
    assert [one_weight(layer) is not None for layer in layers] == own
    assert set(own) == {True, False}


def test_a_weight_that_lies_elsewhere_is_not_one_with_others() -> None:
    layer = own_attention()
    assert one_weight(layer) is None
    laid(layer)
    whole = one_weight(layer)
    parts = layer.to_q.weight, layer.to_k.weight, layer.to_v.weight
    assert whole is not None and torch.equal(whole, torch.cat(parts))
    assert side_by_side(parts[::-1]) is None
    layer.to_k.weight = nn.Parameter(parts[1].clone(), requires_grad=False)
    assert one_weight(layer) is None


def test_weights_that_happen_to_be_neighbours_in_other_memory_are_not_one() -> None:
    whole = torch.arange(32.0)
    first, second = whole[:16].view(4, 4), whole[16:].view(4, 4)
    assert side_by_side([first, second]) is not None
    assert side_by_side([first, second.t()]) is None  # the same place in another order
    assert side_by_side([first, whole[12:28].view(4, 4)]) is None  # they overlap


@torch.inference_mode()
def test_one_product_says_what_three_say(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = own_attention(), drawn(2, 9, 32).double()
    expected = layer(x, x, SELF, PLAIN)
    laid(layer)
    assert torch.equal(layer(x, x, SELF, PLAIN), expected)
    products = _products_counted(monkeypatch)
    monkeypatch.setattr(attention, "FUSED", ("cpu",))
    torch.testing.assert_close(layer(x, x, SELF, PLAIN), expected)
    assert products == [(96, 32)]


@torch.inference_mode()
def test_what_looks_elsewhere_keeps_three_products(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, context = own_attention(), drawn(2, 9, 32).double(), drawn(2, 7, 32).double()
    laid(layer)
    products = _products_counted(monkeypatch)
    monkeypatch.setattr(attention, "FUSED", ("cpu",))
    layer(x, context, CROSS, PLAIN)
    otherwise = replace(PLAIN, sources=lambda source, site: (source, source + 1))
    layer(x, x, SELF, otherwise)
    assert products == []


@pytest.mark.parametrize("changed", ["qkv", "q", "kv"])
@torch.inference_mode()
def test_a_lora_comes_and_goes(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, unet = tiny_unet().double(), laid(tiny_unet().double())
    assert isinstance(unet, UNet)
    monkeypatch.setattr(patch, "_room", lambda slots, spare: patch._room_as_it_lies(slots))
    monkeypatch.setattr(attention, "FUSED", ("cpu",))
    x, timestep, context = (t.double() for t in given(unet.config, 1, 2))
    before = unet(x, timestep, context)
    torch.testing.assert_close(before, plain(x, timestep, context))
    own = unet.input_blocks[1][1].transformer_blocks[0].attn1  # type: ignore[index, union-attr]
    use = style(changed)
    with patched({"unet": unet}, [use]), patched({"unet": plain}, [use]):
        assert (one_weight(own) is not None) == (changed == "qkv")
        under = unet(x, timestep, context)
        torch.testing.assert_close(under, plain(x, timestep, context))
    assert not torch.allclose(under, before)
    assert one_weight(own) is not None
    assert torch.equal(unet(x, timestep, context), before)


@torch.inference_mode()
def test_what_was_worn_before_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "_room", lambda slots, spare: patch._room_as_it_lies(slots))
    unet = laid(tiny_unet())
    own = unet.input_blocks[1][1].transformer_blocks[0].attn1  # type: ignore[index, union-attr]
    kept = Kept({"unet": unet})
    lies = []
    for changed in ("qkv", "qv", "qkv", "", "kv", "qkv"):
        kept.use([style(changed)] if changed else [])
        lies.append(one_weight(own) is not None)
    assert lies == [True, False, True, True, False, True]


def style(changed: str) -> Use:
    """A LoRA over so many of the weights of the first self-attention."""
    tensors = {}
    for number, part in enumerate(changed):
        name = f"lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_{part}"
        tensors[f"{name}.lora_down.weight"] = drawn(2, 32, seed=number)
        tensors[f"{name}.lora_up.weight"] = drawn(32, 2, seed=9 + number)
    return Use(lora("style", tensors, {}))


def _products_counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of weights that one product stands for three with, as they are used."""
    seen: list[tuple[int, ...]] = []
    real = attention.functional.linear

    def linear(x: Tensor, weight: Tensor, *more: Tensor) -> Tensor:
        if len(weight) > 32:
            seen.append(tuple(weight.shape))
        return real(x, weight, *more)

    monkeypatch.setattr(attention.functional, "linear", linear)
    return seen
