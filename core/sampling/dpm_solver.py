"""DPM-Solver in eps form, with steps of its own: a fixed number of calls, or adaptive.

Source: arXiv:2206.00927 (Lu et al.), algorithms 1 to 3, section 3.4 and appendix C. Here λ is
−log sigma, and both samplers end at the lowest positive level, not at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.sampling.samplers import ancestral
from core.sampling.state import Denoiser, Noise, State

RELATIVE, ABSOLUTE = 0.05, 0.0078
"""Tolerances of the adaptive sampler; 0.0078 is two levels of an 8-bit picture."""
FIRST_STEP = 0.05
SAFETY = 0.81
ORDER = 3
DONE = 1e-5
"""How near to the lowest level, in λ, is there."""


def dpm_fast_plan(sigmas: Tensor, calls: int) -> Tensor:
    """Levels even in λ for a budget of `calls` network calls, three an interval where it goes.

    DPM-Solver, section 3.4. The last level is the lowest positive one.
    """
    count = calls // 3 + 2
    high, low = sigmas[0].log(), sigmas[sigmas > 0].min().log()
    return torch.linspace(float(high), float(low), count).exp()


def dpm_fast(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    calls: int,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> State:
    """One interval of DPM-Solver-fast: of order 3, the last ones lower to meet the budget."""
    order = _orders(calls, len(sigmas) - 1)[state.index]
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    down, up = _split(sigma, sigma_next, eta, sigmas[-1])
    slopes = _Slopes(denoise, state.latents, sigma)
    latents = slopes.solution(down, order)
    draws = int(up > 0)
    if draws:
        latents = latents + noise.draw(state.draws) * (s_noise * up)
    return state.next(latents, slopes.denoised, draws=draws)


def _orders(calls: int, intervals: int) -> list[int]:
    if calls % 3 == 0:
        return [3] * (intervals - 2) + [2, 1]
    return [3] * (intervals - 1) + [calls % 3]


def dpm_adaptive(
    denoise: Denoiser,
    state: State,
    sigmas: Tensor,
    noise: Noise,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> State:
    """One accepted step of DPM-Solver-23; how long it is, the error of the last ones decides.

    For one image at a time. memory: λ reached, length tried next, latents of lower order.
    """
    if not state.memory:
        first = torch.tensor(FIRST_STEP, dtype=torch.float32)
        state = state.remembering((-sigmas[0].log(), first, state.latents))
    reached, length, x_low_before = state.memory
    end = -sigmas[sigmas > 0].min().log()
    sigma = (-reached).exp()
    slopes = _Slopes(denoise, state.latents, sigma)
    while True:
        target = torch.minimum(end, reached + length)
        sigma_next = (-target).exp()
        down, up = _split(sigma, sigma_next, eta, (-end).exp())
        slopes.forget()
        low, high = slopes.solution(down, 2, first=1 / 3), slopes.solution(down, 3)
        error = _error(low, high, x_low_before)
        factor = 1 + ((1 / error) ** (1 / (1.5 if eta else ORDER)) - 1).atan()
        length = (length * factor).cpu()
        if factor >= SAFETY:
            break
    draws = int(up > 0)
    if draws:
        high = high + noise.draw(state.draws) * (s_noise * up)
    return state.next(high, slopes.denoised, memory=(target, length, low), draws=draws)


def adaptive_level(state: State, sigmas: Tensor) -> Tensor:
    """The noise level of a state of `dpm_adaptive`, which chooses its own."""
    return (-state.memory[0]).exp() if state.memory else sigmas[0]


def adaptive_is_done(state: State, sigmas: Tensor) -> bool:
    """Whether `dpm_adaptive` has reached the lowest level."""
    end = -sigmas[sigmas > 0].min().log()
    return bool(state.memory) and bool(state.memory[0] >= end - DONE)


class _Slopes:
    """Estimates of the noise along one interval, each asked for once.

    Order 2 and order 3 share their first two calls where both begin with the same `first`.
    """

    def __init__(self, denoise: Denoiser, x: Tensor, sigma: Tensor) -> None:
        self._denoise = denoise
        self._x = x
        self._sigma = sigma
        self.denoised = denoise(x, sigma)
        self._eps = (x - self.denoised) / sigma
        self._known: dict[float, Tensor] = {}

    def forget(self) -> None:
        """Another end of the interval: what was asked inside it no longer holds."""
        self._known.clear()

    def solution(self, sigma_next: Tensor, order: int, first: float | None = None) -> Tensor:
        """x at sigma_next by DPM-Solver of order 1, 2 or 3 (algorithms 1 and 2)."""
        h = (self._sigma / sigma_next).log()
        base = self._x - sigma_next * h.expm1() * self._eps
        if order == 1:
            return base
        r_1 = first or (1 / 2 if order == 2 else 1 / 3)
        sigma_1 = self._sigma * (-r_1 * h).exp()
        x_1 = self._x - sigma_1 * (r_1 * h).expm1() * self._eps
        change_1 = self._at(r_1, x_1, sigma_1) - self._eps
        if order == 2:
            return base - sigma_next / (2 * r_1) * h.expm1() * change_1
        r_2 = 2 / 3
        sigma_2 = self._sigma * (-r_2 * h).exp()
        phi = (r_2 * h).expm1() / (r_2 * h) - 1
        x_2 = self._x - sigma_2 * ((r_2 * h).expm1() * self._eps + r_2 / r_1 * phi * change_1)
        change_2 = self._at(r_2, x_2, sigma_2) - self._eps
        return base - sigma_next / r_2 * (h.expm1() / h - 1) * change_2

    def _at(self, place: float, x: Tensor, sigma: Tensor) -> Tensor:
        if place not in self._known:
            self._known[place] = (x - self._denoise(x, sigma)) / sigma
        return self._known[place]


def _split(sigma: Tensor, sigma_next: Tensor, eta: float, lowest: Tensor) -> tuple[Tensor, Tensor]:
    """(down, up) as `ancestral`, but never below the lowest level."""
    if not eta:
        return sigma_next, torch.zeros_like(sigma_next)
    down, _ = ancestral(sigma, sigma_next, eta)
    down = torch.maximum(down, lowest)
    return down, (sigma_next**2 - down**2).clamp(min=0).sqrt()


def _error(low: Tensor, high: Tensor, low_before: Tensor) -> Tensor:
    """Their difference in units of the tolerance, root mean square; section 3.4, appendix C."""
    tolerance = (RELATIVE * torch.maximum(low.abs(), low_before.abs())).clamp(min=ABSOLUTE)
    return ((low - high) / tolerance).square().mean().sqrt().clamp(min=1e-8).cpu()
