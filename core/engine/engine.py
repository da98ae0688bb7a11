"""The engine's protocol: what page, API and terminal may ask of whatever runs requests."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from core.engine.job import Job
from core.engine.line import Changes
from core.gallery import Gallery
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.registry import Registry
from core.request import ControlUse, GenerationRequest, StartImage

if TYPE_CHECKING:
    from torch import Tensor

View: TypeAlias = Literal["latents", "denoised", "noise"]
"""The noisy latents x_t (scaled to unit variance), the model's estimate of the image, or the noise
that it takes to be in them."""


@dataclass(frozen=True)
class EngineInfo:
    """What runs the requests. `device` is empty until torch is there."""

    ready: bool
    device: str
    precision: str
    waiting: int
    running: int
    problem: str = ""
    """Why it could not start, as a sentence; empty when nothing is wrong."""


@dataclass(frozen=True)
class DecodeStep:
    """The picture of one stored step through the checkpoint's own VAE.

    `image`: number of the image in its request; `index`: intervals done, 0 to the total.
    """

    job: str
    image: int
    index: int
    view: View
    pass_index: int = 0


@dataclass(frozen=True)
class Upscale:
    """A picture made larger, without painting: by Lanczos, or by a network from models/ESRGAN.

    `picture`: its SHA-256 in the inputs folder. Answered by a picture.
    """

    picture: str
    upscaler: str
    width: int
    height: int


@dataclass(frozen=True)
class MakeGuide:
    """What a network will see of a guide, at the size that is painted; answered by a picture.

    `start`: what the run begins from; None: no picture.
    """

    use: ControlUse
    width: int
    height: int
    start: StartImage | None = None


@dataclass(frozen=True)
class LookInside:
    """What the model says at a stored step: to each prompt alone, before they are combined.

    `index`: intervals done, 0 to one less than the total. Answered by `looking.Inside`.
    """

    job: str
    image: int
    index: int
    pass_index: int = 0
    without_guides: bool = False
    """Whether what guides beside the prompts is left out, to compare."""


@dataclass(frozen=True)
class LookWhere:
    """Where each word of the prompts is looked at in a stored step; see `looking.Where`."""

    job: str
    image: int
    index: int
    pass_index: int = 0


@dataclass(frozen=True)
class LookThrough:
    """What every block of the U-Net makes of a stored step; see `looking.Through`."""

    job: str
    image: int
    index: int
    pass_index: int = 0


@dataclass(frozen=True)
class LookWords:
    """What the model reads of a run's prompts, at each of its steps; see `looking.Words`."""

    job: str
    pass_index: int = 0


@dataclass(frozen=True, eq=False)
class DecodeLatents:
    """A picture of latents (1 c h w), through a checkpoint's VAE."""

    checkpoint: str
    vae: str | None
    latents: Tensor


@dataclass(frozen=True)
class EncodePicture:
    """A picture that was put in, as latents, with noise to lay over it; see `trials.Encoded`.

    `picture`: its SHA-256; `seed`: of the noise.
    """

    picture: str
    checkpoint: str
    vae: str | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class GuessOnce:
    """What one call of the network makes of noised latents; see `trials.Guess`.

    `latents`: (1 c h w) without noise; `noise`: shaped like them; `timestep`: 0 to 999.
    """

    checkpoint: str
    vae: str | None
    latents: Tensor
    noise: Tensor
    timestep: float
    prompt: str
    negative_prompt: str


@dataclass(frozen=True)
class PlotSchedules:
    """The levels of every schedule for so many steps, by name; see `trials.Plotted`."""

    checkpoint: str
    steps: int


@dataclass(frozen=True)
class Unload:
    """Every checkpoint leaves memory; the next job loads its own again."""


@dataclass(frozen=True)
class Load:
    """A checkpoint is loaded before anybody asks for a picture; None: the default one."""

    checkpoint: str | None = None


Query: TypeAlias = (
    Load
    | Unload
    | DecodeStep
    | Upscale
    | MakeGuide
    | LookInside
    | LookWhere
    | LookThrough
    | LookWords
    | DecodeLatents
    | EncodePicture
    | GuessOnce
    | PlotSchedules
)


class Engine(Protocol):
    """Runs requests in its own thread; safe to call from any."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def gallery(self) -> Gallery:
        """What was made here, found again."""

    @property
    def inputs(self) -> Inputs:
        """The pictures that requests name."""

    @property
    def changes(self) -> Changes:
        """Tells of every change in the line of jobs."""

    def describe(self) -> EngineInfo: ...

    def submit(self, request: GenerationRequest, owner: str = "local", saves: bool = True) -> Job:
        """Resolves the request and queues it. Raises RequestError or FileError at once.

        `saves`: whether its pictures go to disk.
        """

    def job(self, id: str) -> Job:
        """Raises RequestError if there is none of that id."""

    def jobs(self, owner: str | None = None) -> list[Job]:
        """Waiting, running and recent jobs, oldest first; with an owner also those of an earlier
        process."""

    def place(self, job: Job) -> int:
        """Jobs before this one: 0 when it is running or next."""

    def expected(self, job: Job) -> float | None:
        """Seconds until a waiting job begins, by the runs there were; None where none can tell."""

    def arrange(self, ids: Sequence[str], owner: str) -> None:
        """The owner's own waiting jobs in this order; others' turns stay as they are.

        Raises:
            RequestError: one is not the owner's, or does not wait.
        """

    def pause(self, paused: bool, owner: str | None = None) -> None:
        """An owner's jobs wait until further notice, or go on; None: everybody's."""

    def is_paused(self, owner: str | None = None) -> bool:
        """Whether this owner's jobs wait; None: whether everybody's do."""

    def inspect(self, query: Query, owner: str = "local") -> Future[Any]:
        """What is not a generation, run on the engine's thread between steps."""

    def adopt(self, registry: Registry) -> None:
        """Other shelves, from the next job on; what is queued stays."""

    def close(self) -> None:
        """Stops after the running step; queued jobs stay in the queue."""
