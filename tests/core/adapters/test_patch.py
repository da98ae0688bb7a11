"""Changed weights: the laws of adding up, and that everything is put back to the last bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from core.adapters.blocks import block_weights
from core.adapters.lora import Lora, lora
from core.adapters.patch import Kept, Patch, Use, applied, patched
from core.errors import AdapterError
from core.nn import kernels
from core.nn.layers import Conv2d
from core.nn.unet import UNet
from tests.core.adapters import spelled
from tests.core.adapters.models import full_size, parts_of
from tests.core.adapters.spelled import TEXT, UNET, WIDE, low_rank, whole
from tests.core.adapters.test_kinds import dora, weights

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = (low_rank, spelled.hadamard, spelled.kronecker, spelled.difference)


def lora_of(kind: spelled.Kind = low_rank, seed: int = 0, name: str = "test") -> Lora:
    return lora(name, whole([*UNET, *WIDE, *TEXT], spelled.kohya, kind, seed=seed)[0], {})


def dora_of(seed: int) -> Lora:
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    own = weights(parts_of())
    for layer in UNET:
        base, delta = low_rank(g, layer.shape, 2.0)
        parts, _ = dora(base, own["unet", layer.ours + ".weight"], delta, 0, g)
        tensors |= {spelled.kohya(layer) + ending: tensor for ending, tensor in parts.items()}
    return lora("dora", tensors, {})


def with_uses(*uses: Use, dtype: torch.dtype = torch.float32) -> dict[tuple[str, str], Tensor]:
    parts = parts_of(dtype=dtype)
    with patched(parts, uses):
        return weights(parts)


def largest_difference(a: dict[tuple[str, str], Tensor], b: dict[tuple[str, str], Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key].float() - b[key].float()).abs().max()) for key in a)


def snapshot(parts: dict[str, nn.Module]) -> dict[tuple[str, str], tuple[int, Tensor]]:
    """Each parameter itself, and a copy of its numbers."""
    return {key: (id(tensor), tensor.clone()) for key, tensor in weights(parts).items()}


def assert_same(parts: dict[str, nn.Module], before: dict) -> None:
    for key, tensor in weights(parts).items():
        identity, numbers = before[key]
        assert id(tensor) == identity
        assert torch.equal(tensor, numbers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaving_restores_every_bit(dtype: torch.dtype) -> None:
    parts = parts_of(dtype=dtype)
    before = snapshot(parts)
    with patched(parts, [Use(lora_of(), 0.7), Use(lora_of(spelled.hadamard, 1), -2.0)]):
        changed = [k for k, t in weights(parts).items() if id(t) != before[k][0]]
        assert len(changed) == len([*UNET, *WIDE, *TEXT])
        assert all(t.dtype == dtype for t in weights(parts).values())
    assert_same(parts, before)


def test_leaving_restores_every_bit_after_an_error_and_in_inference_mode() -> None:
    parts = parts_of()
    before = snapshot(parts)
    with (
        pytest.raises(ZeroDivisionError),
        torch.inference_mode(),
        patched(parts, [Use(lora_of())]),
    ):
        raise ZeroDivisionError
    assert_same(parts, before)


def test_a_changed_network_answers_otherwise_and_then_as_before() -> None:
    parts = parts_of()
    unet = parts["unet"]
    x, t, context = torch.ones(1, 4, 8, 8), torch.tensor([500.0]), torch.ones(1, 77, 32)
    before = unet(x, t, context)
    with patched(parts, [Use(lora_of())]):
        assert not torch.allclose(unet(x, t, context), before, atol=1e-3)
    assert torch.equal(unet(x, t, context), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_0_is_none(dtype: torch.dtype) -> None:
    none, zero = with_uses(dtype=dtype), with_uses(Use(lora_of(), 0.0), dtype=dtype)
    assert all(torch.equal(none[key], zero[key]) for key in none)


@pytest.mark.parametrize("kind", [*KINDS, "dora"])
def test_two_halves_are_the_whole(kind: spelled.Kind) -> None:
    one = dora_of(0) if kind == "dora" else lora_of(kind)
    whole_one = with_uses(Use(one, 0.8))
    assert largest_difference(with_uses(Use(one, 0.4), Use(one, 0.4)), whole_one) < 1e-6
    assert largest_difference(with_uses(), whole_one) > 0.01


def test_order_does_not_matter() -> None:
    """DoRA too is made from the unpatched weight."""
    uses = [Use(lora_of(kind, seed), 0.6) for seed, kind in enumerate(KINDS)]
    uses.append(Use(dora_of(9), 0.5))
    forwards, backwards = with_uses(*uses), with_uses(*reversed(uses))
    assert largest_difference(forwards, backwards) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_sums_are_made_in_float32(dtype: torch.dtype) -> None:
    """Changes each too small for the format still add up."""
    tensors, deltas = whole([UNET[0]], spelled.kohya, low_rank)
    uses = [Use(lora("test", tensors, {}), 0.25 / 64)] * 64
    changed = with_uses(*uses, dtype=dtype)
    own = weights(parts_of(dtype=dtype))
    key = ("unet", UNET[0].ours + ".weight")
    exact = own[key].float() + 0.25 * deltas["unet", UNET[0].ours]
    assert torch.equal(changed[key], exact.to(dtype)) or torch.allclose(
        changed[key].float(), exact, rtol=torch.finfo(dtype).eps
    )


def test_text_encoders_have_a_weight_of_their_own() -> None:
    parts = parts_of()
    before = snapshot(parts)
    with patched(parts, [Use(lora_of(), 0.0, text_weight=1.0)]):
        changed = {k[0] for k, t in weights(parts).items() if id(t) != before[k][0]}
    assert changed == {"text"}
    with patched(parts, [Use(lora_of(), 1.0, text_weight=0.0)]):
        changed = {k[0] for k, t in weights(parts).items() if id(t) != before[k][0]}
    assert changed == {"unet"}


def test_the_same_set_again_costs_nothing_and_another_one_starts_anew() -> None:
    parts = parts_of()
    before = snapshot(parts)
    kept, one, two = Kept(parts), lora_of(), lora_of(seed=1)
    report = kept.use([Use(one, 0.5)])
    held = {key: id(tensor) for key, tensor in weights(parts).items()}
    assert kept.use([Use(one, 0.5)]) is report
    assert {key: id(tensor) for key, tensor in weights(parts).items()} == held
    kept.use([Use(two, 0.5)])
    expected = with_uses(Use(two, 0.5))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in weights(parts).items())
    kept.use([])
    assert_same(parts, before)
    kept.use([Use(one)])
    with pytest.raises(AdapterError):
        kept.use([Use(one), Use(lora("other", {"lora_unet_no.diff": torch.ones(2, 2)}, {}))])
    assert_same(parts, before)


@pytest.mark.parametrize("through_none", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_another_set_takes_the_memory_of_the_one_before(
    kind: spelled.Kind, through_none: bool
) -> None:
    parts = parts_of()
    before = snapshot(parts)
    sets = [[Use(lora_of(), 0.7)], [Use(lora_of(kind, 1), -2.0), Use(lora_of(low_rank, 2), 0.3)]]
    kept = Kept(parts)
    places: list[set[int]] = []
    for uses in sets:
        kept.use(uses)
        places.append({tensor.data_ptr() for tensor in weights(parts).values()})
        fresh = with_uses(*uses)
        assert all(torch.equal(tensor, fresh[key]) for key, tensor in weights(parts).items())
        if through_none:
            kept.use([])
            assert_same(parts, before)
    assert places[0] == places[1]
    kept.restore()
    assert_same(parts, before)
    assert kept.spare == sum(4 * math.prod(layer.shape) for layer in (*UNET, *WIDE, *TEXT))


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_makes_the_same_bits(kind: spelled.Kind) -> None:
    before, made = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            made.append(with_uses(Use(lora_of(kind), 0.7), Use(lora_of(low_rank, 1), -2.0)))
    finally:
        torch.set_num_threads(before)
    for one in made[1:]:
        assert one.keys() == made[0].keys()
        assert all(torch.equal(tensor, made[0][key]) for key, tensor in one.items())


@torch.inference_mode()
def test_kernels_that_were_packed_in_use_are_not_kept_for_the_next() -> None:
    parts = parts_of()
    kept = Kept(parts)
    kept.use([Use(lora_of())])
    for module in parts["unet"].modules():
        if isinstance(module, Conv2d) and module.kernel_size == (3, 3):
            module(torch.ones(1, module.in_channels, 4, 4))
    kept.use([])
    sizes = [4 * math.prod(layer.shape) for layer in (*UNET, *WIDE, *TEXT)]
    kernels_of_three = sum(4 * math.prod(layer.shape) for layer in WIDE if layer.shape[-1] == 3)
    is_packed = kernels.chosen() != "plain"
    assert kept.spare == sum(sizes) - (kernels_of_three if is_packed else 0)


@torch.inference_mode()
def test_few_layers_after_many_do_not_keep_the_memory_of_all() -> None:
    parts = parts_of()
    before = snapshot(parts)
    kept = Kept(parts)
    kept.use([Use(lora_of())])
    few = Use(lora("few", whole([UNET[0]], spelled.kohya, low_rank, seed=1)[0], {}))
    kept.use([few])
    now = weights(parts)
    held = {
        key: tensor.untyped_storage().nbytes()
        for key, tensor in now.items()
        if id(tensor) != before[key][0]
    }
    assert len(held) == 1
    most = max(now[key].numel() * now[key].element_size() for key in held)
    assert all(size <= most + 4 * 64 for size in held.values())
    kept.restore()
    assert_same(parts, before)


def test_one_copy_is_kept_and_nothing_more() -> None:
    """The originals and the changed tensors: no deltas, no float32 copies."""
    parts = parts_of(dtype=torch.bfloat16)
    patch = Patch(parts, [Use(lora_of())])
    held = [t for _, t in patch._originals]
    assert sum(t.numel() for t in held) == sum(
        torch.Size(layer.shape).numel() for layer in (*UNET, *WIDE, *TEXT)
    )
    patch.restore()
    assert not patch._originals
    patch.restore()


# --- what does not fit ---------------------------------------------------------------------------


def test_what_this_model_has_no_place_for_is_named() -> None:
    tensors, _ = whole(UNET, spelled.kohya, low_rank)
    tensors["lora_unet_down_blocks_9_conv.diff"] = torch.ones(3, 3)
    tensors["bundle_emb.thing.string_to_param.*"] = torch.ones(1, 32)
    report = applied(parts_of(), Use(lora("test", tensors, {})))
    assert len(report.matched) == len(UNET)
    assert set(report.unmatched) == {
        "lora_unet_down_blocks_9_conv",
        "bundle_emb.thing.string_to_param.*",
    }


def test_a_lora_of_nothing_here_says_what_it_is_for() -> None:
    flux = {"lora_unet_double_blocks_0_img_attn_proj.diff": torch.ones(3, 3)}
    with pytest.raises(AdapterError, match=r"made for Flux, changes no layer.*double_blocks_0"):
        applied(parts_of(), Use(lora("test", flux, {})))
    said = {"lora_unet_nothing.diff": torch.ones(3, 3)}
    metadata = {"ss_base_model_version": "sdxl_base_v1-0"}
    with pytest.raises(AdapterError, match=r"made for SDXL"):
        applied(parts_of(), Use(lora("test", said, metadata)))


def test_wrong_shapes_are_named_and_change_nothing() -> None:
    tensors, _ = whole([*UNET, *WIDE], spelled.kohya, low_rank)
    tensors[spelled.kohya(WIDE[1]) + ".lora_down.weight"] = torch.ones(spelled.RANK, 32, 5, 5)
    parts = parts_of()
    before = snapshot(parts)
    with pytest.raises(AdapterError, match=r"conv1 is 64 × 32 × 3 × 3 here, 64 × 32 × 5 × 5 there"):
        Patch(parts, [Use(lora_of()), Use(lora("test", tensors, {}))])
    assert_same(parts, before)


def test_a_bomb_of_kronecker_factors_is_refused_before_it_is_multiplied() -> None:
    """A megabyte of factors would make 100 gigabytes."""
    tensors = {
        "lora_unet_mid_block_attentions_0_proj_in.lokr_w1": torch.ones(4000, 40),
        "lora_unet_mid_block_attentions_0_proj_in.lokr_w2": torch.ones(4000, 40),
    }
    parts = parts_of()
    with pytest.raises(AdapterError, match=r"16000000 × 1600"):
        Patch(parts, [Use(lora("bomb", tensors, {}))])


def test_a_change_that_overflows_is_refused_and_changes_nothing() -> None:
    tensors, _ = whole(UNET, spelled.kohya, low_rank)
    parts = parts_of(dtype=torch.float16)
    before = snapshot(parts)
    with pytest.raises(AdapterError, match=r"test would change .* into NaN or infinity"):
        Patch(parts, [Use(lora_of(seed=1)), Use(lora("test", tensors, {}), 1e6)])
    assert_same(parts, before)


# --- weights of blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "count", "names"),
    [
        ("sd15", 17, "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03"),
        ("sd15", 26, "BASE IN00 IN01 IN02"),
        ("sdxl-base", 12, "BASE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"),
        ("sdxl-base", 20, "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 MID OUT00"),
    ],
)
def test_lists_of_blocks_are_told_by_their_length(base: str, count: int, names: str) -> None:
    unet = full_size(base)["unet"]
    assert isinstance(unet, UNet)
    named = block_weights(tuple(float(n) for n in range(count)), unet)
    assert list(named)[: len(names.split())] == names.split()
    assert list(named.values()) == list(range(count))
    with pytest.raises(AdapterError, match=f"{count + 1} weights of blocks were given"):
        block_weights((1.0,) * (count + 1), unet)


def test_blocks_have_their_own_weights() -> None:
    """17 numbers: only the middle and half of one block on the way up."""
    blocks = [0.0] * 17
    blocks[7], blocks[8 + 2] = 1.0, 0.5  # MID, OUT05
    parts = parts_of()
    before = weights(parts)
    tensors, deltas = whole([*UNET, *TEXT], spelled.kohya, low_rank)
    with patched(parts, [Use(lora("test", tensors, {}), 1.0, blocks=tuple(blocks))]):
        changed = {k: t - before[k] for k, t in weights(parts).items() if t is not before[k]}
    assert len(changed) == 2
    for layer, weight in ((UNET[1], 1.0), (UNET[2], 0.5)):
        found = changed["unet", layer.ours + ".weight"]
        assert torch.allclose(found, weight * deltas["unet", layer.ours], atol=1e-5)


def test_all_blocks_at_1_are_no_blocks() -> None:
    one = lora_of()
    plain, listed = with_uses(Use(one, 0.7)), with_uses(Use(one, 0.7, blocks=(1.0,) * 26))
    assert all(torch.equal(plain[key], listed[key]) for key in plain)


def test_an_alpha_in_half_precision_counts() -> None:
    tensors, deltas = whole([UNET[0]], spelled.kohya, low_rank, alpha=2.0)
    halved = {n: t.half() if n.endswith("alpha") else t for n, t in tensors.items()}
    parts = parts_of()
    before = weights(parts)
    with patched(parts, [Use(lora("test", halved, {}))]):
        key = ("unet", UNET[0].ours + ".weight")
        found = weights(parts)[key] - before[key]
    assert torch.allclose(found, deltas["unet", UNET[0].ours], atol=1e-5)


@torch.inference_mode()
def test_packed_weights_change_and_come_back_exactly() -> None:
    parts = parts_of()
    unet = parts["unet"]
    assert isinstance(unet, UNet)
    torch.manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, unet.config.context)
    step = torch.tensor([500.0])
    plain = weights(parts)
    expected = with_uses(Use(lora_of(), 0.7))
    before = unet(x, step, context)  # from here on convolutions are packed
    changed = [key for key in plain if not torch.equal(plain[key], expected[key])]
    assert any(
        parts["unet"].get_parameter(name).is_mkldnn for part, name in changed if part == "unet"
    )
    with patched(parts, [Use(lora_of(), 0.7)]):
        within = {key: kernels.dense(tensor) for key, tensor in weights(parts).items()}
        assert not torch.equal(unet(x, step, context), before)
    assert all(torch.equal(within[key], expected[key]) for key in expected)
    assert torch.equal(unet(x, step, context), before)
    assert all(
        torch.equal(kernels.dense(tensor), plain[key]) for key, tensor in weights(parts).items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_weight_lies_in_memory_as_the_original_does(kind: spelled.Kind) -> None:
    """As on a graphics card, where convolutions lie channels last."""
    parts, plain = parts_of(dtype=torch.float16), parts_of(dtype=torch.float16)
    parts["unet"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {key: tensor.stride() for key, tensor in weights(parts).items()}
    kernel = next(t for t in weights(parts).values() if t.ndim == 4 and t.shape[2] == 3)
    assert kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()
    use = Use(lora_of(kind))
    with patched(parts, [use]), patched(plain, [use]):
        assert {key: tensor.stride() for key, tensor in weights(parts).items()} == before
        assert largest_difference(weights(parts), weights(plain)) == 0
