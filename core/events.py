"""What happened: the stream of values that `generate` yields, and that page, API, terminal and
trace all read. Errors are raised through the iterator, never yielded.

Tensors in events lie on the CPU, so readers never touch the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from core.request import GenerationRequest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from core.sampling.state import State


@dataclass(frozen=True)
class Started:
    """The run begins; the request is in full: nothing is left to chance or default."""

    request: GenerationRequest


@dataclass(frozen=True)
class Loading:
    """A part of a checkpoint is being read: `done` of `total` bytes; total 0 where nobody knows."""

    part: str
    done: int
    total: int


@dataclass(frozen=True)
class Loaded:
    """The model is ready.

    `preview`: (c+1, 3·p·p) float32 on the CPU: least-squares map from a latent cell, with a 1
    appended, to its p×p patch of RGB in [0, 1]; see `core.images.preview`.
    `fingerprint`: SHA-256 of the checkpoint's file, hexadecimal; empty where that is being found
    out, which `Identified` tells before the first picture.
    """

    checkpoint: str
    family: str
    fingerprint: str
    device: str
    dtype: str
    preview: Tensor
    kernels: str = ""
    """What computes on a CPU, and in how many threads; others round otherwise."""


@dataclass(frozen=True)
class Identified:
    """The SHA-256 of a checkpoint that was loaded before it was known."""

    checkpoint: str
    fingerprint: str


@dataclass(frozen=True)
class Note:
    """Something a person may want to know: a fallback taken, a key that was not used."""

    kind: str
    text: str


@dataclass(frozen=True)
class Origin:
    """Where a walk comes from."""

    whole: tuple[float, ...] = ()
    """The levels of a walk from noise alone, of which those that are walked are the end."""
    intervals: int = 0
    """How many the sampler was asked for, before it planned its own."""
    from_noise: bool = True
    """Whether it begins with the seed's noise and nothing else."""
    sampler: str = ""
    """Which one walks."""


@dataclass(frozen=True)
class Step:
    """One interval of the walk is done (or, at index 0, about to begin).

    `images`: which images of the request the batch rows are. `state.index` intervals of `total`
    are done; `sigma` is the noise level of `state.latents`, `timestep` what the network calls it.
    `state.denoised` is the estimate that the last interval began with (None at index 0).
    `estimates` are the answers of all the interval's evaluations of the denoiser, in order: with
    them the step can be computed again without the network.
    """

    images: tuple[int, ...]
    pass_index: int
    sigmas: tuple[float, ...]
    """All noise levels of the pass, one more than it has intervals."""
    sigma: float
    timestep: float
    state: State
    seconds: float
    estimates: tuple[Tensor, ...] = ()
    origin: Origin = field(default_factory=Origin)
    begins: bool = False
    """Whether the walk begins here: the state was given, not computed."""
    probes: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """What was asked to be kept, one tensor an evaluation: "cond" and "uncond", (b c h w) each."""

    @property
    def total(self) -> int:
        """Intervals of the pass; of an adaptive sampler, which may take more or fewer, a guess."""
        return max(len(self.sigmas) - 1, self.state.index)


@dataclass(frozen=True)
class Decoding:
    """The VAE turns latents of these images into pictures."""

    images: tuple[int, ...]


@dataclass(frozen=True)
class ImageDone:
    """A picture is ready. `request` makes this very picture when run: one image, its own seed."""

    index: int
    image: Image
    request: GenerationRequest
    finished: bool = True
    """False: stopped early; the picture is the estimate at that step."""
    path: Path | None = None
    """Where it was saved, once it was."""


@dataclass(frozen=True)
class Finished:
    """The end of the run."""

    seconds: float
    peak_bytes: int
    """Peak memory: of the device for CUDA, of the process elsewhere."""
    evaluations: int
    """Calls of the guided denoiser; with a negative prompt the network answers each twice."""
    interrupted: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)


Event: TypeAlias = (
    Started | Loading | Loaded | Identified | Note | Step | Decoding | ImageDone | Finished
)


def loaded_in(events: Iterable[Event]) -> Loaded | None:
    """The model that a run began with, with its fingerprint as soon as any event told it."""
    first: Loaded | None = None
    for event in events:
        if not isinstance(event, Loaded | Identified):
            continue
        if first is None:
            first = event if isinstance(event, Loaded) else None
        elif not first.fingerprint and event.checkpoint == first.checkpoint:
            first = replace(first, fingerprint=event.fingerprint)
    return first
