"""Training noise levels, and how n of them are chosen for a run.

A noise level is sigma: x = x0 + sigma · noise, the variance-exploding form of arXiv:2206.00364.
Every spacing returns falling sigmas with a 0 at the end, so n intervals have n + 1 levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from core.errors import RequestError


@dataclass(frozen=True)
class Schedule:
    """The noise levels a model was trained on: sigmas (t,) float32, rising with the timestep."""

    sigmas: Tensor

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The fractional timestep of a noise level, linear in log sigma; clamped to the ends.

        What k-diffusion does; ComfyUI rounds to the nearest whole one.
        """
        logs = self.sigmas.log()
        wanted = sigma.to(logs).clamp(self.sigmas[0], self.sigmas[-1]).log()
        low = (torch.searchsorted(logs, wanted, right=True) - 1).clamp(0, len(logs) - 2)
        share = (wanted - logs[low]) / (logs[low + 1] - logs[low])
        return low + share.clamp(0, 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level of a fractional timestep, 0 to t - 1; inverse of `timestep`."""
        logs = self.sigmas.log()
        timestep = timestep.to(logs).clamp(0, len(logs) - 1)
        low = timestep.floor().long().clamp(max=len(logs) - 2)
        return torch.lerp(logs[low], logs[low + 1], timestep - low).exp()


def scaled_linear(start: float = 0.00085, end: float = 0.012, timesteps: int = 1000) -> Schedule:
    """Betas even in their square root: what every SD 1.x, 2.x and XL model was trained on.

    sigma² = (1 - ᾱ) / ᾱ with ᾱ the running product of 1 - beta; arXiv:2006.11239, section 2.
    """
    betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    return Schedule(((1 - kept) / kept).sqrt().float())


def noised(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x0 at a noise level: x0 + sigma · noise."""
    return x0 + sigma * noise


def variance_preserving(x: Tensor, sigma: Tensor) -> Tensor:
    """x / √(1 + sigma²): about unit variance, as networks and eyes want it."""
    return x / (1 + sigma**2).sqrt()


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat((sigmas.float(), torch.zeros(1)))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Even in sigma^(1/rho); arXiv:2206.00364, equation 5."""
    low, high = schedule.sigma_min ** (1 / rho), schedule.sigma_max ** (1 / rho)
    return _ended((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


def exponential(schedule: Schedule, steps: int) -> Tensor:
    """Even in log sigma."""
    high, low = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return _ended(torch.linspace(high, low, steps).exp())


def normal(schedule: Schedule, steps: int) -> Tensor:
    """Even in the timestep, first and last level included."""
    return _ended(schedule.sigma(torch.linspace(len(schedule.sigmas) - 1, 0, steps)))


def simple(schedule: Schedule, steps: int) -> Tensor:
    """Levels of whole timesteps, evenly counted from the noisiest down."""
    count = len(schedule.sigmas)
    if steps > count:
        raise RequestError(f"the simple schedule has at most {count} steps, not {steps}", "steps")
    return _ended(torch.stack([schedule.sigmas[-(1 + i * count // steps)] for i in range(steps)]))


def sgm_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Even in the timestep, n + 1 of them with the last left out."""
    return _ended(schedule.sigma(torch.linspace(len(schedule.sigmas) - 1, 0, steps + 1)[:-1]))


def ddim_uniform(schedule: Schedule, steps: int) -> Tensor:
    """Timesteps 1, 1 + t // n, 1 + 2 (t // n), …, from the noisiest of the first n down.

    arXiv:2010.02502, appendix D.3 ("linear"), with the offset of 1 of the original code.
    """
    count = len(schedule.sigmas)
    if steps > count:
        raise RequestError(f"the DDIM schedule has at most {count} steps, not {steps}", "steps")
    grid = torch.arange(steps) * (count // steps) + 1
    return _ended(schedule.sigmas[grid.clamp(max=count - 1)].flip(0))


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
