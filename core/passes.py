"""A request as passes: each is one walk down one list of noise levels, at one size.

Planning alone: sizes, shares and names. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.request import Enlarge, GenerationRequest

SIZE_STEP = 8
MOST_NOISE = 0.999
"""A1111 counts a strength above this as this."""


LATENT_UPSCALERS = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
"""Ways to enlarge latents, by A1111's names; `core.models.upscalers` does it."""


@dataclass(frozen=True)
class Pass:
    """One walk. `request` says what holds for it: size, steps, sampler, prompts, checkpoint."""

    index: int
    request: GenerationRequest
    strength: float | None = None
    """How far what is there is noised before it is denoised again; None: it begins with noise."""


def passes(request: GenerationRequest) -> tuple[Pass, ...]:
    """The walks of a resolved request, in order.

    With a second, larger pass it is that one which is refined, as in A1111.
    """
    strength = None if request.start is None else request.start.strength
    if request.enlarge is None:
        return (Pass(0, request, strength),)
    base = replace(request, refine=None)
    return Pass(0, base, strength), Pass(1, enlarged(request), request.enlarge.strength)


def enlarged(request: GenerationRequest) -> GenerationRequest:
    """What holds for the second pass."""
    more = request.enlarge
    assert more is not None
    width, height = enlarged_size(request, more)
    changes = {
        name: getattr(more, name)
        for name in ("steps", "cfg_scale", "sampler", "schedule", "prompt", "negative_prompt")
        if getattr(more, name) is not None
    }
    if more.checkpoint is not None and more.checkpoint != request.checkpoint:
        changes |= {"checkpoint": more.checkpoint, "vae": None}
    return replace(request, width=width, height=height, **changes)


def enlarged_size(request: GenerationRequest, more: Enlarge) -> tuple[int, int]:
    """(width, height) of the second pass in pixels; a side left open follows the other one."""
    assert request.width and request.height
    if more.width and more.height:
        return more.width, more.height
    scale = more.scale
    if more.width:
        scale = more.width / request.width
    elif more.height:
        scale = more.height / request.height
    return tuple(int(side * scale) // SIZE_STEP * SIZE_STEP for side in _sides(request))  # type: ignore[return-value]


def _sides(request: GenerationRequest) -> tuple[int, int]:
    assert request.width and request.height
    return request.width, request.height


def kept_intervals(strength: float, steps: int) -> int:
    """Intervals walked of `steps`: A1111's int(min(s, 0.999) · n) + 1, and none for strength 0."""
    return 0 if strength <= 0 else int(min(strength, MOST_NOISE) * steps) + 1


def checkpoints(request: GenerationRequest) -> frozenset[str]:
    """Those that a resolved request goes back and forth between."""
    parts = (request, request.enlarge, request.refine)
    return frozenset(part.checkpoint for part in parts if part is not None and part.checkpoint)


def groups(
    request: GenerationRequest, on_cuda: bool, waiting: Sequence[int], adaptive: bool
) -> list[tuple[int, ...]]:
    """Which of the `waiting` images go through the network together.

    One at a time on a CPU, where a batch gains little: so a batch equals its singles bit for bit.
    One at a time too where each image chooses its own steps, or is told something else.
    """
    assert request.width and request.height
    at_once = 1
    if on_cuda and not adaptive and not request.prompts:
        at_once = max(1, 4 * 1024 * 1024 // (request.width * request.height))
    return [tuple(waiting[first : first + at_once]) for first in range(0, len(waiting), at_once)]
