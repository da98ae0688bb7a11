"""A rank-16 LoRA over SD 1.5's 264 layers, put on and taken off: ours beside the others.

The goal counts `fuse_lora`, that is without reading the file; ours is `Checkpoint.wear`, as every
run calls it. Each candidate has a process of its own; they take turns.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import (
    OURS,
    THEIRS,
    Asked,
    Candidate,
    Program,
    Row,
    Spent,
    candidates,
    programs,
    seconds,
    unit,
)
from tests.benchmarks.networks import Works, called, inputs

SIZE = 64
"""Pixels a side of the step that is compared: there weights are all that there is to read."""
TURN = (
    *[("without", "step")] * 3,
    ("on", "on"),
    *[("with", "step")] * 3,
    ("another", "another"),
    ("off", "off"),
    ("let go", "let go"),
    ("first", "on"),
    ("off", "off"),
)
"""One round: what is measured, by which of the works that a candidate knows. On a shared machine
single steps take up to twice as long, so there are several. Of what a LoRA leaves when it is taken
off only ours knows, for the others the first is as any."""
BOTH = {"components": ["unet", "text_encoder"]}


def rows(asked: Asked) -> Iterator[Row]:
    if asked.short:
        return
    from tests.benchmarks.models import lora_written, written

    chosen = programs(
        asked, "lora:our_works", "lora:their_works", "comfyui:lora_works",
        file=str(written(asked.folder)), folder=str(asked.folder),
        lora=str(lora_written(asked.folder)),
    )  # fmt: skip
    for threads in asked.threads:
        yield from _turns(chosen, threads, asked.rounds)


def _turns(chosen: Mapping[str, Program], threads: int, rounds: int) -> Iterator[Row]:
    with candidates(chosen, threads) as running:
        differences = {name: _difference(running, name) for name in running if name != OURS}
        is_exact = _is_exact(running[OURS])
        taken: dict[str, dict[str, list[Spent]]] = {
            name: {what: [] for what, work in TURN if work in one.works}
            for name, one in running.items()
        }
        for _ in range(rounds):
            for name, one in running.items():
                for what, work in TURN:
                    if work in one.works:
                        taken[name][what].append(one.did(work))
    ours = taken.pop(OURS)
    others = taken or {THEIRS: {}}
    for name, theirs in others.items():
        yield from _against(name, threads, ours, theirs, differences.get(name))
    off, note = seconds(ours["off"], threads), "bit for bit" if is_exact else "NOT EXACT"
    yield Row("LoRA taken off", off, unit=unit(threads), threads=threads, most=0.2, note=note)
    yield Row(
        "a step with the LoRA on, against one without",
        seconds(ours["with"], threads),
        seconds(ours["without"], threads),
        unit(threads),
        threads,
        note="both ours, 64²",
        other="without",
    )


def _against(
    name: str,
    threads: int,
    ours: Mapping[str, list[Spent]],
    theirs: Mapping[str, list[Spent]],
    difference: float | None,
) -> Iterator[Row]:
    def row(what: str, work: str, against: str, most: float | None = None, note: str = "") -> Row:
        taken = (seconds(ours[work], threads), seconds(theirs.get(against, ()), threads))
        return Row(
            what, *taken, unit(threads), threads, most, note, other=name, is_ratio=most is not None
        )

    answers = "" if difference is None else f"answers differ by {difference:.1e}"
    most = 0.5 if name == THEIRS else None
    yield row("LoRA put on, 264 layers, where one was before", "on", "on", most, answers)
    yield row("the first one, into new memory", "first", "first", most)
    yield row("another weight for it, against putting it on", "another", "on")
    if theirs.get("off"):
        yield row("LoRA taken off, beside", "off", "off")


def _answer(one: Candidate) -> Any:
    import numpy

    with tempfile.TemporaryDirectory() as folder:
        one.did("step", Path(folder) / "answer.npy")
        return numpy.load(Path(folder) / "answer.npy")


def _difference(running: Mapping[str, Candidate], name: str) -> float:
    """Between the answers with the LoRA on, relative to the largest number."""
    answers = {}
    for one in (OURS, name):
        running[one].did("on")
        answers[one] = _answer(running[one])
        running[one].did("off")
    return float(abs(answers[OURS] - answers[name]).max() / abs(answers[name]).max())


def _is_exact(one: Candidate) -> bool:
    """Whether putting it on changes the answer, and taking it off leaves every bit."""
    before = _answer(one)
    one.did("on")
    between = _answer(one)
    one.did("off")
    return bool((_answer(one) == before).all() and not (between == before).all())


# --- in a candidate's process --------------------------------------------------------------------


def our_works(file: str, folder: str, lora: str) -> Works:
    from safetensors.torch import load_file

    from core.adapters.lora import lora as read
    from core.adapters.patch import Use
    from tests.benchmarks import models

    model = models.ours(Path(file), Path(folder), "float32")
    use = Use(read("rank 16", load_file(lora), {}))
    return {
        "step": called(model.network, *inputs([SIZE], 8, 768, "float32")[SIZE]),
        "on": lambda: model.wear([use]),
        "another": lambda: model.wear([replace(use, weight=0.5)]),
        "off": lambda: model.wear(()),
        "let go": model.forgo,
    }


def their_works(file: str, folder: str, lora: str) -> Works:
    from safetensors.torch import load_file

    from tests.benchmarks import models

    pipeline = _pipeline(Path(file), models.ours(Path(file), Path(folder), "float32"))
    pipeline.load_lora_weights(load_file(lora))
    pipeline.fuse_lora(**BOTH)  # as in use: what is set up at the first time is there
    pipeline.unfuse_lora(**BOTH)
    x, timestep, context = inputs([SIZE], 8, 768, "float32")[SIZE]
    return {
        "on": called(lambda: pipeline.fuse_lora(**BOTH)),
        "step": called(lambda: pipeline.unet(x, timestep, context).sample),
        "off": called(lambda: pipeline.unfuse_lora(**BOTH)),
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
