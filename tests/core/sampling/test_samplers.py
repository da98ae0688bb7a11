"""Samplers against closed forms, against k-diffusion, and against themselves resumed."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.registry import built_in
from core.request import NoiseKind
from core.sampling.multistep import adams_bashforth
from core.sampling.noise import ImageNoise, ImageSeed, PhiloxStream, SeededNoise
from core.sampling.schedule import exponential, karras, scaled_linear, variance_preserving
from core.sampling.state import Denoiser, Sampler, State, walk
from tests.oracles import k_diffusion_sampling

SCHEDULE = scaled_linear()
SHAPE = (4, 6, 5)
SAMPLERS = built_in().samplers
LIVELY = {
    "euler": {"s_churn": 4.0},
    "heun": {"s_churn": 4.0},
    "dpm_2": {"s_churn": 4.0},
    "ddim": {"eta": 0.6},
    "dpm_fast": {"eta": 0.8},
    "dpm_adaptive": {"eta": 0.8},
}
"""Options under which the samplers that may draw noise do so."""


def sampler(name: str, steps: int = 0, **options: float) -> Sampler:
    """A sampler off the shelf; `steps` for those that take it as their budget."""
    budget = {"calls": steps} if SAMPLERS[name].takes_calls else {}
    return SAMPLERS[name].load({**options, **budget})


def planned(name: str, steps: int) -> Tensor:
    return SAMPLERS[name].planned(karras(SCHEDULE, steps), steps)


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


def distance_to_closed_form(name: str, steps: int) -> float:
    """For Gaussian data x falls as √(s² + sigma²) along the probability-flow ODE.

    Between two positive levels, and without noise of the sampler's own.
    """
    spread = 0.7
    sigmas = exponential(SCHEDULE, steps + 1).double()[:-1]
    if SAMPLERS[name].takes_calls:
        sigmas = SAMPLERS[name].planned(sigmas, steps).double()
    options = {"eta": 0.0} if "eta" in SAMPLERS[name].options else {}
    start = State(0, torch.ones(1, 1, 1, 1, dtype=torch.float64) * sigmas[0])
    noise = SeededNoise((0,), (1, 1, 1), sigmas)
    chosen = sampler(name, steps, **options)
    *_, last = walk(chosen, always(of_gaussian(spread)), start, sigmas, noise)
    exact = sigmas[0] * ((spread**2 + sigmas[-1] ** 2) / (spread**2 + sigmas[0] ** 2)).sqrt()
    if SAMPLERS[name].starts == "vp":  # and ends so
        exact = exact / (1 + sigmas[-1] ** 2).sqrt()
    return float((last.latents - exact).abs())


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("euler", 1),
        ("ddim", 1),
        ("heun", 2),
        ("dpm_2", 2),
        ("dpmpp_2m", 2),
        ("dpmpp_2s_ancestral", 2),
        ("dpmpp_sde", 2),
        ("dpmpp_2m_sde", 2),
        ("dpmpp_2m_sde_heun", 2),
    ],
)
def test_samplers_converge_at_their_order(name: str, order: int) -> None:
    coarse, fine = (distance_to_closed_form(name, steps) for steps in (80, 160))
    assert coarse / fine == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("name", ["lms", "plms", "unipc", "dpmpp_3m_sde", "dpm_fast"])
def test_higher_orders_beat_the_second_on_the_same_budget(name: str) -> None:
    assert distance_to_closed_form(name, 60) < distance_to_closed_form("dpmpp_2m", 60)


@pytest.mark.parametrize(
    "name", ["euler_ancestral", "ddpm", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lcm"]
)
def test_samplers_with_noise_keep_the_variance_of_gaussian_data(name: str) -> None:
    spread, sigmas = 0.7, karras(SCHEDULE, 300)
    noise = SeededNoise((1,), (16, 40, 40), sigmas)
    start = State(0, noise.draw(0) * sigmas[0])
    *_, last = walk(sampler(name), always(of_gaussian(spread)), start, sigmas, noise)
    if name == "lcm":  # it draws around the estimate, whose spread shrinks: it sharpens
        assert float(last.latents.std()) < spread
    else:
        assert float(last.latents.std()) == pytest.approx(spread, rel=0.04)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_resumes_bit_for_bit_from_every_step_through_bytes(name: str) -> None:
    seeds = (3,) if SAMPLERS[name].adaptive else (3, 4)
    sigmas, chosen = planned(name, 22), sampler(name, 22, **LIVELY.get(name, {}))
    whole = all_states(chosen, bent, sigmas, seeds)
    for k, state in enumerate(whole):
        buffer = io.BytesIO()
        torch.save(vars(state), buffer)
        buffer.seek(0)
        stored = State(**torch.load(buffer))
        noise = SeededNoise(seeds, SHAPE, sigmas)
        resumed = [stored, *walk(chosen, always(bent), stored, sigmas, noise)]
        for ours, again in zip(whole[k:], resumed, strict=True):
            assert torch.equal(ours.latents, again.latents)
            assert ours.draws == again.draws


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS[n].adaptive])
def test_a_batch_equals_its_singles(name: str) -> None:
    sigmas, chosen = planned(name, 20), sampler(name, 20, **LIVELY.get(name, {}))
    together = all_states(chosen, bent, sigmas, (8, 9))[-1].latents
    for row, seed in enumerate((8, 9)):
        alone = all_states(chosen, bent, sigmas, (seed,))[-1].latents
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS[n].plan])
def test_a_sampler_calls_the_denoiser_as_often_as_it_says(name: str) -> None:
    entry, sigmas = SAMPLERS[name], planned(name, 5)
    asked: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return bent(x, sigma)

    states = all_states(sampler(name), denoise, sigmas, (3,))
    if entry.first_calls:
        assert len(asked) == 4 * entry.calls + entry.first_calls
    elif entry.adaptive:
        assert len(asked) >= entry.calls * (len(states) - 1)
    else:  # the last interval, to sigma 0, never has a second call
        assert len(asked) == 4 * entry.calls + 1


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS[n].adaptive])
def test_a_sampler_knows_how_often_it_has_called_before_each_interval(name: str) -> None:
    """What prompts count; and the whole is what A1111 takes shares of."""
    entry, sigmas = SAMPLERS[name], planned(name, 22)
    asked: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return bent(x, sigma)

    noise = SeededNoise((3,), SHAPE, sigmas)
    start = State(0, entry.initial(noise.draw(0), sigmas))
    before = [0]
    for _ in walk(sampler(name, 22), always(denoise), start, sigmas, noise):
        before.append(len(asked))
    assert entry.passed(sigmas) == tuple(before[:-1])
    assert entry.counted(22) == (44 if entry.calls == 2 else 22)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_begins_with_noise_of_the_first_level(name: str) -> None:
    """A1111's timestep samplers begin with unit noise once it is made variance preserving."""
    sigmas = planned(name, 5)
    noise = torch.ones(1, 1, 1, 1)
    latents = SAMPLERS[name].initial(noise, sigmas)
    if name in ("ddim", "plms", "unipc"):
        assert torch.allclose(variance_preserving(latents, sigmas[0]), noise)
    else:
        assert torch.equal(latents, noise * sigmas[0])


@pytest.mark.parametrize("calls", [3, 4, 5, 6, 17, 20, 21])
def test_dpm_fast_spends_its_budget_and_no_more(calls: int) -> None:
    asked: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return bent(x, sigma)

    all_states(sampler("dpm_fast", calls), denoise, planned("dpm_fast", calls))
    assert len(asked) == calls


def test_restart_rises_again_without_asking_the_network() -> None:
    for steps, rises in ((12, 0), (20, 1), (30, 1), (40, 2)):
        sigmas = planned("restart", steps)
        climbs = [i for i in range(len(sigmas) - 1) if sigmas[i + 1] > sigmas[i]]
        assert len(climbs) == rises
        asked: list[float] = []

        def denoise(x: Tensor, sigma: Tensor, asked: list[float] = asked) -> Tensor:
            asked.append(float(sigma))
            return bent(x, sigma)

        all_states(sampler("restart"), denoise, sigmas, (3,))
        assert len(asked) == 2 * (len(sigmas) - 1 - rises) - 1


K_DIFFUSION = {
    "euler": "sample_euler",
    "euler_ancestral": "sample_euler_ancestral",
    "heun": "sample_heun",
    "dpm_2": "sample_dpm_2",
    "dpm_2_ancestral": "sample_dpm_2_ancestral",
    "lms": "sample_lms",
    "dpmpp_2s_ancestral": "sample_dpmpp_2s_ancestral",
    "dpmpp_2m": "sample_dpmpp_2m",
    "dpmpp_sde": "sample_dpmpp_sde",
    "dpmpp_2m_sde": "sample_dpmpp_2m_sde",
    "dpmpp_2m_sde_heun": "sample_dpmpp_2m_sde",
    "dpmpp_3m_sde": "sample_dpmpp_3m_sde",
}


@pytest.mark.parametrize("name", K_DIFFUSION)
@pytest.mark.parametrize("steps", [3, 12])
def test_trajectories_are_k_diffusions(name: str, steps: int) -> None:
    """The same denoiser, the same noise: every state within 1e-4."""
    oracle = getattr(k_diffusion_sampling(), K_DIFFUSION[name])
    sigmas = karras(SCHEDULE, steps)
    noise = SeededNoise((3,), SHAPE, sigmas)
    extra: dict[str, object] = {"solver_type": "heun"} if name.endswith("sde_heun") else {}
    if "eta" in SAMPLERS[name].options:
        extra["noise_sampler"] = noise_of(name, noise)
    theirs: list[Tensor] = []
    last = oracle(
        lambda x, sigma: bent(x, sigma[0]),
        noise.draw(0) * sigmas[0],
        sigmas,
        callback=lambda seen: theirs.append(seen["x"].clone()),
        disable=True,
        **extra,
    )
    ours = all_states(sampler(name), bent, sigmas, (3,))
    for state, expected in zip(ours, [*theirs, last], strict=True):
        assert torch.allclose(state.latents, expected, rtol=1e-4, atol=1e-4)


def noise_of(name: str, noise: SeededNoise) -> Callable[[Tensor, Tensor], Tensor]:
    """Our noise as k-diffusion asks for it."""
    draws = iter(range(1, 1000))

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        if SAMPLERS[name].noise == "brownian":
            return noise.brownian(sigma, sigma_next)
        return noise.draw(next(draws))

    return draw


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("calls", [6, 7, 20])
def test_dpm_fast_is_k_diffusions(calls: int, eta: float) -> None:
    sigmas = planned("dpm_fast", calls)
    noise = SeededNoise((3,), SHAPE, sigmas)
    expected = k_diffusion_sampling().sample_dpm_fast(
        lambda x, sigma: bent(x, sigma[0]),
        noise.draw(0) * sigmas[0],
        float(sigmas[-1]),
        float(sigmas[0]),
        calls,
        eta=eta,
        noise_sampler=noise_of("dpm_fast", noise),
        disable=True,
    )
    ours = all_states(sampler("dpm_fast", calls, eta=eta), bent, sigmas, (3,))
    assert torch.allclose(ours[-1].latents, expected, rtol=1e-4, atol=1e-4)


def test_dpm_adaptive_is_k_diffusions() -> None:
    sigmas = karras(SCHEDULE, 10)
    noise = SeededNoise((3,), SHAPE, sigmas)
    expected, told = k_diffusion_sampling().sample_dpm_adaptive(
        lambda x, sigma: bent(x, sigma[0]),
        noise.draw(0) * sigmas[0],
        SCHEDULE.sigma_min,
        SCHEDULE.sigma_max,
        return_info=True,
        disable=True,
    )
    ours = all_states(sampler("dpm_adaptive"), bent, sigmas, (3,))
    assert len(ours) - 1 == told["n_accept"]
    assert torch.allclose(ours[-1].latents, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [2, 5, 12])
def test_unipc_is_diffusers(steps: int) -> None:
    from diffusers import UniPCMultistepScheduler

    sigmas = karras(SCHEDULE, steps)
    oracle = UniPCMultistepScheduler(
        solver_order=3, solver_type="bh1", prediction_type="sample", final_sigmas_type="zero"
    )
    oracle.set_timesteps(steps)
    oracle.sigmas = sigmas
    ours = all_states(sampler("unipc"), bent, sigmas, (3,))
    x = ours[0].latents / (1 + sigmas[0] ** 2).sqrt()
    for i, timestep in enumerate(oracle.timesteps):
        x_ours = x * (1 + sigmas[i] ** 2).sqrt()
        assert torch.allclose(ours[i].latents, x_ours, rtol=1e-4, atol=1e-4)
        x = oracle.step(bent(x_ours, sigmas[i]), timestep, x).prev_sample
    # to sigma 0 theirs comes to NaN with this B(h); the limit is the estimate
    assert torch.equal(ours[-1].latents, ours[-1].denoised)


def test_plms_is_the_formulas_of_its_paper() -> None:
    sigmas = torch.linspace(10, 1, 7)
    states = all_states(sampler("plms"), bent, sigmas, (3,))

    def slope(i: int) -> Tensor:
        return (states[i].latents - bent(states[i].latents, sigmas[i])) / sigmas[i]

    e = [slope(i) for i in range(6)]
    weights = {1: (3, -1), 2: (23, -16, 5), 3: (55, -59, 37, -9), 5: (55, -59, 37, -9)}
    for i, row in weights.items():
        total = sum(w * e[i - j] for j, w in enumerate(row)) / sum(row)
        expected = states[i].latents + total * (sigmas[i + 1] - sigmas[i])
        if i == 5:
            expected = expected / (1 + sigmas[-1] ** 2).sqrt()
        assert torch.allclose(states[i + 1].latents, expected, rtol=1e-5, atol=1e-5)


def test_adams_bashforth_on_even_levels_has_the_textbook_weights() -> None:
    sigmas = torch.linspace(8, 1, 8)
    expected = [w / 24 * -1 for w in (55, -59, 37, -9)]
    assert adams_bashforth(sigmas, 5, 4) == pytest.approx(expected, rel=1e-6)
    assert adams_bashforth(sigmas, 5, 1) == pytest.approx([-1])


def test_ddpm_is_the_posterior_of_its_paper() -> None:
    """DDPM, equation 7, on x / √(1 + sigma²)."""
    sigmas = karras(SCHEDULE, 6)
    noise = SeededNoise((3,), SHAPE, sigmas)
    states = all_states(sampler("ddpm"), bent, sigmas, (3,))
    for i in range(5):
        kept, kept_next = 1 / (1 + sigmas[i] ** 2), 1 / (1 + sigmas[i + 1] ** 2)
        alpha = kept / kept_next
        x, x0 = states[i].latents * kept.sqrt(), bent(states[i].latents, sigmas[i])
        mean = kept_next.sqrt() * (1 - alpha) / (1 - kept) * x0
        mean = mean + alpha.sqrt() * (1 - kept_next) / (1 - kept) * x
        variance = (1 - kept_next) / (1 - kept) * (1 - alpha)
        expected = (mean + variance.sqrt() * noise.draw(i + 1)) / kept_next.sqrt()
        assert torch.allclose(states[i + 1].latents, expected, rtol=1e-4, atol=1e-4)


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


def test_nvidia_noise_is_what_such_a_card_draws() -> None:
    """The first numbers of torch.randn(…, device="cuda") after manual_seed(0), as is well known."""
    known = [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284]
    drawn = SeededNoise((ImageSeed(0, NoiseKind.NV),), (1, 2, 4), karras(SCHEDULE, 3)).draw(0)
    assert drawn.flatten().tolist() == pytest.approx(known, abs=1e-4)
    many = PhiloxStream(2**40 + 3, (100_000,)).draw(3)
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", NoiseKind)
def test_a_variation_goes_from_one_seed_to_the_other(kind: NoiseKind) -> None:
    def first(source: ImageSeed) -> Tensor:
        return ImageNoise(source, SHAPE).draw(0)

    one, other = first(ImageSeed(5, kind)), first(ImageSeed(6, kind))
    assert torch.equal(first(ImageSeed(5, kind, other=6)), one)
    assert torch.allclose(first(ImageSeed(5, kind, other=6, strength=1.0)), other, atol=1e-5)
    between = first(ImageSeed(5, kind, other=6, strength=0.4))
    assert not torch.allclose(between, one, atol=0.1)
    lengths = torch.norm(between, dim=1)
    ends = torch.norm(one, dim=1), torch.norm(other, dim=1)
    assert (lengths <= torch.maximum(*ends) * 1.5).all()


def test_noise_of_another_size_lies_in_the_middle() -> None:
    small = ImageNoise(ImageSeed(5), (4, 4, 2)).draw(0)
    placed = ImageNoise(ImageSeed(5, resize_from=(4, 2)), (4, 8, 6)).draw(0)
    assert torch.equal(placed[:, 2:6, 2:4], small)
    large = ImageNoise(ImageSeed(5), (4, 10, 9)).draw(0)
    cut = ImageNoise(ImageSeed(5, resize_from=(10, 9)), (4, 8, 5)).draw(0)
    assert torch.equal(cut, large[:, 1:9, 2:7])


def test_a_seed_delta_changes_all_noise_but_the_first() -> None:
    plain, shifted = ImageNoise(ImageSeed(5), SHAPE), ImageNoise(ImageSeed(5, delta=31337), SHAPE)
    assert torch.equal(plain.draw(0), shifted.draw(0))
    again = ImageNoise(ImageSeed(5 + 31337), SHAPE)
    assert torch.equal(shifted.draw(1), again.draw(0))
    assert torch.equal(shifted.draw(2), again.draw(1))
