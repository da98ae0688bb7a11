"""Training noise levels, and how n of them are chosen for a run.

A noise level is sigma: x = x0 + sigma · noise, the variance-exploding form of arXiv:2206.00364.
Every spacing returns falling sigmas, n + 1 for n intervals. They end at 0, but for `kl_optimal`
and for the two that older samplers bring themselves, `timesteps` and `time_uniform`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from core.errors import RequestError

ALIGNED_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""arXiv:2404.14507, the levels its authors publish for SD 1.x."""


KNOWN = 1000
"""Noise levels whose timesteps a schedule remembers."""


@dataclass(frozen=True)
class Schedule:
    """The noise levels a model was trained on: sigmas (t,) float32, rising with the timestep."""

    sigmas: Tensor
    aligned: tuple[float, ...] = ALIGNED_SD1
    """The eleven levels that `align_your_steps` interpolates."""
    lowest: float | None = None
    """Where spacings end before 0; None: at the lowest level of training."""
    highest: float | None = None
    """Where spacings begin; None: at the highest level of training."""
    rounds: bool = False
    """Whether a noise level counts as the nearest whole timestep."""

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0]) if self.lowest is None else self.lowest

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1]) if self.highest is None else self.highest

    @functools.cached_property
    def _logs(self) -> Tensor:
        return self.sigmas.log()

    @functools.cached_property
    def _timesteps(self) -> dict[float, float]:
        """Of single noise levels asked for lately: every step's is, more than once."""
        return {}

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep of a noise level, linear in log sigma; clamped to the ends.

        Fractional as in k-diffusion, or where it `rounds` the one whose log sigma is nearest, as
        in ComfyUI.
        """
        if sigma.ndim or sigma.device.type != "cpu":
            return self._timestep(sigma)
        known, level = self._timesteps, float(sigma)
        if level not in known:
            if len(known) >= KNOWN:
                known.clear()
            known[level] = float(self._timestep(sigma))
        return torch.tensor(known[level], dtype=self.sigmas.dtype)

    def _timestep(self, sigma: Tensor) -> Tensor:
        logs = self._logs
        if self.rounds:
            return (sigma.to(logs).log()[..., None] - logs).abs().argmin(-1).to(logs)
        wanted = sigma.to(logs).log()
        low = (torch.searchsorted(logs, wanted, right=True) - 1).clamp(0, len(logs) - 2)
        share = (wanted - logs[low]) / (logs[low + 1] - logs[low])
        return low + share.clamp(0, 1)

    def rounding(self, rounds: bool) -> Schedule:
        """The same levels; this one where it is so already."""
        return self if rounds == self.rounds else replace(self, rounds=rounds)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level of a fractional timestep, 0 to t - 1; inverse of `timestep`."""
        logs = self._logs
        timestep = timestep.to(logs).clamp(0, len(logs) - 1)
        low = timestep.floor().long().clamp(max=len(logs) - 2)
        return torch.lerp(logs[low], logs[low + 1], timestep - low).exp()


LAST_KEPT = 4.8973451890853435e-08
"""ᾱ at the last timestep of a zero-terminal-SNR schedule: 0 would be an infinite sigma."""


def scaled_linear(
    start: float = 0.00085,
    end: float = 0.012,
    timesteps: int = 1000,
    *,
    zero_terminal_snr: bool = False,
    aligned: tuple[float, ...] = ALIGNED_SD1,
) -> Schedule:
    """Betas even in their square root: what every SD 1.x, 2.x and XL model was trained on.

    sigma² = (1 - ᾱ) / ᾱ with ᾱ the running product of 1 - beta; arXiv:2006.11239, section 2.
    With `zero_terminal_snr` √ᾱ is shifted and scaled to end at 0; arXiv:2305.08891, algorithm 1.
    """
    betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    if zero_terminal_snr:
        roots = kept.sqrt()
        kept = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        kept[-1] = LAST_KEPT
    return Schedule(((1 - kept) / kept).sqrt().float(), aligned)


def between(
    schedule: Schedule, sigma_min: float | None = None, sigma_max: float | None = None
) -> Schedule:
    """The same with other ends for spacings; None: those of training.

    Raises:
        RequestError: they have changed places.
    """
    ends = replace(schedule, lowest=sigma_min, highest=sigma_max)
    if ends.sigma_min >= ends.sigma_max:
        raise RequestError(
            f"the lowest noise level, {ends.sigma_min:g}, must lie below the highest, "
            f"{ends.sigma_max:g}",
            "schedule_options.sigma_min",
        )
    return ends


def without_penultimate(sigmas: Tensor) -> Tensor:
    """The levels less the last before the end."""
    return torch.cat((sigmas[:-2], sigmas[-1:]))


def noised(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x0 at a noise level: x0 + sigma · noise."""
    return x0 + sigma * noise


def variance_preserving(x: Tensor, sigma: Tensor) -> Tensor:
    """x / √(1 + sigma²): about unit variance, as networks and eyes want it."""
    return x / (1 + sigma**2).sqrt()


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat((sigmas.float(), torch.zeros(1)))


def spaced_karras(low: float, high: float, steps: int, rho: float = 7.0) -> Tensor:
    """Even in sigma^(1/rho) between two levels, with 0 after them; arXiv:2206.00364, equation 5."""
    first, last = high ** (1 / rho), low ** (1 / rho)
    return _ended((first + torch.linspace(0, 1, steps) * (last - first)) ** rho)


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Even in sigma^(1/rho)."""
    return spaced_karras(schedule.sigma_min, schedule.sigma_max, steps, rho)


def exponential(schedule: Schedule, steps: int) -> Tensor:
    """Even in log sigma."""
    high, low = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return _ended(torch.linspace(high, low, steps).exp())


def polyexponential(schedule: Schedule, steps: int, rho: float = 1.0) -> Tensor:
    """Even in log sigma, bent by a power; with rho 1 the exponential one."""
    high, low = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return _ended((torch.linspace(1, 0, steps) ** rho * (high - low) + low).exp())


def normal(schedule: Schedule, steps: int) -> Tensor:
    """Even in the timestep, first and last level included."""
    return _ended(schedule.sigma(torch.linspace(*_end_timesteps(schedule), steps)))


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Even in the timestep over all of training, whatever ends are set: k-diffusion's own."""
    return _ended(schedule.sigma(torch.linspace(len(schedule.sigmas) - 1, 0, steps)))


def _end_timesteps(schedule: Schedule) -> tuple[float, float]:
    """The timesteps of the highest and of the lowest level."""
    high, low = (torch.tensor(end) for end in (schedule.sigma_max, schedule.sigma_min))
    return float(schedule.timestep(high)), float(schedule.timestep(low))


def simple(schedule: Schedule, steps: int) -> Tensor:
    """Levels of whole timesteps, evenly counted from the noisiest down."""
    count = len(schedule.sigmas)
    if steps > count:
        raise RequestError(f"the simple schedule has at most {count} steps, not {steps}", "steps")
    return _ended(torch.stack([schedule.sigmas[-(1 + i * count // steps)] for i in range(steps)]))


def sgm_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Even in the timestep, n + 1 of them with the last left out."""
    return _ended(schedule.sigma(torch.linspace(*_end_timesteps(schedule), steps + 1)[:-1]))


def ddim_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Every (t // n)-th timestep from 1 up to the noisiest, then 0; in A1111 the schedule "DDIM".

    arXiv:2010.02502, appendix D.3 ("linear"), with the offset of 1 of the original code. Where n
    does not divide t there are a few more intervals than n.
    """
    return _ended(schedule.sigmas[_ddim_grid(schedule, steps)].flip(0))


def timesteps(schedule: Schedule, steps: int) -> Tensor:
    """The grid of DDIM's first code as A1111 walks it: the levels of `ddim_uniform` without 0.

    Its lowest level, above 0, is where the walk ends, so 20 steps are 19 intervals and 30, which
    do not divide 1000, are 30. For one step, for which A1111 returns the noise, the two ends.
    """
    grid = _ddim_grid(schedule, steps)
    if len(grid) == 1:
        grid = torch.tensor([1, len(schedule.sigmas) - 1])
    return schedule.sigmas[grid].flip(0)


def time_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Even in continuous time from the highest level to the lowest; arXiv:2206.00927, section 3.

    Between two timesteps it is log √ᾱ that is linear. There are as many intervals as the DDIM grid
    of so many steps has levels, as in A1111.
    """
    count = len(schedule.sigmas)
    intervals = -(-count // _stride(schedule, steps))
    log_alphas = (1 + schedule.sigmas.double() ** 2).log().numpy() / -2
    times = np.linspace(count - 1, 0, intervals + 1)
    reached = np.interp(times, np.arange(count), log_alphas)
    return torch.from_numpy(np.sqrt(np.expm1(-2 * reached))).float()


def _ddim_grid(schedule: Schedule, steps: int) -> Tensor:
    """Timesteps 1, 1 + t // n, 1 + 2 (t // n), …, each once."""
    count = len(schedule.sigmas)
    grid = torch.arange(0, count, _stride(schedule, steps)) + 1
    return grid.clamp(max=count - 1).unique()


def _stride(schedule: Schedule, steps: int) -> int:
    count = len(schedule.sigmas)
    if steps > count:
        raise RequestError(f"the DDIM schedule has at most {count} steps, not {steps}", "steps")
    return count // steps


def align_your_steps(schedule: Schedule, steps: int) -> Tensor:
    """The published levels, interpolated in log sigma; arXiv:2404.14507."""
    knots = np.log(np.array(schedule.aligned))
    places = np.linspace(0, 1, steps)
    levels = np.exp(np.interp(places, np.linspace(0, 1, len(knots)), knots))
    return _ended(torch.from_numpy(levels))


def kl_optimal(schedule: Schedule, steps: int) -> Tensor:
    """Even in arctan sigma, down to the lowest level, not to 0; arXiv:2404.14507, section 3.1."""
    high, low = math.atan(schedule.sigma_max), math.atan(schedule.sigma_min)
    return torch.linspace(high, low, steps + 1).tan()


def beta(schedule: Schedule, steps: int, alpha: float = 0.6) -> Tensor:
    """Quantiles of the Beta(0.6, 0.6) distribution between the two end levels.

    arXiv:2407.12173 spaces timesteps so; A1111, which is followed here, the levels themselves.
    """
    from scipy.special import betaincinv

    shares = betaincinv(alpha, alpha, 1 - np.linspace(0, 1, steps))
    low, high = schedule.sigma_min, schedule.sigma_max
    return _ended(torch.from_numpy(low + shares * (high - low)))


def linear_quadratic(schedule: Schedule, steps: int, threshold: float = 0.025) -> Tensor:
    """Half the steps fall evenly by 2.5 % in all, the rest ever faster; arXiv:2410.13720, 3.4.2."""
    if steps == 1:
        return _ended(torch.tensor([schedule.sigma_max]))
    linear = steps // 2
    rest = steps - linear
    beyond = linear - threshold * steps
    square = beyond / (linear * rest**2)
    slope = threshold / linear - 2 * beyond / rest**2
    fallen = [i * threshold / linear for i in range(linear)]
    fallen += [square * i**2 + slope * i + square * linear**2 for i in range(linear, steps)]
    return _ended((1 - torch.tensor(fallen, dtype=torch.float64)) * schedule.sigma_max)


def given(sigmas: tuple[float, ...]) -> Tensor:
    """A hand-drawn list of levels, checked.

    Raises:
        RequestError: fewer than two, not falling, or not ending in 0.
    """
    if len(sigmas) < 2 or sigmas[-1] != 0:
        raise RequestError("a drawn schedule needs at least two sigmas, the last one 0", "schedule")
    if any(a <= b for a, b in pairwise(sigmas)):
        raise RequestError("the sigmas of a drawn schedule must fall", "schedule")
    return torch.tensor(sigmas, dtype=torch.float32)
