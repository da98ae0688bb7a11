"""Samplers against closed forms, against k-diffusion, and against themselves resumed."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.registry import SamplerEntry, built_in
from core.sampling.noise import SeededNoise
from core.sampling.schedule import exponential, karras, scaled_linear
from core.sampling.state import Denoiser, Sampler, State, walk
from tests.oracles import k_diffusion_sampling

SCHEDULE = scaled_linear()
SHAPE = (4, 6, 5)
SAMPLERS = built_in().samplers
LIVELY = {"euler": {"s_churn": 4.0}, "heun": {"s_churn": 4.0}, "ddim": {"eta": 0.6}}
"""Options under which the samplers that may draw noise do so."""


def of_gaussian(spread: float, mean: float = 0.0) -> Denoiser:
    """The true denoiser of data drawn from N(mean, spread²)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return mean + (x - mean) * spread**2 / (spread**2 + sigma**2)

    return denoise


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser with no closed form, for comparing implementations."""
    return torch.tanh(x / (1 + sigma)) * 0.8 + 0.1 * torch.sin(x)


def always(denoise: Denoiser) -> Callable[[int], Denoiser]:
    return lambda index: denoise


def all_states(
    sampler: Sampler, denoise: Denoiser, sigmas: Tensor, seeds: tuple[int, ...] = (3, 4)
) -> list[State]:
    noise = SeededNoise(seeds, SHAPE, sigmas)
    start = State(0, noise.draw(0) * sigmas[0])
    return [start, *walk(sampler, always(denoise), start, sigmas, noise)]


def distance_to_closed_form(sampler: Sampler, steps: int) -> float:
    """For Gaussian data x falls as √(s² + sigma²) along the probability-flow ODE."""
    spread = 0.7
    sigmas = exponential(SCHEDULE, steps).double()[:-1]  # the ODE between two positive levels
    start = State(0, torch.ones(1, 1, 1, 1, dtype=torch.float64) * sigmas[0])
    noise = SeededNoise((0,), (1, 1, 1), sigmas)
    *_, last = walk(sampler, always(of_gaussian(spread)), start, sigmas, noise)
    exact = sigmas[0] * ((spread**2 + sigmas[-1] ** 2) / (spread**2 + sigmas[0] ** 2)).sqrt()
    return float((last.latents - exact).abs())


@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)]
)
def test_samplers_converge_at_their_order(name: str, order: int) -> None:
    coarse, fine = (distance_to_closed_form(SAMPLERS[name].load(), n) for n in (81, 161))
    assert coarse / fine == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_sde_samplers_keep_the_variance_of_gaussian_data(name: str) -> None:
    spread, sigmas = 0.7, karras(SCHEDULE, 300)
    noise = SeededNoise((1,), (16, 40, 40), sigmas)
    start = State(0, noise.draw(0) * sigmas[0])
    *_, last = walk(SAMPLERS[name].load(), always(of_gaussian(spread)), start, sigmas, noise)
    assert float(last.latents.std()) == pytest.approx(spread, rel=0.04)


def sampler_with(entry: SamplerEntry) -> Sampler:
    return functools.partial(entry.load(), **LIVELY.get(entry.name, {}))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_resumes_bit_for_bit_from_every_step_through_bytes(name: str) -> None:
    sampler, sigmas = sampler_with(SAMPLERS[name]), karras(SCHEDULE, 9)
    whole = all_states(sampler, bent, sigmas)
    for k, state in enumerate(whole):
        buffer = io.BytesIO()
        torch.save(vars(state), buffer)
        buffer.seek(0)
        stored = State(**torch.load(buffer))
        noise = SeededNoise((3, 4), SHAPE, sigmas)
        resumed = [stored, *walk(sampler, always(bent), stored, sigmas, noise)]
        for ours, again in zip(whole[k:], resumed, strict=True):
            assert torch.equal(ours.latents, again.latents)
            assert ours.draws == again.draws


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_equals_its_singles(name: str) -> None:
    sampler, sigmas = sampler_with(SAMPLERS[name]), karras(SCHEDULE, 7)
    together = all_states(sampler, bent, sigmas, (8, 9))[-1].latents
    for row, seed in enumerate((8, 9)):
        alone = all_states(sampler, bent, sigmas, (seed,))[-1].latents
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_calls_the_denoiser_as_often_as_it_says(name: str) -> None:
    entry, sigmas = SAMPLERS[name], karras(SCHEDULE, 5)
    asked: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return bent(x, sigma)

    all_states(entry.load(), denoise, sigmas)
    # the last interval, to sigma 0, never has a second call
    assert len(asked) == 4 * entry.calls + 1


K_DIFFUSION = {
    "euler": ("sample_euler", {}),
    "euler_ancestral": ("sample_euler_ancestral", {}),
    "heun": ("sample_heun", {}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}),
    "dpmpp_2m_sde": ("sample_dpmpp_2m_sde", {}),
}


@pytest.mark.parametrize("name", K_DIFFUSION)
@pytest.mark.parametrize("steps", [3, 12])
def test_trajectories_are_k_diffusions(name: str, steps: int) -> None:
    """The same denoiser, the same noise: every state within 1e-4."""
    function, extra = K_DIFFUSION[name]
    oracle = getattr(k_diffusion_sampling(), function)
    sigmas = karras(SCHEDULE, steps)
    noise = SeededNoise((3,), SHAPE, sigmas)
    draws = iter(range(1, 1000))

    def sampler_noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        if SAMPLERS[name].noise == "brownian":
            return noise.brownian(sigma, sigma_next)
        return noise.draw(next(draws))

    if SAMPLERS[name].noise == "brownian" or "ancestral" in name:
        extra = {**extra, "noise_sampler": sampler_noise}
    theirs: list[Tensor] = []
    oracle(
        lambda x, sigma: bent(x, sigma[0]),
        noise.draw(0) * sigmas[0],
        sigmas,
        callback=lambda seen: theirs.append(seen["x"].clone()),
        disable=True,
        **extra,
    )
    ours = all_states(SAMPLERS[name].load(), bent, sigmas, (3,))
    for state, expected in zip(ours, theirs, strict=False):
        assert torch.allclose(state.latents, expected, rtol=1e-4, atol=1e-4)


def test_the_brownian_path_is_k_diffusions() -> None:
    sigmas = karras(SCHEDULE, 8)
    oracle = k_diffusion_sampling().BrownianTreeNoiseSampler(
        torch.zeros(1, *SHAPE), sigmas[sigmas > 0].min(), sigmas.max(), seed=[11]
    )
    ours = SeededNoise((11,), SHAPE, sigmas)
    for i in range(6):
        expected = oracle(sigmas[i], sigmas[i + 1])
        assert torch.equal(ours.brownian(sigmas[i], sigmas[i + 1]), expected)


def test_draws_can_be_asked_for_in_any_order() -> None:
    sigmas = karras(SCHEDULE, 4)
    forwards, backwards = (SeededNoise((5, 6), SHAPE, sigmas) for _ in range(2))
    expected = [forwards.draw(n) for n in range(5)]
    for n in reversed(range(5)):
        assert torch.equal(backwards.draw(n), expected[n])
    assert not torch.equal(expected[0], expected[1])


def test_the_first_draw_is_torchs_own_from_the_seed() -> None:
    noise = SeededNoise((123,), SHAPE, karras(SCHEDULE, 3))
    expected = torch.randn(SHAPE, generator=torch.Generator("cpu").manual_seed(123))
    assert torch.equal(noise.draw(0)[0], expected)
