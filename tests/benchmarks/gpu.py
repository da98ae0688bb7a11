"""Steps of full-size U-Nets on a graphics card: eager, compiled and recorded, against diffusers.

A step is one call for two prompts, as classifier-free guidance makes it. All candidates have
the same random weights and take turns in one process; the card's rate is that of a large product of
matrices in the same process. With --device cpu --tiny the same code runs through without a card,
which measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.models.compiling import CompiledBlocks
from core.models.graphs import Graphs, cuda_recorder
from core.models.placing import PlacedUNet, Placing, laid_out
from core.models.precision import has_bfloat16
from core.nn.attention import places_side_by_side
from core.nn.unet import UNetConfig
from tests.benchmarks.harness import OURS, THEIRS, Asked, Row, alternated, has_diffusers
from tests.benchmarks.networks import as_runs_ask

SD15 = UNetConfig()
SDXL = UNetConfig(
    multipliers=(1, 2, 4),
    depths=(0, 2, 10),
    middle_depth=10,
    context=2048,
    heads=None,
    linear_projection=True,
    vector=2816,
)
SIZES = {"SDXL": (SDXL, 128), "SD 1.5": (SD15, 64)}
"""Numbers, and rows and columns of the latents."""
SIDE = 8192
"""Of the matrices whose product is the card's rate."""
WARM = 2
"""Rounds that do not count: in the first blocks are compiled, in the second calls are recorded."""
COMPARED = {
    "eager": THEIRS,
    "compiled": f"{THEIRS} compiled",
    "recorded": THEIRS,
    "compiled, recorded": f"{THEIRS} compiled",
}
"""Ours → what each is measured against."""

Given = dict[str, Any]
Works = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Bench:
    """Where it runs, and how large."""

    device: torch.device
    tiny: bool

    @property
    def dtype(self) -> torch.dtype:
        if self.tiny:
            return torch.float64  # which takes torch's public functions on a CPU, as a card does
        if self.device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if has_bfloat16(self.device) else torch.float16

    @property
    def backend(self) -> str:
        return "eager" if self.tiny else "inductor"

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def is_there(device: str) -> bool:
    return torch.device(device).type != "cuda" or torch.cuda.is_available()


def rows(asked: Asked) -> Iterator[Row]:
    bench = Bench(torch.device(asked.device), asked.tiny)
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    with torch.inference_mode():
        rate = matrix_rate(bench)
        yield Row(f"product of matrices, {name}", [rate / 1e12], unit="TFLOP/s")
        for title, (config, cells) in SIZES.items():
            if bench.tiny:
                config, cells = _tiny(config), 8
            yield from _steps(bench, title, config, cells, rate, asked.rounds)


def matrix_rate(bench: Bench) -> float:
    """Operations a second, the best of five, counted as 2 n³ for each product."""
    side = 256 if bench.tiny else SIDE
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))

    def products() -> None:
        for _ in range(10):
            torch.mm(a, b)
        bench.wait()

    taken = alternated({"mm": products}, rounds=5)["mm"]
    return 10 * 2 * side**3 / min(one.wall for one in taken)


def _steps(
    bench: Bench, title: str, config: UNetConfig, cells: int, rate: float, rounds: int
) -> Iterator[Row]:
    placing = Placing(bench.device)
    works, notes = _works(bench, config, cells, placing)
    calls = 2 if bench.tiny else 10

    def repeated(work: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                work()
            bench.wait()

        return run

    with FlopCounterMode(display=False) as counter:
        expected = works[f"{OURS} eager"]()
    operations = counter.get_total_flops()
    taken = alternated({n: repeated(w) for n, w in works.items()}, rounds, WARM)
    notes += [note.text for note in placing.taken_notes()]
    for variant, other in COMPARED.items():
        if (ours := f"{OURS} {variant}") not in works:
            continue
        milliseconds = {
            n: [one.wall / calls * 1e3 for one in taken.get(n, ())] for n in (ours, other)
        }
        best = min(milliseconds[ours])
        differences = {n: _difference(works[n](), expected) for n in (ours, other) if n in works}
        share = operations / (best / 1e3) / rate
        apart = ", ".join(f"{n} {value:.1e}" for n, value in differences.items())
        yield Row(
            f"{title} step, CFG, {cells * 8}², {variant}",
            milliseconds[ours],
            milliseconds[other],
            unit="ms",
            note=f"{1e3 / best:.3g} it/s, {share:.0%} of the product's rate; from eager: {apart}"
            + "".join(f"; {note}" for note in notes),
            more={"operations": operations, "rate": rate, "share": share},
        )


def _works(
    bench: Bench, config: UNetConfig, cells: int, placing: Placing
) -> tuple[Works, list[str]]:
    """Everything that is measured, and what could not be."""
    plain = _filled(config, placing, bench)
    compiled = _twin(plain, config, placing)
    compiled._compiled = CompiledBlocks(compiled, placing.tell, bench.backend)
    ours, theirs = _given(config, cells, bench)
    networks: dict[str, Callable[..., Tensor]] = {
        f"{OURS} eager": plain,
        f"{OURS} compiled": compiled,
    }
    notes = []
    if bench.device.type == "cuda":
        record = cuda_recorder(bench.device)
        networks[f"{OURS} recorded"] = Graphs(plain, placing, record)
        networks[f"{OURS} compiled, recorded"] = Graphs(compiled, placing, record)
    else:
        notes.append("nothing is recorded without a card")
    works: Works = {n: lambda network=network: network(**ours) for n, network in networks.items()}  # type: ignore[misc]
    if has_diffusers():
        other = _diffusers(plain, config)
        laid_out(other, bench.device)
        ours_to_theirs = theirs(other)
        works[THEIRS] = lambda: other(**ours_to_theirs).sample
        quick = torch.compile(other, backend=bench.backend)
        works[f"{THEIRS} compiled"] = lambda: quick(**ours_to_theirs).sample
    return works, notes


def _filled(config: UNetConfig, placing: Placing, bench: Bench) -> PlacedUNet:
    """A network with random weights, drawn where they lie."""
    with torch.device("meta"):
        network = PlacedUNet(config, placing)
    network.to(bench.dtype).to_empty(device=bench.device)
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(0)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.fill_(1)
    filled = network.state_dict()
    places = places_side_by_side(network, bench.dtype, bench.device)
    laid = {name: place.copy_(filled[name]) for name, place in places.items()}
    network.load_state_dict({**filled, **laid}, assign=True)
    laid_out(network, bench.device)
    placing.took(network.eval().requires_grad_(False))
    return network


def _twin(network: PlacedUNet, config: UNetConfig, placing: Placing) -> PlacedUNet:
    """Another network of the very same weights."""
    with torch.device("meta"):
        twin = PlacedUNet(config, placing)
    twin.load_state_dict(network.state_dict(), assign=True)
    placing.took(twin.eval().requires_grad_(False))
    return twin


def _diffusers(network: PlacedUNet, config: UNetConfig) -> Any:
    from tests.core.nn import test_parity as parity

    with torch.device("meta"):
        other = parity.diffusers_unet(config)
    named = parity.diffusers_unet_keys(network.state_dict(), config)
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    other.load_state_dict({n: t.reshape(shapes[n]) for n, t in named.items()}, assign=True)
    return other.requires_grad_(False)


def _given(
    config: UNetConfig, cells: int, bench: Bench
) -> tuple[Given, Callable[[Any], Mapping[str, Any]]]:
    """What ours is called with, and how diffusers is told the same."""
    drawn = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn).to(bench.device, bench.dtype)

    x, context = numbers(1, config.in_channels, cells, cells), numbers(2, 77, config.context)
    x, timestep = x.repeat(2, 1, 1, 1), torch.full((2,), 601.0, device=bench.device)
    names = "x", "timestep", "context", "vector", "attending"
    theirs = {"sample": x, "timestep": timestep, "encoder_hidden_states": context}
    if config.vector is None:
        asked = as_runs_ask(x, timestep, context)
        return dict(zip(names, asked, strict=True)), lambda other: theirs
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2, device=bench.device)
    # Their network of the tests embeds each of six numbers in 16.
    pooled = numbers(2, config.vector - 6 * 16)
    vector = torch.zeros(2, config.vector, device=bench.device, dtype=bench.dtype)
    ours = dict(zip(names, as_runs_ask(x, timestep, context, vector), strict=True))

    def told(other: Any) -> Mapping[str, Any]:
        embedded = other.add_time_proj(sizes.flatten()).reshape(2, -1).to(bench.dtype)
        vector.copy_(torch.cat((pooled, embedded), dim=-1))
        return {**theirs, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    return ours, told


def _difference(answer: Tensor, expected: Tensor) -> float:
    return float((answer - expected).abs().max() / expected.abs().max())


def _tiny(config: UNetConfig) -> UNetConfig:
    """A small network of the same kind."""
    return replace(
        config,
        channels=32,
        context=24,
        heads=config.heads and 4,
        head_width=16,
        depths=tuple(min(depth, 1) for depth in config.depths),
        middle_depth=1,
        vector=config.vector and 112,
    )
