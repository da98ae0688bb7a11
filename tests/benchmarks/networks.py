"""The networks: a step of classifier-free guidance (a batch of two), and the VAE's decoding.

Each pair of thread count and precision has a process of its own, in which ours and diffusers' take
turns on the same weights. The random SD 1.5 of real size is measured against the goals; the model
that ships and one of the user's own are measured at their own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import (
    OURS,
    THEIRS,
    Asked,
    Row,
    alternated,
    children_alternated,
    forget_peak,
    has_diffusers,
    in_child,
    machine,
    memory,
    seconds,
    spent,
)

STEP_GOALS = {
    ("float32", 256): 0.50,
    ("float32", 512): 0.58,
    ("bfloat16", 256): 0.62,
    ("bfloat16", 512): 0.65,
}
DECODING_GOALS = {"float32": (0.8, 0.6)}
"""Of its time and of its memory."""


def rows(asked: Asked) -> Iterator[Row]:
    from tests.benchmarks.models import found, written

    if asked.short:
        for file in dict.fromkeys((None, asked.checkpoint)):
            size = found(file, asked.folder).size
            given = {"file": file and str(file), "folder": str(asked.folder), "sizes": [size]}
            name = "the shipped model" if file is None else file.stem
            measured = in_child("networks:steps", **given, precision="float32", rounds=asked.rounds)
            yield _row(f"step, CFG, {size}², {name}", measured[str(size)], "float32", 1)
        return
    given = {"file": str(written(asked.folder)), "folder": str(asked.folder)}
    for precision in _precisions():
        for threads in asked.threads:
            yield from _steps(given, precision, threads, asked.rounds)
        for threads in asked.threads:
            measured = in_child(
                "networks:decoding", threads, **given, precision=precision, rounds=asked.rounds
            )
            goal, _ = DECODING_GOALS.get(precision, (None, None))
            yield _row("SD 1.5 VAE decode, 512²", measured, precision, threads, goal)
        yield _decoding_memory(given, precision)


def _precisions() -> list[str]:
    """Where the processor has no bfloat16, torch only plays it: nothing to compare."""
    has = "avx512_bf16" in machine()["processor"] or "amx_bf16" in machine()["processor"]
    return ["float32", "bfloat16"] if has else ["float32"]


def _steps(given: Mapping[str, Any], precision: str, threads: int, rounds: int) -> Iterator[Row]:
    sizes = [256, 512]
    measured = in_child(
        "networks:steps", threads, **given, sizes=sizes, precision=precision, rounds=rounds
    )
    for size in sizes:
        goal = STEP_GOALS[precision, size]
        what = f"SD 1.5 step, CFG, {size}²"
        yield _row(what, measured[str(size)], precision, threads, goal)


def _row(
    what: str, measured: Mapping[str, Any], precision: str, threads: int, goal: float | None = None
) -> Row:
    difference = measured["difference"]
    note = precision if difference is None else f"{precision}, answers differ by {difference:.1e}"
    return Row(
        what,
        seconds(measured[OURS], threads),
        seconds(measured.get(THEIRS, ()), threads),
        "CPU s" if threads == 1 else "s",
        threads,
        goal,
        note,
        measured,
    )


def _decoding_memory(given: Mapping[str, Any], precision: str) -> Row:
    functions = {OURS: "networks:our_decoding_memory"}
    if has_diffusers():
        functions[THEIRS] = "networks:their_decoding_memory"
    peaks = children_alternated(functions, 1, warm=0, **given, precision=precision)
    _, goal = DECODING_GOALS.get(precision, (None, None))
    what = "SD 1.5 VAE decode, 512²: memory above the weights"
    return Row(what, peaks[OURS], peaks.get(THEIRS, ()), "GB", most=goal, note=precision)


# --- in a child ----------------------------------------------------------------------------------


def steps(
    file: str | None, folder: str, sizes: list[int], precision: str, rounds: int
) -> dict[str, Any]:
    """Both U-Nets on a batch of two, by size. An XL's are not compared: it takes more inputs."""
    import torch

    from tests.benchmarks import models

    path = None if file is None else Path(file)
    model = models.ours(path, Path(folder), precision)
    source = models.found(path, Path(folder)).path
    config, dtype = model.network.config, getattr(torch, precision)
    theirs = None
    if has_diffusers() and source.suffix == ".safetensors" and config.vector is None:
        theirs = models.diffusers_unet(source, config, dtype)
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 77, config.context, generator=generator).to(dtype)
    vector = None if config.vector is None else torch.randn(2, config.vector).to(dtype)
    timestep = torch.tensor([601.0, 601.0])
    measured = {}
    for size in sizes:
        _, rows, columns = model.latent_shape(size, size)
        x = torch.randn(2, config.in_channels, rows, columns, generator=generator).to(dtype)
        works: dict[str, Callable[[], Any]] = {
            OURS: lambda x=x: model.network(x, timestep, context, vector)  # type: ignore[misc]
        }
        if theirs is not None:
            works[THEIRS] = lambda x=x: theirs(x, timestep, context).sample  # type: ignore[misc]
        measured[str(size)] = _compared(works, rounds)
    return measured


def decoding(file: str, folder: str, precision: str, rounds: int) -> dict[str, Any]:
    """Both decoders on one picture of 512²."""
    import torch

    from tests.benchmarks import models

    model = models.ours(Path(file), Path(folder), precision)
    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    works: dict[str, Callable[[], Any]] = {OURS: lambda: model.decode(latents)}
    if has_diffusers():
        dtype = getattr(torch, precision)
        theirs = models.diffusers_vae(Path(file), model.vae.config, dtype)
        scaled = (latents / model.family.latent_scale).to(dtype)
        works[THEIRS] = lambda: theirs.decode(scaled).sample
    return _compared(works, rounds)


def _compared(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Times by name; what ours took the first time, when it packs its weights; and by how much
    the answers differ, relative to the largest number in them."""
    import torch

    answers, first = {}, {}
    with torch.inference_mode():
        for name, work in works.items():
            first[name] = asdict(spent(lambda name=name, work=work: answers.update({name: work()})))  # type: ignore[misc]
        difference = None
        if THEIRS in answers:
            ours, theirs = (answers[name].float() for name in (OURS, THEIRS))
            difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        taken = alternated(works, rounds, warm=0)  # all have run once
    times = {name: [asdict(one) for one in ones] for name, ones in taken.items()}
    return {**times, "first": first, "difference": difference}


def our_decoding_memory(file: str, folder: str, precision: str) -> float:
    """GB that the first decoding needs above what is resident before it."""
    import torch

    from tests.benchmarks import models

    model = models.ours(Path(file), Path(folder), precision)
    latents = torch.randn(1, 4, 64, 64)
    return _needed(lambda: model.decode(latents))


def their_decoding_memory(file: str, folder: str, precision: str) -> float:
    import torch

    from core.nn.vae import VAEConfig
    from tests.benchmarks import models

    dtype = getattr(torch, precision)
    vae = models.diffusers_vae(Path(file), VAEConfig(), dtype)
    latents = torch.randn(1, 4, 64, 64, dtype=dtype)
    return _needed(lambda: vae.decode(latents).sample)


def _needed(work: Callable[[], object]) -> float:
    import torch

    with torch.inference_mode():
        forget_peak()
        before, _ = memory()
        work()
        _, peak = memory()
    return peak - before
