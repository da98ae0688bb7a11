"""The engine's protocol: what page, API and terminal may ask of whatever runs requests."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from core.engine.job import Job
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.registry import Registry
from core.request import GenerationRequest

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


Query: TypeAlias = DecodeStep | Upscale


class Engine(Protocol):
    """Runs requests in its own thread; safe to call from any."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def inputs(self) -> Inputs:
        """The pictures that requests name."""

    def describe(self) -> EngineInfo: ...

    def submit(self, request: GenerationRequest, owner: str = "local") -> Job:
        """Resolves the request and queues it. Raises RequestError or FileError at once."""

    def job(self, id: str) -> Job:
        """Raises RequestError if there is none of that id."""

    def jobs(self, owner: str | None = None) -> list[Job]:
        """Waiting, running and recent jobs, oldest first; with an owner also those of an earlier
        process."""

    def place(self, job: Job) -> int:
        """Jobs before this one: 0 when it is running or next."""

    def inspect(self, query: Query, owner: str = "local") -> Future[Any]:
        """What is not a generation, run on the engine's thread between steps."""

    def close(self) -> None:
        """Stops after the running step; queued jobs stay in the queue."""
