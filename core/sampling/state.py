"""Where a walk through the noise levels stands, and the walk itself.

A step is a pure function from state to state; what a sampler remembers is in the state, as data.
So any stored state resumes the same walk, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from torch import Tensor

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(x (b c h w), sigma ()) -> denoised (b c h w): the estimate of x0 in x = x0 + sigma · noise."""


@dataclass(frozen=True)
class State:
    """All that a sampler knows."""

    index: int
    """Intervals done; latents are at sigmas[index]."""
    latents: Tensor
    """(b c h w) float32."""
    denoised: Tensor | None = None
    """The estimate the last interval began with."""
    memory: tuple[Tensor, ...] = ()
    """What this sampler needs of the past, newest first."""
    draws: int = 1
    """How far each image's noise stream has been used; draw 0 is the initial noise."""

    def remembering(self, memory: tuple[Tensor, ...]) -> State:
        """The same state with another memory."""
        return replace(self, memory=memory)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but single numbers."""
        estimate = () if self.denoised is None else (self.denoised,)
        return (self.latents, *estimate, *(t for t in self.memory if t.ndim))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same state with `change` of every tensor in `tensors`. Single numbers stay as they
        are: samplers reckon with them on the CPU, wherever latents are."""
        return replace(
            self,
            latents=change(self.latents),
            denoised=None if self.denoised is None else change(self.denoised),
            memory=tuple(change(t) if t.ndim else t for t in self.memory),
        )

    def next(
        self,
        latents: Tensor,
        denoised: Tensor,
        memory: tuple[Tensor, ...] = (),
        draws: int = 0,
    ) -> State:
        """The state one interval on, after `draws` more draws of noise."""
        return replace(
            self,
            index=self.index + 1,
            latents=latents,
            denoised=denoised,
            memory=memory,
            draws=self.draws + draws,
        )


class Noise(Protocol):
    """Where a step takes its noise from."""

    def draw(self, n: int) -> Tensor:
        """The n-th standard normal draw of every image's own stream, (b c h w)."""

    def brownian(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """The Brownian path's increment between two noise levels, scaled to unit variance."""


SamplerStep: TypeAlias = Callable[[Denoiser, State, Tensor, Noise], State]
"""(denoise, state, sigmas, noise) -> the state one interval on."""


def _listed_level(state: State, sigmas: Tensor) -> Tensor:
    return sigmas[state.index]


def _past_the_list(state: State, sigmas: Tensor) -> bool:
    return state.index >= len(sigmas) - 1


@dataclass(frozen=True)
class Sampler:
    """A step, and how its walk is measured: by the list of levels, unless it chooses its own."""

    step: SamplerStep
    level: Callable[[State, Tensor], Tensor] = _listed_level
    """The noise level of a state's latents, ()."""
    is_done: Callable[[State, Tensor], bool] = _past_the_list


def walk(
    sampler: Sampler,
    denoiser_at: Callable[[int], Denoiser],
    state: State,
    sigmas: Tensor,
    noise: Noise,
) -> Iterator[State]:
    """Every state after `state`; a stored one resumes the same walk, bit for bit.

    Args:
        denoiser_at: interval -> the denoiser for all evaluations of that interval, since a prompt
            may change from one interval to the next but never inside one.
        sigmas: (n+1,) noise levels.
    """
    while not sampler.is_done(state, sigmas):
        state = sampler.step(denoiser_at(state.index), state, sigmas, noise)
        yield state
