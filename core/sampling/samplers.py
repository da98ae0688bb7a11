"""Samplers: one pure function each, from the state before an interval to the state after it.

x, D and d are latents, the denoiser's estimate and the slope (x − D) / sigma, as in the papers.
All work on x = x0 + sigma · noise. Sources: arXiv:2206.00364 (Karras et al., "EDM"),
arXiv:2211.01095 (Lu et al., "DPM-Solver++"), arXiv:2010.02502 (Song et al., "DDIM").
"""

from __future__ import annotations

import math

from torch import Tensor

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
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    x, sigma, draws = _churned(state, sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
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
    if up == 0:
        return state.next(latents, denoised)
    latents = latents + noise.draw(state.draws) * (s_noise * up)
    return state.next(latents, denoised, draws=1)


def ddim(
    denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise, *, eta: float = 0.0
) -> State:
    """DDIM, equation 12, with sigma_t of equation 16.

    Divided by √ᾱ, its update is the ancestral Euler step: their sigma_t / √ᾱ' is `up`.
    """
    return euler_ancestral(denoise, state, sigmas, noise, eta=eta)


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
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    x, sigma, draws = _churned(state, sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    denoised = denoise(x, sigma)
    slope = (x - denoised) / sigma
    latents = x + slope * (sigma_next - sigma)
    if sigma_next > 0:
        slope_next = (latents - denoise(latents, sigma_next)) / sigma_next
        latents = x + (slope + slope_next) / 2 * (sigma_next - sigma)
    return state.next(latents, denoised, draws=draws)


def dpmpp_2m(denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise) -> State:
    """DPM-Solver++, algorithm 2 (second-order multistep), in λ = −log sigma."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    estimate = denoised
    if sigma_next > 0 and state.memory:
        h_last = (sigmas[state.index - 1] / sigma).log()
        r = h_last / (sigma / sigma_next).log()
        estimate = denoised + (denoised - state.memory[0]) / (2 * r)
    latents = sigma_next / sigma * state.latents + (1 - sigma_next / sigma) * estimate
    return state.next(latents, denoised, memory=(denoised,))


def dpmpp_2m_sde(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """SDE-DPM-Solver++(2M), midpoint form; DPM-Solver++, section 5, with noise scaled by eta."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    if sigma_next == 0:
        return state.next(denoised, denoised, memory=(denoised,))
    h = (sigma / sigma_next).log()
    share = -(-h * (1 + eta)).expm1()
    latents = sigma_next / sigma * (-eta * h).exp() * state.latents + share * denoised
    if state.memory:
        r = (sigmas[state.index - 1] / sigma).log() / h
        latents = latents + share / (2 * r) * (denoised - state.memory[0])
    if eta:
        fresh = noise.brownian(sigma, sigma_next)
        latents = latents + fresh * (sigma_next * (-(-2 * eta * h).expm1()).sqrt() * s_noise)
    return state.next(latents, denoised, memory=(denoised,))


def ancestral(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(down, up): step to `down`, add noise of `up`, and arrive at variance sigma_next².

    up² = eta² sigma_next² (sigma² − sigma_next²) / sigma², at most sigma_next².
    """
    spread = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).clamp(min=0)
    up = (eta * spread.sqrt()).minimum(sigma_next)
    return (sigma_next**2 - up**2).clamp(min=0).sqrt(), up


def _churned(
    state: State,
    sigmas: Tensor,
    noise: Noise,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
) -> tuple[Tensor, Tensor, int]:
    """Latents lifted to a noisier level, that level, and the draws used; EDM, algorithm 2."""
    sigma = sigmas[state.index]
    intervals = len(sigmas) - 1
    gamma = min(s_churn / intervals, 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
    if gamma <= 0:
        return state.latents, sigma, 0
    lifted = sigma * (1 + gamma)
    stirred = noise.draw(state.draws) * s_noise
    return state.latents + stirred * (lifted**2 - sigma**2).sqrt(), lifted, 1
