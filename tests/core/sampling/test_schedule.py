"""Noise levels against published numbers, diffusers and k-diffusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, settings
from hypothesis import given as given_any
from hypothesis import strategies as st
from torch import Tensor

from core.errors import RequestError
from core.registry import built_in
from core.request import ScheduleOptions
from core.sampling.prediction import Prediction
from core.sampling.schedule import given, noised, scaled_linear, variance_preserving
from tests.oracles import k_diffusion_sampling

SCHEDULE = scaled_linear()
SCHEDULES = built_in().schedules


def test_the_ends_are_the_published_ones() -> None:
    assert SCHEDULE.sigma_min == pytest.approx(0.02916716, rel=1e-6)
    assert SCHEDULE.sigma_max == pytest.approx(14.61464119, rel=1e-6)


def test_levels_are_those_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    oracle = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    kept = oracle.alphas_cumprod
    assert torch.allclose(SCHEDULE.sigmas, ((1 - kept) / kept).sqrt(), rtol=2e-5)


ABOVE_ZERO = ("kl_optimal", "timesteps", "time_uniform")
"""Those that end at a positive level, as A1111 has them."""


def made(name: str, steps: int, **options: float | bool) -> Tensor:
    return SCHEDULES[name].sigmas(SCHEDULE, steps, ScheduleOptions(**options))


@settings(max_examples=200, deadline=None)
@given_any(name=st.sampled_from(sorted(SCHEDULES)), steps=st.integers(1, 1000))
@example(name="beta", steps=1000)
@example(name="linear_quadratic", steps=1000)
@example(name="karras", steps=1)
def test_every_spacing_falls_from_the_noisiest_to_zero(name: str, steps: int) -> None:
    sigmas = made(name, steps)
    assert sigmas.dtype == torch.float32
    assert torch.isfinite(sigmas).all()
    if name in ABOVE_ZERO:
        assert 0 < sigmas[-1] <= SCHEDULE.sigmas[1] * (1 + 1e-4)
    else:
        assert sigmas[-1] == 0
    if name == "ddim_uniform":
        assert len(sigmas) == len({min(t + 1, 999) for t in range(0, 1000, 1000 // steps)}) + 1
    elif name not in ("timesteps", "time_uniform"):
        assert len(sigmas) == steps + 1
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas.max() <= SCHEDULE.sigmas[-1] * (1 + 1e-4)
    assert sigmas[:-1].min() >= SCHEDULE.sigmas[0] * (1 - 1e-2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_penultimate_level_can_be_left_out_or_kept(name: str) -> None:
    """A1111: one more is made, and of those the last above the end left out."""
    longer, left_out = made(name, 11), made(name, 10, discard_penultimate=True)
    if SCHEDULES[name].walks_all:
        assert torch.equal(left_out, longer)
    else:
        assert torch.equal(left_out, torch.cat((longer[:-2], longer[-1:])))
    entry = SCHEDULES[name]
    assert torch.equal(entry.sigmas(SCHEDULE, 10, discards_penultimate=True), left_out)
    kept = ScheduleOptions(discard_penultimate=False)
    assert torch.equal(entry.sigmas(SCHEDULE, 10, kept, discards_penultimate=True), made(name, 10))


@pytest.mark.parametrize("name", [n for n in SCHEDULES if "sigma_max" in SCHEDULES[n].options])
def test_the_ends_can_be_set(name: str) -> None:
    sigmas = made(name, 12, sigma_min=0.1, sigma_max=8.0)
    assert float(sigmas[0]) == pytest.approx(8, rel=1e-4)
    if name == "linear_quadratic":  # it has no lowest level but 0
        assert torch.allclose(sigmas, made(name, 12) * (8 / SCHEDULE.sigma_max), rtol=1e-4)
        return
    lowest = sigmas[-1] if name == "kl_optimal" else sigmas[-2]
    if name == "sgm_uniform":  # leaves its last one out
        lowest = SCHEDULE.sigma(2 * SCHEDULE.timestep(lowest) - SCHEDULE.timestep(sigmas[-3]))
    assert float(lowest) == pytest.approx(0.1, rel=1e-3)


def test_ends_that_have_changed_places_are_refused() -> None:
    with pytest.raises(RequestError, match="must lie below"):
        made("karras", 10, sigma_min=20.0)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_rho_bends_karras_and_polyexponential_as_in_k_diffusion(rho: float) -> None:
    oracle, ends = k_diffusion_sampling(), (SCHEDULE.sigma_min, SCHEDULE.sigma_max)
    for name in ("karras", "polyexponential"):
        expected = getattr(oracle, f"get_sigmas_{name}")(15, *ends, rho=rho)
        assert torch.allclose(made(name, 15, rho=rho), expected, rtol=1e-4)


def test_a_schedule_that_rounds_knows_whole_timesteps_alone() -> None:
    """k-diffusion's `quantize`: the nearest in log sigma."""
    rounded = replace(SCHEDULE, rounds=True)
    levels = made("karras", 30)[:-1]
    near = [int((SCHEDULE.sigmas.log() - level.log()).abs().argmin()) for level in levels]
    assert rounded.timestep(levels).tolist() == near
    assert rounded.timestep(levels[3]) == near[3]
    assert (rounded.timestep(levels) - SCHEDULE.timestep(levels)).abs().max() <= 0.51


@pytest.mark.parametrize("steps", [2, 20, 35])
def test_karras_and_exponential_are_k_diffusions(steps: int) -> None:
    oracle = k_diffusion_sampling()
    low, high = SCHEDULE.sigma_min, SCHEDULE.sigma_max
    karras = oracle.get_sigmas_karras(steps, low, high)
    exponential = oracle.get_sigmas_exponential(steps, low, high)
    assert torch.allclose(SCHEDULES["karras"].load()(SCHEDULE, steps), karras, rtol=1e-5)
    assert torch.allclose(SCHEDULES["exponential"].load()(SCHEDULE, steps), exponential, rtol=1e-5)


def test_align_your_steps_gives_its_published_levels_back() -> None:
    sigmas = SCHEDULES["align_your_steps"].load()(SCHEDULE, 11)
    assert torch.allclose(sigmas[:-1], torch.tensor(SCHEDULE.aligned), rtol=1e-5)


def test_beta_has_the_quantiles_of_its_distribution() -> None:
    from scipy import stats

    sigmas = SCHEDULES["beta"].load()(SCHEDULE, 9)[:-1]
    shares = (sigmas - SCHEDULE.sigma_min) / (SCHEDULE.sigma_max - SCHEDULE.sigma_min)
    places = stats.beta.cdf(shares.double().numpy(), 0.6, 0.6)
    assert list(places) == pytest.approx([1 - i / 8 for i in range(9)], abs=1e-4)


def test_linear_quadratic_is_linear_then_quadratic() -> None:
    sigmas = SCHEDULES["linear_quadratic"].load()(SCHEDULE, 20).double() / SCHEDULE.sigma_max
    assert float(sigmas[10]) == pytest.approx(1 - 0.025, abs=1e-6)
    assert torch.allclose(sigmas[:11].diff().diff(), torch.zeros(9).double(), atol=1e-6)
    assert torch.allclose(sigmas[10:].diff().diff().diff(), torch.zeros(8).double(), atol=1e-6)


def test_ddim_uniform_is_the_original_grid() -> None:
    for steps, stride in ((20, 50), (30, 33), (7, 142)):
        grid = torch.arange(0, 1000, stride) + 1
        assert torch.equal(made("ddim_uniform", steps)[:-1], SCHEDULE.sigmas[grid].flip(0))


def test_timestep_and_sigma_are_inverse() -> None:
    timesteps = torch.tensor([0.0, 0.25, 17.0, 500.5, 998.9, 999.0])
    assert torch.allclose(SCHEDULE.timestep(SCHEDULE.sigma(timesteps)), timesteps, atol=2e-2)
    whole = torch.arange(1000)
    assert torch.allclose(SCHEDULE.timestep(SCHEDULE.sigmas), whole.float(), atol=2e-2)


def test_levels_outside_the_training_are_clamped() -> None:
    assert SCHEDULE.timestep(torch.tensor(1000.0)) == 999
    assert SCHEDULE.timestep(torch.tensor(1e-6)) == 0


def test_noised_latents_have_the_variance_they_should() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 200_000, generator=generator)
    for sigma in (torch.tensor(0.3), torch.tensor(5.0)):
        x = noised(x0, noise, sigma)
        assert float(x.var()) == pytest.approx(1 + float(sigma) ** 2, rel=0.02)
        assert float(variance_preserving(x, sigma).var()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("prediction", Prediction)
def test_output_and_denoised_are_inverse(prediction: Prediction) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    for sigma in (torch.tensor(0.05), torch.tensor(3.0)):
        output = prediction.output(x, sigma, x0)
        assert torch.allclose(prediction.denoised(x, sigma, output), x0)


def test_eps_and_v_name_the_same_noise() -> None:
    """eps is the noise itself; v = √ᾱ · noise − √(1 − ᾱ) · x0."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    sigma = torch.tensor(2.0, dtype=torch.float64)
    x, kept = noised(x0, noise, sigma), 1 / (1 + sigma**2)
    assert torch.allclose(Prediction.EPS.output(x, sigma, x0), noise)
    v = kept.sqrt() * noise - (1 - kept).sqrt() * x0
    assert torch.allclose(Prediction.V.output(x, sigma, x0), v)


@pytest.mark.parametrize("sigmas", [(), (1.0,), (2.0, 1.0), (1.0, 1.0, 0.0), (1.0, 2.0, 0.0)])
def test_a_drawn_schedule_that_does_not_fall_to_zero_is_refused(sigmas: tuple) -> None:
    with pytest.raises(RequestError):
        given(sigmas)
