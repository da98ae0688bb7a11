"""A rank-16 LoRA over SD 1.5's 264 layers, put on and taken off: ours beside diffusers and peft.

The goal counts `fuse_lora`, that is without reading the file; ours is `Checkpoint.wear`, as every
run calls it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Asked, Row, has_diffusers, in_child, seconds


def rows(asked: Asked) -> Iterator[Row]:
    if asked.short:
        return
    from tests.benchmarks.models import written

    measured = in_child(
        "lora:compared",
        file=str(written(asked.folder)),
        folder=str(asked.folder),
        rounds=asked.rounds,
    )
    difference = measured["difference"]
    note = "" if difference is None else f"answers differ by {difference:.1e}"
    exact = "bit for bit" if measured["exact"] else "NOT EXACT"
    times = {name: seconds(taken, 1) for name, taken in measured["times"].items()}
    put_on, taken_off = times.get("fuse", ()), times.get("unfuse", ())
    yield Row("LoRA put on, 264 layers", times["on"], put_on, "CPU s", 1, 0.5, note, measured)
    yield Row(
        "another weight for it, 264 layers, against fuse_lora",
        times["another"],
        put_on,
        "CPU s",
        1,
        note="in the memory of the one before",
    )
    theirs = (
        ""
        if measured["their_exact"] is None
        else f"; theirs differs: {not measured['their_exact']}"
    )
    yield Row("LoRA taken off", times["off"], unit="CPU s", threads=1, most=0.2, note=exact)
    if taken_off:
        yield Row(
            "LoRA taken off, against unfuse_lora",
            times["off"],
            taken_off,
            "CPU s",
            1,
            note=f"{exact}{theirs}",
        )
    yield Row(
        "a step with the LoRA on, against one without",
        times["with"],
        times["without"],
        "CPU s",
        1,
        note="both ours, 64²",
    )


def compared(file: str, folder: str, rounds: int) -> dict[str, Any]:
    """In a child: seconds of every part, in turns, and whether taking off leaves every bit."""
    import torch

    from core.adapters.lora import lora
    from core.adapters.patch import Use
    from tests.benchmarks import models
    from tests.benchmarks.harness import alternated
    from tests.full_size import manifest

    model = models.ours(Path(file), Path(folder), "float32")
    generator = torch.Generator().manual_seed(3)
    tensors = {
        key: torch.full(shape, 8.0) if not shape else torch.randn(shape, generator=generator) * 0.01
        for key, (shape, _) in manifest("lora-kohya-sd15").items()
    }
    uses = [Use(lora("rank 16", tensors, {}))]
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 768)
    timestep = torch.tensor([601.0, 601.0])
    ids = torch.full((1, 77), 49407)

    def answers() -> tuple[torch.Tensor, torch.Tensor]:
        return model.network(x, timestep, context), model.text(ids).context

    with torch.inference_mode():
        before = answers()
        works = {
            "without": answers,
            "on": lambda: model.wear(uses),
            "with": answers,
            "another": lambda: model.wear([replace(uses[0], weight=0.5)]),
            "off": lambda: model.wear(()),
        }
        pipeline = _pipeline(Path(file), model) if has_diffusers() else None
        their_before = difference = None
        if pipeline is not None:
            their_before = pipeline.unet(x, timestep, context).sample
            pipeline.load_lora_weights(tensors)
            both = {"components": ["unet", "text_encoder"]}
            works["fuse"] = lambda: pipeline.fuse_lora(**both)
            model.wear(uses)
            pipeline.fuse_lora(**both)
            theirs = pipeline.unet(x, timestep, context).sample
            difference = ((answers()[0] - theirs).abs().max() / theirs.abs().max()).item()
            works["unfuse"] = lambda: pipeline.unfuse_lora(**both)
            pipeline.unfuse_lora(**both)
            model.wear(())
        times = alternated(works, rounds)
        exact = all(torch.equal(a, b) for a, b in zip(before, answers(), strict=True))
        their_exact = None
        if pipeline is not None:
            pipeline.unload_lora_weights()
            their_exact = torch.equal(their_before, pipeline.unet(x, timestep, context).sample)
    return {
        "times": {name: [asdict(one) for one in taken] for name, taken in times.items()},
        "difference": difference,
        "exact": exact,
        "their_exact": their_exact,
    }


def _pipeline(file: Path, model: Any) -> Any:
    """diffusers' pipeline with the same U-Net and text encoder, as far as LoRAs need it."""
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    from tests.benchmarks import models

    return StableDiffusionPipeline(
        vae=None,
        text_encoder=copy.deepcopy(model.text.text_model),
        tokenizer=None,
        unet=models.diffusers_unet(file, model.network.config, torch.float32),
        scheduler=PNDMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
