"""peft as the oracle, where it is installed: its own merged weights beside ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.adapters.lora import lora
from core.adapters.patch import Use, patched
from tests.core.adapters.models import parts_of

peft = pytest.importorskip("peft")

TARGETS = (
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    "middle_block.1.transformer_blocks.0.attn2.to_v",
    "output_blocks.3.1.transformer_blocks.0.ff.net.0.proj",
    "input_blocks.2.1.proj_in",
    "input_blocks.5.0.in_layers.2",
    "output_blocks.2.1.conv",
)
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(TARGETS)),
    "rank-stabilised LoRA": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, use_rslora=True, target_modules=list(TARGETS)
    ),
    "DoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=list(TARGETS)),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=3, target_modules=list(TARGETS)),
    "LoHa, Tucker": lambda: peft.LoHaConfig(
        r=3, alpha=3, use_effective_conv2d=True, target_modules=list(TARGETS)
    ),
    "LoKr": lambda: peft.LoKrConfig(r=3, alpha=3, target_modules=list(TARGETS)),
    "LoKr, both factored": lambda: peft.LoKrConfig(
        r=3, alpha=3, decompose_both=True, decompose_factor=4, target_modules=list(TARGETS)
    ),
    "LoKr, Tucker": lambda: peft.LoKrConfig(
        r=3, alpha=3, use_effective_conv2d=True, target_modules=list(TARGETS)
    ),
}


def merged(config: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(what peft saves, the weights of its merged network)."""
    torch.manual_seed(0)
    model = peft.get_peft_model(parts_of()["unet"], config)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data.mul_(1.3)
        elif any(part in name for part in ("lora_", "hada_", "lokr_")):
            nn.init.normal_(parameter, 0, 0.2)
    saved = {
        name.replace("base_model.model.", "unet."): tensor.clone()
        for name, tensor in peft.get_peft_model_state_dict(model).items()
    }
    return saved, dict(model.merge_and_unload().named_parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_merges_we_merge(kind: str) -> None:
    config = CONFIGS[kind]()
    saved, theirs = merged(config)
    told = {"unet.lora_alpha": 5, "unet.use_rslora": getattr(config, "use_rslora", False)}
    is_lora = isinstance(config, peft.LoraConfig)
    metadata = {"lora_adapter_metadata": json.dumps(told)} if is_lora else {}
    parts = parts_of()
    before = dict(parts["unet"].named_parameters())
    with patched(parts, [Use(lora(kind, saved, metadata))]) as (report,):
        assert report.unmatched == ()
        ours = dict(parts["unet"].named_parameters())
        for target in TARGETS:
            name = target + ".weight"
            assert not torch.allclose(ours[name], before[name], atol=1e-3)
            assert torch.allclose(ours[name], theirs[name], atol=1e-5), name
