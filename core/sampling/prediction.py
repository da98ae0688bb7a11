"""From a network's raw output to the estimate of x0, whatever the network was trained to predict.

Everything is written for x = x0 + sigma · noise; arXiv:2206.00364, section 5 and table 1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.nn.attention import PLAIN, Attending
from core.nn.blocks import as_many
from core.nn.residuals import summed
from core.sampling.conditioning import Conditioning
from core.sampling.controls import Control, Look
from core.sampling.latest import Latest
from core.sampling.schedule import Schedule, variance_preserving


class Prediction(enum.StrEnum):
    """What the network's raw output is."""

    EPS = "eps"
    """The noise; arXiv:2006.11239."""
    V = "v"
    """√ᾱ · noise − √(1 − ᾱ) · x0; arXiv:2202.00512, section 4."""

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """The estimate of x0 from x at `sigma` and the network's `output`, shaped like x."""
        if self is Prediction.EPS:
            return x - sigma * output
        return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1).sqrt()

    def output(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        """Inverse of `denoised`: what the network would have said."""
        if self is Prediction.EPS:
            return (x - denoised) / sigma
        return (x / (sigma**2 + 1) - denoised) * (sigma**2 + 1).sqrt() / sigma


@dataclass(frozen=True)
class Predictor:
    """A network as a function of noise level: (x, sigma, conditioning) -> denoised."""

    network: Callable[..., Tensor]
    """Told by the arguments of UNet.forward."""
    prediction: Prediction
    schedule: Schedule
    dtype: torch.dtype = torch.float32
    attending: Attending = PLAIN
    controls: tuple[Control, ...] = ()
    """What adds residuals inside the network; their sum is added."""
    looks: tuple[Look, ...] = ()
    """What the network attends to beside its context, the first one innermost."""
    told: Latest | None = field(default_factory=Latest, compare=False)
    """What it is told in every call while the prompts stay the same, and what the network made of
    it: of this network with these weights. None: nothing is kept."""

    def keeping_nothing(self) -> Predictor:
        """The same without memory from call to call, and what was kept let go."""
        if self.told is not None:
            self.told.forget()
        return replace(self, told=None)

    def __call__(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The estimate of x0.

        Args:
            x: (b c h w) float32 latents at noise level sigma.
            sigma: () float32, above 0, on the CPU.
            conditioning: with as many rows as x; or several for each, in the order of x repeated.

        Returns:
            (b c h w) float32, one for each row of conditioning.
        """
        rows, pooled = len(conditioning.context), conditioning.pooled
        is_plain = self.attending == PLAIN and not self.looks and not self.controls
        if not is_plain or pooled is not None or conditioning.concat is not None:
            x = as_many(x, rows)  # they differ from the first layer on, or somebody looks at each
        level = float(self.schedule.timestep(sigma))  # written by the device, not copied there
        timestep = torch.full((x.shape[0],), level, dtype=torch.float32, device=x.device)
        scaled = variance_preserving(x, sigma)
        if conditioning.concat is not None:
            scaled = torch.cat((scaled, conditioning.concat.to(scaled)), dim=1)
        scaled = scaled.to(self.dtype)
        words = conditioning.words if is_plain else None
        attending = replace(self.attending, words=words)
        for look in self.looks:
            attending = look(attending, scaled, conditioning)
        output = self.network(
            scaled,
            timestep,
            conditioning.context.to(x.device, self.dtype),
            None if pooled is None else pooled.to(x.device, self.dtype),
            attending=attending,
            residuals=summed(
                [control(scaled, timestep, conditioning) for control in self.controls]
            ),
        )
        return self.prediction.denoised(as_many(x, rows), sigma, output.float())
