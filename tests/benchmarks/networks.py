"""The networks: a step of classifier-free guidance (a batch of two), and the VAE's decoding.

Each candidate has a process of its own for every pair of thread count and precision, with the
weights of one file; they take turns. The random SD 1.5 of real size is measured against the goals;
the model that ships and one of the user's own are measured at their own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import (
    OURS,
    THEIRS,
    Asked,
    Program,
    Row,
    candidates,
    children_alternated,
    compared,
    forget_peak,
    memory,
    programs,
)
from tests.benchmarks.report import machine

SIZES = (256, 512)
STEP_GOALS = {
    ("float32", 256): 0.50,
    ("float32", 512): 0.58,
    ("bfloat16", 256): 0.62,
    ("bfloat16", 512): 0.65,
}
DECODING_GOALS = {"float32": (0.8, 0.6)}
"""Of its time and of its memory."""
TIMESTEP = 601.0

Works = dict[str, Callable[[], Any]]


def rows(asked: Asked) -> Iterator[Row]:
    from tests.benchmarks.models import found, written

    if asked.short:
        for file in dict.fromkeys((None, asked.checkpoint)):
            size = found(file, asked.folder).size
            chosen = _programs(asked, file, [size], "float32")
            with candidates(chosen, 1) as running:
                name = "the shipped model" if file is None else file.stem
                step = compared(running, f"step {size}", asked.rounds, follows=True)
                yield from step.rows(f"step, CFG, {size}², {name}", 1, note="float32")
        return
    file = written(asked.folder)
    for precision in _precisions():
        chosen = _programs(asked, file, SIZES, precision)
        for threads in asked.threads:
            yield from _of_real_size(chosen, precision, threads, asked.rounds)
        yield from _decoding_memory(chosen, precision)


def _precisions() -> list[str]:
    """Where the processor has no bfloat16, torch only plays it: nothing to compare."""
    has = "avx512_bf16" in machine()["processor"] or "amx_bf16" in machine()["processor"]
    return ["float32", "bfloat16"] if has else ["float32"]


def _programs(
    asked: Asked, file: Path | None, sizes: Sequence[int], precision: str
) -> dict[str, Program]:
    """ComfyUI reads files alone, and computes in float32 on a CPU whatever its weights are."""
    comfyui = "comfyui:works" if file is not None and precision == "float32" else None
    return programs(
        asked, "networks:our_works", "networks:their_works", comfyui,
        file=file and str(file), folder=str(asked.folder), sizes=[*sizes], precision=precision,
    )  # fmt: skip


def _of_real_size(
    chosen: Mapping[str, Program], precision: str, threads: int, rounds: int
) -> Iterator[Row]:
    with candidates(chosen, threads) as running:
        for size in SIZES:
            most = STEP_GOALS[precision, size]
            step = compared(running, f"step {size}", rounds, follows=True)
            yield from step.rows(f"SD 1.5 step, CFG, {size}²", threads, most, precision)
        goal, _ = DECODING_GOALS.get(precision, (None, None))
        decoding = compared(running, "decode", rounds)
        yield from decoding.rows("SD 1.5 VAE decode, 512²", threads, goal, precision)


def _decoding_memory(chosen: Mapping[str, Program], precision: str) -> Iterator[Row]:
    functions = {OURS: "our_decoding_memory", THEIRS: "their_decoding_memory"}
    peaks = children_alternated(
        {
            name: replace(chosen[name], function=f"networks:{function}")
            for name, function in functions.items()
            if name in chosen
        },
        rounds=1,
        warm=0,
    )
    _, goal = DECODING_GOALS.get(precision, (None, None))
    what = "SD 1.5 VAE decode, 512²: memory above the weights"
    yield Row(
        what, peaks[OURS], peaks.get(THEIRS, ()), "GB", most=goal, note=precision, is_ratio=True
    )


# --- in a candidate's process --------------------------------------------------------------------


def our_works(file: str | None, folder: str, sizes: list[int], precision: str) -> Works:
    """A step of every size, and the decoding of a picture of 512²."""
    from tests.benchmarks import models

    model = models.ours(None if file is None else Path(file), Path(folder), precision)
    config = model.network.config
    given = inputs(sizes, model.vae.config.shrink, config.context, precision, config.vector)
    steps = {size: as_runs_ask(*tensors) for size, tensors in given.items()}
    return networks_works(model.network, model.decode, steps, latents())


def as_runs_ask(x: Any, timestep: Any, context: Any, vector: Any = None) -> list[Any]:
    """What guidance gives our U-Net: the picture once for all prompts, unless they differ in more
    than words, and the keys and values of the words from the step before."""
    from core.nn.attention import PLAIN, Words

    if vector is None:
        x, timestep = x[:1], timestep[:1]
    return [x, timestep, context, vector, replace(PLAIN, words=Words())]


def their_works(file: str | None, folder: str, sizes: list[int], precision: str) -> Works:
    """The same of diffusers; nothing of an XL, which takes more inputs."""
    import torch

    from tests.benchmarks import models

    path = None if file is None else Path(file)
    model = models.ours(path, Path(folder), precision)  # its numbers are read off the file
    source, family = models.found(path, Path(folder)).path, model.family
    config, vae_config, dtype = model.network.config, model.vae.config, getattr(torch, precision)
    del model
    if source.suffix != ".safetensors" or config.vector is not None:
        return {}
    unet = models.diffusers_unet(source, config, dtype)
    vae = models.diffusers_vae(source, vae_config, dtype)
    given = inputs(sizes, vae_config.shrink, config.context, precision)
    scaled = (latents() / family.latent_scale).to(dtype)
    return networks_works(
        lambda x, timestep, context: unet(x, timestep, context).sample,
        lambda x: vae.decode(x).sample,
        given,
        scaled,
    )


def networks_works(
    network: Callable[..., Any],
    decode: Callable[[Any], Any],
    given: Mapping[int, Sequence[Any]],
    latents: Any,
) -> Works:
    """By the names that the rows call them by."""
    steps = {f"step {size}": called(network, *tensors) for size, tensors in given.items()}
    return {**steps, "decode": called(decode, latents)}


def called(function: Callable[..., Any], *tensors: Any) -> Callable[[], Any]:
    """The call, to be made in inference mode."""

    def call() -> Any:
        import torch

        with torch.inference_mode():
            return function(*tensors)

    return call


def inputs(
    sizes: Sequence[int], shrink: int, width: int, precision: str, vector: int | None = None
) -> dict[int, list[Any]]:
    """Size → what a U-Net takes for one picture and two prompts; the same numbers in every
    process."""
    import torch

    dtype, generator = getattr(torch, precision), torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Any:
        return torch.randn(shape, generator=generator).to(dtype)

    given = {}
    for size in sizes:
        x = drawn(1, 4, size // shrink, size // shrink).repeat(2, 1, 1, 1)
        given[size] = [x, torch.tensor([TIMESTEP, TIMESTEP]), drawn(2, 77, width)]
        if vector is not None:
            given[size].append(drawn(2, vector))
    return given


def latents() -> Any:
    """Of a picture of 512², as the U-Net sees them."""
    import torch

    return torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))


def our_decoding_memory(file: str, folder: str, sizes: list[int], precision: str) -> float:
    """GB that the first decoding needs above what is resident before it."""
    import torch

    from tests.benchmarks import models

    model = models.ours(Path(file), Path(folder), precision)
    latents = torch.randn(1, 4, 64, 64)
    return _needed(lambda: model.decode(latents))


def their_decoding_memory(file: str, folder: str, sizes: list[int], precision: str) -> float:
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
