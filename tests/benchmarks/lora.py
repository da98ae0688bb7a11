"""A rank-16 LoRA over SD 1.5's 264 layers, put on and taken off: ours beside diffusers' fuse.

    .venv/bin/python -m tests.benchmarks.lora

diffusers fuses with peft, which the house does not install. So its arithmetic stands here beside
ours, as in its own `fuse_lora` before peft (`LoRACompatibleLinear._fuse_lora`, v0.24): in float32,
one matrix product, one scaled copy, one sum and one cast for each layer.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch
from torch import nn

from core.adapters.changes import LowRank
from core.adapters.lora import Lora, lora
from core.adapters.patch import Kept, Patch, Use, layers
from tests.core.adapters.models import full_size
from tests.core.models.test_manifests import manifest


def models(dtype: torch.dtype) -> dict[str, nn.Module]:
    """SD 1.5's networks, random."""
    parts = full_size("sd15")
    return {name: part.to_empty(device="cpu").to(dtype) for name, part in parts.items()}


def rank_16() -> Lora:
    tensors = {
        key: torch.full(shape, 8.0) if not shape else torch.randn(shape) * 0.01
        for key, (shape, _) in manifest("lora-kohya-sd15").items()
    }
    return lora("rank 16", tensors, {})


def fused(parts: dict[str, nn.Module], found: Lora) -> list[tuple[nn.Module, torch.Tensor]]:
    """diffusers' way; returns what undoes it."""
    table = layers(parts)
    undo = []
    for (name, _), change in found.changes.items():
        assert isinstance(change, LowRank)
        module = table[name].module
        weight = module.weight.data
        up, down = change.up.float().flatten(1), change.down.float().flatten(1)
        up = up * change.scale
        delta = torch.bmm(up[None], down[None])[0].reshape(weight.shape)
        undo.append((module, weight))
        module.weight.data = (weight.float() + 1.0 * delta).to(weight.dtype)
    return undo


def timed(what: str, do: Callable[[], object], times: int = 5) -> None:
    took, worked = [], []
    for _ in range(times):
        began, begun = time.perf_counter(), time.process_time()
        undo = do()
        took.append(time.perf_counter() - began)
        worked.append(time.process_time() - begun)
        if isinstance(undo, Patch):
            undo.restore()
        elif isinstance(undo, list):
            for module, weight in undo:
                module.weight.data = weight
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{what:26} {min(took):6.3f} s, {min(worked):6.3f} s of processors, at best of {times}; "
        f"peak so far {peak:.2f} GB"
    )


def main() -> None:
    found = rank_16()
    for dtype in (torch.float32, torch.bfloat16):
        parts = models(dtype)
        for part in parts.values():
            for parameter in part.parameters():
                nn.init.normal_(parameter, 0, 0.02)
        touched = sum(layers(parts)[name].module.weight.numel() for name, _ in found.changes)
        size = touched * torch.finfo(dtype).bits / 8 / 2**30
        print(f"{dtype}: {len(found.changes)} layers, {size:.2f} GB touched")
        timed("ours", lambda parts=parts: Patch(parts, [Use(found)]))
        timed("diffusers' fuse", lambda parts=parts: fused(parts, found))
        timed("ours", lambda parts=parts: Patch(parts, [Use(found)]))
        kept = Kept(parts)
        kept.use([Use(found)])
        timed("ours, the same set again", lambda kept=kept: kept.use([Use(found)]))
        kept.restore()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
