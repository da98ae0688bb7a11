"""Multistep samplers: higher order from one call a step, by remembering earlier estimates.

Sources: arXiv:2202.09778 (Liu et al., "PNDM"), arXiv:2211.01095 (Lu et al., "DPM-Solver++"),
arXiv:2302.04867 (Zhao et al., "UniPC"). λ is −log sigma throughout.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from core.sampling.samplers import landed
from core.sampling.state import Denoiser, Noise, State

LMS_ORDER = 4
UNIPC_ORDER = 3


def lms(denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise) -> State:
    """Linear multistep (Adams–Bashforth over uneven levels) of order up to 4."""
    sigma = sigmas[state.index]
    denoised = denoise(state.latents, sigma)
    slopes = ((state.latents - denoised) / sigma, *state.memory)
    weights = adams_bashforth(sigmas, state.index, len(slopes))
    latents = state.latents
    for weight, slope in zip(weights, slopes, strict=True):
        latents = latents + weight * slope
    return state.next(latents, denoised, memory=slopes[: LMS_ORDER - 1])


def adams_bashforth(sigmas: Tensor, index: int, order: int) -> list[float]:
    """Integral over interval `index` of each Lagrange polynomial through the last `order` levels.

    Gauss–Legendre quadrature with four points, which is exact for polynomials up to degree 7.
    """
    levels = sigmas.double().numpy()
    start, end = levels[index], levels[index + 1]
    points, weights = np.polynomial.legendre.leggauss(4)
    at = (end - start) / 2 * points + (end + start) / 2
    knots = [levels[index - j] for j in range(order)]
    coefficients = []
    for j, knot in enumerate(knots):
        others = [k for i, k in enumerate(knots) if i != j]
        basis = np.prod([(at - k) / (knot - k) for k in others], axis=0) if others else 1.0
        coefficients.append(float((weights * basis).sum() * (end - start) / 2))
    return coefficients


def plms(denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise) -> State:
    """Pseudo linear multistep: PNDM, equations 9 and 12, begun with an averaged first slope."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    x = state.latents
    denoised = denoise(x, sigma)
    slope = (x - denoised) / sigma
    match state.memory:
        case () if sigma_next > 0:
            x_next = x + slope * (sigma_next - sigma)
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            direction = (slope + slope_next) / 2
        case ():
            direction = slope
        case (first,):
            direction = (3 * slope - first) / 2
        case (first, second):
            direction = (23 * slope - 16 * first + 5 * second) / 12
        case (first, second, third, *_):
            direction = (55 * slope - 59 * first + 37 * second - 9 * third) / 24
    latents = x + direction * (sigma_next - sigma)
    return landed(state.next(latents, denoised, memory=(slope, *state.memory)[:3]), sigmas)


def dpmpp_2m(denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise) -> State:
    """DPM-Solver++, algorithm 2 (second-order multistep)."""
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    estimate = denoised
    if sigma_next > 0 and state.memory:
        h_last = (sigmas[state.index - 1] / sigma).log()
        r = h_last / (sigma / sigma_next).log()
        estimate = denoised + (denoised - state.memory[0]) / (2 * r)
    latents = sigma_next / sigma * state.latents + (1 - sigma_next / sigma) * estimate
    return state.next(latents, denoised, memory=(denoised,))


def unipc(denoise: Denoiser, state: State, sigmas: Tensor, noise: Noise) -> State:
    """UniPC of order 3 with B(h) = h ("bh1"): UniC, algorithm 1, then UniP, algorithm 2.

    One call a step: the estimate at the predicted point corrects that point, and predicts the
    next from the corrected one. memory: the last corrected latents, then estimates, newest first.
    The order falls towards the last interval, which lands on the estimate.
    """
    sigma, sigma_next = sigmas[state.index : state.index + 2]
    denoised = denoise(state.latents, sigma)
    x = state.latents
    if state.memory:
        last, *earlier = state.memory
        x = _unipc_update(sigmas, state.index - 1, last, tuple(earlier), denoised)
    estimates = (denoised, *state.memory[1:])[:UNIPC_ORDER]
    latents = denoised if sigma_next == 0 else _unipc_update(sigmas, state.index, x, estimates)
    return landed(state.next(latents, denoised, memory=(x, *estimates)), sigmas)


def _unipc_update(
    sigmas: Tensor,
    index: int,
    x: Tensor,
    estimates: tuple[Tensor, ...],
    arrived: Tensor | None = None,
) -> Tensor:
    """x over interval `index`; with the estimate at its end (`arrived`) this is the corrector.

    UniPC, equation 3 (predictor) and equation 8 (corrector), data prediction, B(h) = h.
    """
    sigma, sigma_next = sigmas[index : index + 2]
    order = min(len(estimates), len(sigmas) - 1 - index)
    h = (sigma / sigma_next).log()
    newest = estimates[0]
    ratios = [float((sigma / sigmas[index - i]).log() / h) for i in range(1, order)]
    differences = [(estimates[i] - newest) / ratios[i - 1] for i in range(1, order)]
    if arrived is not None:
        ratios, differences = [*ratios, 1.0], [*differences, arrived - newest]
    base = sigma_next / sigma * x + (1 - sigma_next / sigma) * newest
    for weight, difference in zip(_unipc_weights(ratios, -float(h)), differences, strict=True):
        base = base + float(h) * weight * difference
    return base


def _unipc_weights(ratios: list[float], hh: float) -> list[float]:
    """The coefficients a of UniPC, theorem 3.1: R(h) a = φ(h) / B(h)."""
    if len(ratios) <= 1:
        return [0.5] * len(ratios)  # what the authors' code uses at this order
    phi, factorial, right = math.expm1(hh) / hh - 1, 1, []
    for i in range(1, len(ratios) + 1):
        right.append(phi * factorial / hh)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    matrix = np.vander(np.array(ratios), increasing=True).T
    return np.linalg.solve(matrix, np.array(right)).tolist()
