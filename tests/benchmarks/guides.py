"""A step that one ControlNet guides, against diffusers: SD 1.5's U-Net and ControlNet at real size,
a batch of two (classifier-free guidance), float32, one thread.

The weights are random and made in the process; both programs hold the very same memory, so no file
is written and what they answer can be compared. `python -m tests.benchmarks.guides` runs it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import (
    OURS,
    THEIRS,
    Asked,
    Row,
    alternated,
    forget_peak,
    has_diffusers,
    in_child,
    memory,
    seconds,
)
from tests.benchmarks.report import table

SIZE, SHORT_SIZE = 256, 128
"""Pixels on each side of what is painted."""
DRAWN = 2**20 - 1
"""Random numbers that all weights are made of, over and over."""


def rows(asked: Asked) -> Iterator[Row]:
    size = SHORT_SIZE if asked.short else SIZE
    measured = in_child("guides:steps", size=size, rounds=asked.rounds)
    difference = measured["difference"]
    note = "float32" if difference is None else f"float32, answers differ by {difference:.1e}"
    taken = {name: seconds(times, 1) for name, times in measured["times"].items()}
    yield Row(
        f"SD 1.5 step, CFG, one ControlNet, {size}²",
        taken[OURS],
        taken.get(THEIRS, ()),
        "CPU s",
        1,
        note=note,
        more=measured,
    )
    yield Row(
        "a step with the ControlNet, against one without",
        taken[OURS],
        taken["plain"],
        "CPU s",
        1,
        note="both ours",
    )
    names = (OURS, THEIRS) if has_diffusers() else (OURS,)
    peaks = {name: [in_child("guides:needed", size=size, which=name)] for name in names}
    yield Row(
        "the same: memory above the weights", peaks[OURS], peaks.get(THEIRS, ()), "GB", threads=1
    )


def steps(size: int, rounds: int) -> dict[str, Any]:
    """In a child: processor seconds of each by turns, and by how much the answers differ."""
    import torch

    answers = {}
    works = works_of(size, (OURS, THEIRS, "plain"))
    with torch.inference_mode():
        for name, work in works.items():
            answers[name] = work()
        difference = None
        if THEIRS in answers:
            ours, theirs = answers[OURS], answers[THEIRS]
            difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        taken = alternated(works, rounds, warm=0)  # all have run once
    times = {name: [vars(one) for one in ones] for name, ones in taken.items()}
    return {"times": times, "difference": difference}


def needed(size: int, which: str) -> float:
    """In a child: GB that the first step needs above what is resident before it."""
    import torch

    work = works_of(size, (which,))[which]
    with torch.inference_mode():
        forget_peak()
        before, _ = memory()
        work()
        _, peak = memory()
    return peak - before


def works_of(size: int, names: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """A step of each program: the ControlNet's answer, and the U-Net's with it."""
    import torch

    from core.nn.controlnet import ControlNet
    from core.nn.unet import UNet, UNetConfig
    from core.sampling.conditioning import Conditioning
    from core.sampling.controls import NetControl

    config = UNetConfig()
    unet, net = _filled(UNet, config, 1), _filled(ControlNet, config, 2)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, size // 8, size // 8, generator=generator)
    hint = torch.rand(1, 3, size, size, generator=generator)
    context = torch.randn(2, 77, config.context, generator=generator)
    timestep = torch.tensor([601.0, 601.0])
    told = Conditioning(context, negative=(False, True))
    control = NetControl(net, hint, (1.0,) * (len(net.zero_convs) + 1))
    works: dict[str, Callable[[], Any]] = {
        OURS: lambda: unet(x, timestep, context, residuals=control(x, timestep, told)),
        "plain": lambda: unet(x, timestep, context),
    }
    if has_diffusers() and THEIRS in names:
        from tests.core.nn import test_controlnet as controlled
        from tests.core.nn import test_parity as parity

        with torch.device("meta"):
            their_unet = parity.diffusers_unet(config)
            their_net = controlled.diffusers_controlnet(config)
        _shared(their_unet, parity.diffusers_unet_keys(unet.state_dict(), config))
        _shared(their_net, controlled.diffusers_control_keys(net.state_dict(), config))
        hints = hint.expand(2, -1, -1, -1)

        def theirs() -> Any:
            down, middle = their_net(x, timestep, context, hints, return_dict=False)
            return their_unet(
                x,
                timestep,
                context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample

        works[THEIRS] = theirs
    return {name: works[name] for name in names if name in works}


def _filled(kind: Any, config: Any, seed: int) -> Any:
    """A network of random weights, small enough that its answers stay finite."""
    import torch

    with torch.device("meta"):
        network = kind(config)
    network.to_empty(device="cpu")
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(seed))
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            spread = parameter[0].numel() ** -0.5
            for part in parameter.data.view(-1).split(DRAWN):
                torch.mul(drawn[: len(part)], spread, out=part)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return network.eval().requires_grad_(False)


def _shared(network: Any, tensors: dict[str, Any]) -> None:
    """The very tensors, in the other program's shapes."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    placed = {name: tensor.reshape(shapes[name]) for name, tensor in tensors.items()}
    network.load_state_dict(placed, assign=True)
    network.eval().requires_grad_(False)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"at {SHORT_SIZE}²")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asked_for = Asked(Path("data/benchmarks"), rounds=given.rounds, short=given.short)
    for row in rows(asked_for):
        print(table([row]), flush=True)
