"""One-step samplers: pure functions from the state before an interval to the state after it.

They remember nothing from one interval to the next. x, D and d are latents, the denoiser's
estimate and the slope (x − D) / sigma, as in the papers; all work on x = x0 + sigma · noise.
Sources: arXiv:2206.00364 (Karras et al., "EDM"), arXiv:2010.02502 (Song et al., "DDIM"),
arXiv:2006.11239 (Ho et al., "DDPM"), arXiv:2206.00927 (Lu et al., "DPM-Solver"),
arXiv:2310.04378 (Luo et al., "LCM"), arXiv:2306.14878 (Xu et al., "Restart").
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from core.sampling.schedule import spaced_karras, variance_preserving
from core.sampling.state import Denoiser, Noise, State


def euler(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> State:
    """One first-order step of the probability-flow ODE: EDM, algorithm 2 without correction."""
    sigma_next = sigmas[state.index + 1]
    x, sigma, draws = churned(state, sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    denoised = denoise(x, sigma)
    latents = denoised + sigma_next / sigma * (x - denoised)
    return state.next(latents, denoised, draws=draws)


def euler_ancestral(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """Euler down to a lower level than the next, then fresh noise up to it."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    down, up = ancestral(sigma, sigma_next, eta)
    denoised = denoise(state.latents, sigma)
    latents = denoised + down / sigma * (state.latents - denoised)
    return lifted(state, latents, denoised, up, s_noise, noise)


def ddim(
    denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise, *, eta: float = 0.0
) -> State:
    """DDIM, equation 12, with sigma_t of equation 16.

    Divided by √ᾱ, its update is the ancestral Euler step: their sigma_t / √ᾱ' is `up`.
    """
    return landed(euler_ancestral(denoise, state, sigmas, noise, eta=eta), sigmas)


def ddpm(
    denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise, *, s_noise: float = 1.0
) -> State:
    """DDPM, algorithm 2 with the posterior variance of equation 7, over any levels.

    It is DDIM with eta 1, and so the ancestral Euler step.
    """
    return euler_ancestral(denoise, state, sigmas, noise, s_noise=s_noise)


def lcm(
    denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise, *, s_noise: float = 1.0
) -> State:
    """LCM, algorithm 3: jump to the estimate, then noise it to the next level."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    return lifted(state, denoised, denoised, sigma_next, s_noise, noise)


def heun(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> State:
    """EDM, algorithm 2: the slopes at both ends, averaged; Euler where the end is 0."""
    sigma_next = sigmas[state.index + 1]
    x, sigma, draws = churned(state, sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    denoised = denoise(x, sigma)
    slope = (x - denoised) / sigma
    latents = x + slope * (sigma_next - sigma)
    if sigma_next > 0:
        slope_next = (latents - denoise(latents, sigma_next)) / sigma_next
        latents = x + (slope + slope_next) / 2 * (sigma_next - sigma)
    return state.next(latents, denoised, draws=draws)


def dpm_2(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> State:
    """The slope at the middle of the interval in log sigma, as in DPM-Solver-2; Euler to 0."""
    sigma_next = sigmas[state.index + 1]
    x, sigma, draws = churned(state, sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    denoised = denoise(x, sigma)
    latents = _midpoint(denoise, x, denoised, sigma, sigma_next)
    return state.next(latents, denoised, draws=draws)


def dpm_2_ancestral(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """`dpm_2` down to a lower level than the next, then fresh noise up to it."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    down, up = ancestral(sigma, sigma_next, eta)
    denoised = denoise(state.latents, sigma)
    latents = _midpoint(denoise, state.latents, denoised, sigma, down)
    return lifted(state, latents, denoised, up, s_noise, noise)


def restart(
    denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise, *, s_noise: float = 1.0
) -> State:
    """Restart, algorithm 1: Heun on the way down, fresh noise where the levels rise again.

    `restart_plan` makes such levels. A rising interval costs no network call.
    """
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    if sigma_next <= sigma:
        return heun(denoise, state, sigmas, noise)
    estimate = state.latents if state.denoised is None else state.denoised
    up = (sigma_next**2 - sigma**2).sqrt()
    return lifted(state, state.latents, estimate, up, s_noise, noise)


def restart_plan(sigmas: Tensor) -> Tensor:
    """Levels with the restart that A1111 plans: from about 0.1 back up to about 2.

    Below 20 steps none, from 20 on once with 9 + 1 levels, from 36 on twice with a quarter of the
    steps each. Where there is a restart the rest is Karras-spaced, so the total stays `steps`.
    """
    steps = len(sigmas) - 1
    if steps < 20:
        return sigmas
    length, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    main = spaced_karras(float(sigmas[-2]), float(sigmas[0]), steps - length * times)
    low, high = (int((main - level).abs().argmin()) for level in (0.1, 2.0))
    if high >= low:
        return main
    again = spaced_karras(float(main[low]), float(main[high]), length + 1)[:-1]
    return torch.cat((main[: low + 1], *[again] * times, main[low + 1 :]))


def ancestral(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(down, up): step to `down`, add noise of `up`, and arrive at variance sigma_next².

    up² = eta² sigma_next² (sigma² − sigma_next²) / sigma², at most sigma_next².
    """
    spread = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).clamp(min=0)
    up = (eta * spread.sqrt()).minimum(sigma_next)
    return (sigma_next**2 - up**2).clamp(min=0).sqrt(), up


def lifted(
    state: State,
    latents: Tensor,
    denoised: Tensor,
    up: Tensor,
    s_noise: float,
    noise: Noise,
    memory: tuple[Tensor, ...] = (),
) -> State:
    """The next state with noise of `up` added; nothing is drawn where that is 0."""
    if up == 0:
        return state.next(latents, denoised, memory)
    latents = latents + noise.draw(state.draws) * (s_noise * up)
    return state.next(latents, denoised, memory, draws=1)


def landed(state: State, sigmas: Tensor) -> State:
    """Where a walk ends above 0, the latents as a variance-preserving sampler leaves them.

    DDIM, PLMS and UniPC were written for x / √(1 + sigma²), and A1111 takes their last x as it is.
    """
    if state.index < len(sigmas) - 1 or sigmas[-1] == 0:
        return state
    return replace(state, latents=variance_preserving(state.latents, sigmas[-1]))


def churned(
    state: State,
    sigmas: Tensor,
    noise: Noise,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
) -> tuple[Tensor, Tensor, int]:
    """Latents stirred up to a noisier level, that level, and the draws used; EDM, algorithm 2."""
    sigma = sigmas[state.index]
    intervals = len(sigmas) - 1
    gamma = min(s_churn / intervals, 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
    if gamma <= 0:
        return state.latents, sigma, 0
    higher = sigma * (1 + gamma)
    stirred = noise.draw(state.draws) * s_noise
    return state.latents + stirred * (higher**2 - sigma**2).sqrt(), higher, 1


def _midpoint(
    denoise: Denoiser, x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor
) -> Tensor:
    """x at sigma_next, by the slope at the geometric mean of both levels; Euler to 0."""
    slope = (x - denoised) / sigma
    if sigma_next > 0:
        middle = (sigma * sigma_next).sqrt()
        x_middle = x + slope * (middle - sigma)
        slope = (x_middle - denoise(x_middle, middle)) / middle
    return x + slope * (sigma_next - sigma)
