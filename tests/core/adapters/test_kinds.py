"""Every kind and spelling of LoRA against its formula on dense matrices."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from core.adapters.lora import lora
from core.adapters.patch import Use, patched
from tests.core.adapters import spelled
from tests.core.adapters.models import parts_of
from tests.core.adapters.spelled import TEXT, UNET, WIDE, XL_TEXT, Tensors, low_rank, whole

ALL = [*UNET, *WIDE, *TEXT]
XL_UNET = [
    spelled.Layer(
        "unet",
        "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v",
        "input_blocks.5.1.transformer_blocks.0.attn2.to_v",
        (64, 64),
    ),
    spelled.Layer(
        "unet",
        "up_blocks.0.attentions.2.transformer_blocks.1.ff.net.0.proj",
        "output_blocks.2.1.transformer_blocks.1.ff.net.0.proj",
        (512, 64),
    ),
    spelled.Layer(
        "unet", "up_blocks.0.attentions.0.proj_in", "output_blocks.0.1.proj_in", (64, 64)
    ),
]

SPELLINGS = {
    "kohya": ("sd1", ALL, spelled.kohya, low_rank, 2.0),
    "kohya without alpha": ("sd1", ALL, spelled.kohya, low_rank, None),
    "kohya, original names": ("sd1", ALL, spelled.kohya_ldm, low_rank, 1.0),
    "kohya XL, diffusers names": (
        "sdxl", [*XL_UNET, *XL_TEXT], spelled.kohya, low_rank, 1.0),
    "kohya XL, original names": (
        "sdxl", [*XL_UNET, *XL_TEXT], spelled.kohya_ldm, low_rank, 1.0),
    "kohya SD 2": ("sd2", [*UNET, *TEXT], spelled.kohya, low_rank, 1.0),
    "peft": ("sd1", ALL, spelled.diffusers, partial(low_rank, names="peft"), None),
    "peft XL": (
        "sdxl", [*XL_UNET, *XL_TEXT], spelled.diffusers, partial(low_rank, names="peft"), None),
    "peft, saved alone": ("sd1", UNET, spelled.peft_model, partial(low_rank, names="named"), None),
    "diffusers": ("sd1", ALL, spelled.diffusers, partial(low_rank, names="updown"), None),
    "diffusers, bare": ("sd1", ALL, spelled.bare, partial(low_rank, names="updown"), 2.0),
    "diffusers text": ("sd1", TEXT, spelled.diffusers, partial(low_rank, names="linear"), None),
    "ComfyUI's own": ("sd1", [*UNET, *WIDE], spelled.comfy, low_rank, 2.0),
    "SimpleTuner": ("sd1", UNET, spelled.lycoris, spelled.kronecker, 2.0),
    "LoCon in CP form": ("sd1", ALL, spelled.kohya, spelled.tucker, 2.0),
    "LoHa": ("sd1", ALL, spelled.kohya, spelled.hadamard, 2.0),
    "LoHa, Tucker": ("sd1", ALL, spelled.kohya, spelled.hadamard_tucker, 2.0),
    "LoKr": ("sd1", ALL, spelled.kohya, spelled.kronecker, 2.0),
    "LoKr, both factored": (
        "sd1", ALL, spelled.kohya, partial(spelled.kronecker, left=True), 5.0),
    "LoKr, left factored": (
        "sd1", ALL, spelled.kohya, partial(spelled.kronecker, left=True, right=False), 5.0),
    "LoKr, Tucker": ("sd1", ALL, spelled.kohya, partial(spelled.kronecker, core=True), 2.0),
    "LoKr, whole: alpha does not count": (
        "sd1", ALL, spelled.kohya, partial(spelled.kronecker, right=False), 7.0),
    "LoKr XL": ("sdxl", [*XL_UNET, *XL_TEXT], spelled.kohya_ldm, spelled.kronecker, 2.0),
    "full difference": ("sd1", ALL, spelled.kohya, spelled.difference, None),
}  # fmt: skip


def weights(parts: dict[str, torch.nn.Module]) -> dict[tuple[str, str], Tensor]:
    return {
        (part, name): tensor
        for part, module in parts.items()
        for name, tensor in module.named_parameters()
    }


def applied_to(
    family: str, tensors: Tensors, metadata: dict[str, str] | None = None, weight: float = 1.0
) -> tuple[dict[tuple[str, str], Tensor], dict[tuple[str, str], Tensor]]:
    """(weights before, what was added to those that changed)."""
    parts = parts_of(family)
    before = weights(parts)
    with patched(parts, [Use(lora("test", tensors, metadata or {}), weight)]) as report:
        assert report[0].unmatched == ()
        after = weights(parts)
    changed = {key: after[key] - before[key] for key in before if after[key] is not before[key]}
    return before, changed


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_adds_what_its_formula_says(spelling: str) -> None:
    family, layers, name, kind, alpha = SPELLINGS[spelling]
    tensors, deltas = whole(layers, name, kind, alpha)
    _, changed = applied_to(family, tensors, weight=0.7)
    assert {(part, path.removesuffix(".weight")) for part, path in changed} == set(deltas)
    for (part, path), delta in deltas.items():
        assert torch.allclose(changed[part, path + ".weight"], 0.7 * delta, atol=1e-5), path


def test_the_oldest_spelling_of_diffusers() -> None:
    g = torch.Generator().manual_seed(0)
    tensors, expected = {}, {}
    for place, ours in (("mid_block.attentions.0", "middle_block.1"),):
        block = f"{place}.transformer_blocks.0.attn1"
        for letter in ("q", "k", "v", "out"):
            parts, delta = low_rank(g, (64, 64), None, "updown")
            target = "to_out.0" if letter == "out" else f"to_{letter}"
            expected["unet", f"{ours}.transformer_blocks.0.attn1.{target}.weight"] = delta
            tensors |= {
                f"unet.{block}.processor.to_{letter}_lora{ending.removeprefix('.lora')}": tensor
                for ending, tensor in parts.items()
            }
    _, changed = applied_to("sd1", tensors)
    assert changed.keys() == expected.keys()
    for key, delta in expected.items():
        assert torch.allclose(changed[key], delta, atol=1e-5)


def test_factors_shaped_for_a_convolution_fit_a_linear_layer_and_the_reverse() -> None:
    """Both kinds lie in real files, for SD 1.x and SD 2.x share trainers."""
    tensors, deltas = whole([UNET[0]], spelled.kohya, low_rank)
    tensors = {n: t[..., None, None] if t.ndim == 2 else t for n, t in tensors.items()}
    flat, flat_deltas = whole([WIDE[0]], spelled.kohya, low_rank, seed=1)
    tensors |= {n: t.flatten(1) if t.ndim == 4 else t for n, t in flat.items()}
    _, changed = applied_to("sd1", tensors)
    for (part, path), delta in {**deltas, **flat_deltas}.items():
        assert torch.allclose(changed[part, path + ".weight"], delta, atol=1e-5)


def dora(base: Tensors, original: Tensor, delta: Tensor, axis: int, g: torch.Generator):
    """m · (W + ΔW) / ‖W + ΔW‖, row by row or column by column; arXiv:2402.09353, equation 5."""
    shape = [1] * original.ndim
    shape[axis] = original.shape[axis]
    m = torch.rand(shape, generator=g) + 0.5
    changed, out = original + delta, torch.zeros_like(original)
    for i in range(original.shape[axis]):
        one = changed.select(axis, i)
        out.select(axis, i).copy_(m.flatten()[i] * one / one.pow(2).sum().sqrt())
    return base | {".dora_scale": m}, out - original


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("layer", [UNET[1], WIDE[0], WIDE[1], TEXT[1]], ids=lambda x: x.theirs)
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_dora_replaces_the_norms_over_either_axis(
    axis: int, layer: spelled.Layer, weight: float
) -> None:
    g = torch.Generator().manual_seed(3)
    base, delta = low_rank(g, layer.shape, 2.0)
    original = weights(parts_of())[layer.part, layer.ours + ".weight"]
    tensors, expected = dora(base, original, delta, axis, g)
    tensors = {spelled.kohya(layer) + ending: tensor for ending, tensor in tensors.items()}
    _, changed = applied_to("sd1", tensors, weight=weight)
    assert torch.allclose(changed[layer.part, layer.ours + ".weight"], weight * expected, atol=1e-5)


def test_dora_as_peft_writes_it_is_over_the_rows() -> None:
    g = torch.Generator().manual_seed(3)
    layer = WIDE[1]
    base, delta = low_rank(g, layer.shape, None, "peft")
    original = weights(parts_of())["unet", layer.ours + ".weight"]
    tensors, expected = dora(base, original, delta, 0, g)
    magnitude = tensors.pop(".dora_scale").reshape(1, -1, 1, 1)
    tensors[".lora_magnitude_vector.weight"] = magnitude
    tensors = {spelled.diffusers(layer) + ending: tensor for ending, tensor in tensors.items()}
    _, changed = applied_to("sd1", tensors)
    assert torch.allclose(changed["unet", layer.ours + ".weight"], expected, atol=1e-5)


def test_biases_and_norms_are_changed_too() -> None:
    tensors = {
        "lora_unet_mid_block_attentions_0_proj_in.diff_b": torch.full((64,), 0.5),
        "lora_unet_mid_block_resnets_0_norm1.w_norm": torch.full((64,), 0.25),
        "lora_unet_mid_block_resnets_0_norm1.b_norm": torch.full((64,), -1.0),
    }
    _, changed = applied_to("sd1", tensors, weight=2.0)
    assert {path: float(delta.mean()) for (_, path), delta in changed.items()} == pytest.approx(
        {
            "middle_block.1.proj_in.bias": 1.0,
            "middle_block.0.in_layers.0.weight": 0.5,
            "middle_block.0.in_layers.0.bias": -2.0,
        }
    )


def test_alphas_in_peft_metadata_count() -> None:
    g = torch.Generator().manual_seed(0)
    tensors, deltas = {}, []
    for layer in UNET:
        parts, delta = low_rank(g, layer.shape, None, "peft")
        tensors |= {spelled.diffusers(layer) + ending: tensor for ending, tensor in parts.items()}
        deltas.append(delta)
    config = (
        '{"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": '
        '{"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": 1.5}}'
    )
    _, changed = applied_to("sd1", tensors, {"lora_adapter_metadata": config})
    for layer, delta, scale in zip(UNET, deltas, (2.0, 0.5, 2.0), strict=True):
        found = changed["unet", layer.ours + ".weight"]
        assert torch.allclose(found, scale * delta, atol=1e-5)
    stabilised = config.replace('"unet.r"', '"unet.use_rslora": true, "unet.r"')
    _, changed = applied_to("sd1", tensors, {"lora_adapter_metadata": stabilised})
    found = changed["unet", UNET[0].ours + ".weight"]
    assert torch.allclose(found, 6 / 3**0.5 * deltas[0], atol=1e-5)


def test_the_fused_projections_of_open_clip_are_changed_in_thirds() -> None:
    """The files name q, k and v; the checkpoint holds them as one."""
    layers = [
        spelled.Layer("text", f"text_model.encoder.layers.0.self_attn.{x}_proj", "", (32, 32))
        for x in "qv"
    ]
    tensors, deltas = whole(layers, spelled.kohya, low_rank)
    _, changed = applied_to("sd2", tensors)
    assert len(changed) == 2
    for (part, path), delta in deltas.items():
        assert torch.allclose(changed[part, path + ".weight"], delta, atol=1e-5)
