"""Compiled transformer blocks: the same answers, also while LoRAs come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from core.adapters.lora import lora
from core.adapters.patch import Use, patched
from core.models.compiling import CompiledBlocks
from core.models.placing import CPU, PlacedUNet, Placing
from core.nn.attention import Attending, TransformerBlock, naive_attend
from tests.tiny import UNET_CONFIG, tiny_unet

SMALL = replace(UNET_CONFIG, multipliers=(1, 2), depths=(1, 1))
"""Eleven transformer blocks of two shapes."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def unet() -> PlacedUNet:
    """In float64, which takes torch's public functions, as a card does."""
    network = PlacedUNet(SMALL, Placing(CPU))
    network.load_state_dict(tiny_unet(SMALL).state_dict())
    return network.double().eval().requires_grad_(False)


def given() -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 8, 8, generator=drawn, dtype=torch.float64)
    context = torch.randn(2, 3, UNET_CONFIG.context, generator=drawn, dtype=torch.float64)
    return x, torch.tensor([1.0, 500.0]), context


def style() -> Use:
    """A LoRA of the keys that the first transformer block makes of text."""
    drawn = torch.Generator().manual_seed(4)
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, UNET_CONFIG.context, generator=drawn),
        f"{name}.lora_up.weight": torch.randn(32, 2, generator=drawn),
    }
    return Use(lora("style", tensors, {}))


@torch.inference_mode()
def test_compiled_blocks_answer_the_same_before_under_and_after_a_lora() -> None:
    plain, network = unet(), unet()
    counter: Any = CompileCounterWithBackend("aot_eager")
    network._compiled = CompiledBlocks(network, Placing(CPU).tell, counter)
    assert torch.allclose(network(*given()), plain(*given()))
    compiled = counter.frame_count
    blocks = sum(isinstance(m, TransformerBlock) for m in network.modules())
    assert (compiled, blocks) == (2, 11)  # those of one shape share what was compiled
    with patched({"unet": network}, [style()]), patched({"unet": plain}, [style()]):
        worn = network(*given())
        assert torch.allclose(worn, plain(*given()))
    assert not torch.allclose(worn, plain(*given()))
    assert torch.allclose(network(*given()), plain(*given()))
    assert counter.frame_count == compiled  # LoRAs are no reason to compile again


@torch.inference_mode()
def test_a_picture_with_several_texts_needs_no_further_forms() -> None:
    plain, network = unet(), unet()
    counter: Any = CompileCounterWithBackend("eager")
    network._compiled = CompiledBlocks(network, Placing(CPU).tell, counter)
    x, timestep, context = given()
    answer = network(x[:1], timestep[:1], context)
    assert torch.allclose(answer, plain(x[:1], timestep[:1], context))
    assert counter.frame_count == 2


@torch.inference_mode()
def test_batches_of_many_sizes_are_all_compiled() -> None:
    """torch alone would give up at the eighth form, and say nothing."""
    network = unet()
    counter: Any = CompileCounterWithBackend("eager")
    network._compiled = CompiledBlocks(network, Placing(CPU).tell, counter)
    x, timestep, context = given()
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        for rows in range(1, 8):
            network(*(t[:1].repeat(rows, *[1] * (t.dim() - 1)) for t in (x, timestep, context)))
    assert counter.frame_count == 2 * 7


@torch.inference_mode()
def test_another_way_of_attending_is_not_compiled() -> None:
    plain, network = unet(), unet()
    counter: Any = CompileCounterWithBackend("eager")
    network._compiled = CompiledBlocks(network, Placing(CPU).tell, counter)
    other = Attending(attend=naive_attend)
    answer = network(*given(), attending=other)
    assert torch.allclose(answer, plain(*given(), attending=other))
    assert counter.frame_count == 0


@torch.inference_mode()
def test_where_compiling_fails_that_is_told_once_and_it_goes_on_without() -> None:
    def broken(graph: object, inputs: object) -> Any:
        raise OSError("there is no compiler")

    plain, network, placing = unet(), unet(), Placing(CPU)
    network._compiled = CompiledBlocks(network, placing.tell, broken)
    for _ in range(2):
        assert torch.equal(network(*given()), plain(*given()))
    (note,) = placing.taken_notes()
    assert note.kind == "speed" and "no compiler" in note.text
