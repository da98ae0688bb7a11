"""DDIM, PLMS and UniPC on their own levels, as A1111 walks them, against formulas and diffusers.

There x is variance preserving, √ᾱ · x0 + √(1 − ᾱ) · noise, and starts as unit noise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from core.registry import built_in
from core.sampling.noise import SeededNoise
from core.sampling.schedule import scaled_linear, variance_preserving
from core.sampling.state import State, walk

SCHEDULE = scaled_linear()
SHELVES = built_in()
SHAPE = (4, 6, 5)
KEPT = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, dim=0)
"""ᾱ of each timestep."""


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(x / (1 + sigma)) * 0.8 + 0.1 * torch.sin(x)


def eps(x: Tensor, timestep: int) -> Tensor:
    """The same denoiser as a network that predicts the noise, for variance-preserving x."""
    kept = KEPT[timestep]
    sigma = ((1 - kept) / kept).sqrt()
    return (x / kept.sqrt() - bent(x / kept.sqrt(), sigma)) / sigma


def grid(steps: int) -> list[int]:
    return [min(t + 1, 999) for t in range(0, 1000, 1000 // steps)]


def walked(name: str, steps: int, **options: float) -> tuple[list[Tensor], SeededNoise]:
    """The variance-preserving latents of every state of a default walk; the first draw is unit."""
    entry = SHELVES.samplers[name]
    sigmas = SHELVES.schedules[entry.schedule].sigmas(SCHEDULE, steps).double()
    noise = SeededNoise((3,), SHAPE, sigmas)
    start = State(0, entry.initial(noise.draw(0).double(), sigmas))
    states = [start, *walk(entry.load(options), lambda index: bent, start, sigmas, noise)]
    between = [variance_preserving(s.latents, sigmas[s.index]) for s in states[:-1]]
    return [*between, states[-1].latents], noise


@pytest.mark.parametrize("eta", [0.0, 0.8])
@pytest.mark.parametrize("steps", [2, 5, 20, 30])
def test_ddim_is_its_paper_over_timesteps(steps: int, eta: float) -> None:
    """arXiv:2010.02502, equations 12 and 16; as many updates as levels, less one."""
    ours, noise = walked("ddim", steps, eta=eta)
    timesteps = grid(steps)
    assert len(ours) == len(timesteps) == {2: 2, 5: 5, 20: 20, 30: 31}[steps]
    x = noise.draw(0).double()
    for i, (before, after) in enumerate(zip(timesteps[::-1], timesteps[-2::-1], strict=False)):
        assert torch.allclose(ours[i], x, rtol=1e-4, atol=1e-5)
        kept, kept_next = KEPT[before], KEPT[after]
        e = eps(x, before)
        spread = eta * ((1 - kept_next) / (1 - kept) * (1 - kept / kept_next)).sqrt()
        x0 = (x - (1 - kept).sqrt() * e) / kept.sqrt()
        x = kept_next.sqrt() * x0 + (1 - kept_next - spread**2).sqrt() * e
        if eta:
            x = x + spread * noise.draw(i + 1).double()
    assert torch.allclose(ours[-1], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_ddim_and_plms_are_diffusers(name: str, steps: int) -> None:
    from diffusers import DDIMScheduler, PNDMScheduler

    training = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    leading = {"timestep_spacing": "leading", "steps_offset": 1}
    if name == "ddim":
        oracle = DDIMScheduler(**training, **leading, clip_sample=False)
    else:
        oracle = PNDMScheduler(**training, **leading, skip_prk_steps=True)
    oracle.set_timesteps(steps)
    ours, noise = walked(name, steps)
    x = noise.draw(0).double()
    theirs = []
    for timestep in oracle.timesteps:
        theirs.append(x)
        x = oracle.step(eps(x, int(timestep)), timestep, x).prev_sample
    if name == "plms":  # the second is its first guess
        del theirs[1]
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [3, 8, 20, 30])
def test_unipc_is_diffusers_over_even_times(steps: int) -> None:
    from diffusers import UniPCMultistepScheduler

    count = len(grid(steps))
    oracle = UniPCMultistepScheduler(
        solver_order=3, solver_type="bh1", prediction_type="sample", lower_order_final=True
    )
    oracle.set_timesteps(count)
    times = np.linspace(1, 0.001, count + 1)
    log_alphas = np.interp(times, np.arange(1, 1001) / 1000, np.log(KEPT.numpy()) / 2)
    oracle.sigmas = torch.from_numpy(np.sqrt(np.exp(-2 * log_alphas) - 1))
    ours, noise = walked("unipc", steps)
    assert len(ours) == count + 1
    x = noise.draw(0).double()
    for i, timestep in enumerate(oracle.timesteps):
        assert torch.allclose(ours[i], x, rtol=1e-4, atol=1e-4)
        sigma = oracle.sigmas[i]
        x = oracle.step(bent(x * (1 + sigma**2).sqrt(), sigma), timestep, x).prev_sample
    assert torch.allclose(ours[-1], x, rtol=1e-4, atol=1e-4)


def test_unipc_asks_at_even_timesteps() -> None:
    sigmas = SHELVES.schedules["time_uniform"].sigmas(SCHEDULE, 20)
    expected = torch.linspace(999, 0, 21)
    assert torch.allclose(SCHEDULE.timestep(sigmas), expected, atol=0.02)


@pytest.mark.parametrize("name", ["ddim", "plms", "unipc"])
def test_on_a_named_schedule_they_walk_its_levels_to_the_estimate(name: str) -> None:
    entry = SHELVES.samplers[name]
    sigmas = SHELVES.schedules["karras"].sigmas(SCHEDULE, 7)
    noise = SeededNoise((3,), SHAPE, sigmas)
    start = State(0, entry.initial(noise.draw(0), sigmas))
    *_, last = walk(entry.load({}), lambda index: bent, start, sigmas, noise)
    assert last.index == 7
    if name != "plms":
        assert torch.allclose(last.latents, last.denoised, atol=1e-6)
    assert torch.isfinite(last.latents).all()


def test_one_step_still_leads_from_the_top_to_the_bottom() -> None:
    sigmas = SHELVES.schedules["timesteps"].sigmas(SCHEDULE, 1)
    assert torch.equal(sigmas, SCHEDULE.sigmas[[999, 1]])
