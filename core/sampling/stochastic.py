"""DPM-Solver++ with noise: samplers of the reverse stochastic differential equation.

Source: arXiv:2211.01095 (Lu et al., "DPM-Solver++"), sections 4 and 5 and appendix; noise scaled
by eta, 0 the probability-flow ODE. λ is −log sigma, h the length of an interval in it.
"""

from __future__ import annotations

from torch import Tensor

from core.sampling.samplers import ancestral, lifted
from core.sampling.state import Denoiser, Noise, State


def dpmpp_2s_ancestral(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """DPM-Solver++, algorithm 1 (second-order singlestep, r = 1/2) down, then fresh noise up."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    down, up = ancestral(sigma, sigma_next, eta)
    x = state.latents
    denoised = estimate = denoise(x, sigma)
    if down > 0:
        middle = (sigma * down).sqrt()
        estimate = denoise(_towards(x, denoised, sigma, middle), middle)
    return lifted(state, _towards(x, estimate, sigma, down), denoised, up, s_noise, noise)


def dpmpp_sde(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """SDE-DPM-Solver++, second-order singlestep with r = 1/2: noise at the middle and the end."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    x = state.latents
    denoised = denoise(x, sigma)
    if sigma_next == 0:
        return state.next(denoised, denoised)
    # To λ and back as k-diffusion goes: a Brownian path is so rough that the last bit shows.
    start, end = -sigma.log(), -sigma_next.log()
    middle = (-(start + (end - start) / 2)).exp()
    sigma, sigma_next = (-start).exp(), (-end).exp()
    down, up = ancestral(sigma, middle, eta)
    x_middle = _towards(x, denoised, sigma, down)
    if up > 0:
        x_middle = x_middle + noise.brownian(sigma, middle) * (s_noise * up)
    estimate = denoise(x_middle, middle)
    down, up = ancestral(sigma, sigma_next, eta)
    latents = _towards(x, estimate, sigma, down)
    if up > 0:
        latents = latents + noise.brownian(sigma, sigma_next) * (s_noise * up)
    return state.next(latents, denoised)


def dpmpp_2m_sde(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """SDE-DPM-Solver++(2M), midpoint form."""
    return _multistep(denoise, state, sigmas, noise, eta, s_noise, order=2, midpoint=True)


def dpmpp_2m_sde_heun(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """SDE-DPM-Solver++(2M), Heun's form of the second-order term."""
    return _multistep(denoise, state, sigmas, noise, eta, s_noise, order=2, midpoint=False)


def dpmpp_3m_sde(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> State:
    """The same with a third-order term, from the last three estimates (k-diffusion's)."""
    return _multistep(denoise, state, sigmas, noise, eta, s_noise, order=3, midpoint=False)


def _multistep(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    eta: float,
    s_noise: float,
    order: int,
    midpoint: bool,
) -> State:
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    memory = (denoised, *state.memory)[: order - 1]
    if sigma_next == 0:
        return state.next(denoised, denoised, memory)
    h = (sigma / sigma_next).log()
    h_eta = h * (1 + eta)
    latents = (-h_eta).exp() * state.latents - (-h_eta).expm1() * denoised
    latents = latents + _corrections(state, sigmas, denoised, h, h_eta, midpoint)
    if eta:
        spread = sigma_next * (-(-2 * eta * h).expm1()).sqrt()
        latents = latents + noise.brownian(sigma, sigma_next) * (spread * s_noise)
    return state.next(latents, denoised, memory)


def _corrections(
    state: State, sigmas: Tensor, denoised: Tensor, h: Tensor, h_eta: Tensor, midpoint: bool
) -> Tensor | float:
    """The higher-order terms that the remembered estimates allow."""
    phi_1 = -(-h_eta).expm1()
    phi_2 = 1 - phi_1 / h_eta
    if not state.memory:
        return 0.0
    i = state.index
    r_1 = (sigmas[i - 1] / sigmas[i]).log() / h
    slope_1 = (denoised - state.memory[0]) / r_1
    if len(state.memory) == 1:
        return (phi_1 / 2 if midpoint else phi_2) * slope_1
    r_2 = (sigmas[i - 2] / sigmas[i - 1]).log() / h
    slope_2 = (state.memory[0] - state.memory[1]) / r_2
    bend = (slope_1 - slope_2) / (r_1 + r_2)
    phi_3 = phi_2 / h_eta - 0.5
    return phi_2 * (slope_1 + bend * r_1) - phi_3 * bend


def _towards(x: Tensor, estimate: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """The exact solution over an interval in which the estimate stays the same."""
    return sigma_next / sigma * x + (1 - sigma_next / sigma) * estimate
