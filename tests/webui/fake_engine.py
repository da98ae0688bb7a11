"""An engine that paints a disc out of noise, at the pace a test asks for, with no model at all."""

from __future__ import annotations

import math
import queue
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from core.engine.engine import DecodeStep, EngineInfo
from core.engine.job import Job, JobState, Wish
from core.engine.line import Line
from core.errors import Cancelled, RequestError, VitrineError, named
from core.events import Decoding, Finished, ImageDone, Loaded, Loading, Started, Step
from core.registry import built_in
from core.request import GenerationRequest
from core.resolve import BOUNDS

CELLS = 32
PATCH = 4


@dataclass(frozen=True)
class FakeCheckpoint:
    name: str
    title: str
    size: int = CELLS * PATCH
    defaults: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    description: str = ""


class FakeCatalog:
    def __init__(self) -> None:
        self._files = (
            FakeCheckpoint(
                "pocket",
                "Pocket, the small one",
                examples=("a red apple on a blue background", "two ghosts in the snow"),
                description="Paints small pictures of about 60 things.",
                defaults={"steps": 20, "cfg_scale": 4.0},
            ),
            FakeCheckpoint("other", "Another", defaults={"steps": 12}, size=512),
        )

    def checkpoints(self) -> tuple[FakeCheckpoint, ...]:
        return self._files

    def checkpoint(self, name: str | None) -> FakeCheckpoint:
        return named({c.name: c for c in self._files}, name or "pocket", "checkpoint", "checkpoint")

    def vaes(self) -> tuple[Any, ...]:
        return ()

    def files(self, kind: Any, wait: bool = True) -> tuple[Any, ...]:
        return ()

    def unreadable(self) -> dict[str, str]:
        return {}

    def default(self) -> FakeCheckpoint:
        return self._files[0]


class FakeEngine:
    """Implements `core.engine.engine.Engine`.

    A prompt of "fail" fails, "crash" crashes, and each "slowly" in it makes it six times as long.
    """

    def __init__(self, seconds: float = 0.03) -> None:
        self.seconds = seconds
        self.registry = built_in()
        self.catalog = FakeCatalog()
        self._jobs: dict[str, Job] = {}
        self._line = Line()
        self.changes = self._line.changes
        self._queries: queue.SimpleQueue[tuple[DecodeStep, Future[Any]]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._closing = False
        self.changes.listen(self._wake.set)
        self._thread = threading.Thread(target=self._work, name="fake-engine", daemon=True)
        self._thread.start()

    def describe(self) -> EngineInfo:
        return EngineInfo(True, "cpu", "float32", *self._line.counts())

    def submit(self, request: GenerationRequest, owner: str = "local", saves: bool = True) -> Job:
        if not request.prompt.strip():
            raise RequestError("say what you'd like to see first", "prompt")
        checkpoint = self.catalog.checkpoint(request.checkpoint)
        resolved = replace(
            request,
            checkpoint=checkpoint.name,
            sampler=self.registry.sampler(request.sampler).name,
            seed=secrets.randbelow(2**32) if request.seed is None else request.seed,
            width=request.width or checkpoint.size,
            height=request.height or checkpoint.size,
        )
        if resolved.width % 8:  # type: ignore[operator]
            raise RequestError("width must be a multiple of 8", "width")
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(resolved, name) <= high:
                raise RequestError(f"{name} must lie between {low} and {high}", name)
        job = Job(resolved, owner)
        self._jobs[job.id] = job
        self._line.add(job)
        return job

    def job(self, id: str) -> Job:
        return named(self._jobs, id, "job")

    def jobs(self, owner: str | None = None) -> list[Job]:
        return [job for job in self._jobs.values() if owner in (None, job.owner)]

    def place(self, job: Job) -> int:
        return self._line.place(job)

    def expected(self, job: Job) -> float | None:
        return self._line.expected(job)

    def arrange(self, ids: Sequence[str], owner: str) -> None:
        self._line.arrange(ids, owner)

    def pause(self, paused: bool, owner: str | None = None) -> None:
        self._line.pause(owner, paused)

    def is_paused(self, owner: str | None = None) -> bool:
        return self._line.is_paused(owner)

    def inspect(self, query: DecodeStep, owner: str = "local") -> Future[Any]:
        future: Future[Any] = Future()
        self._queries.put((query, future))
        self._wake.set()
        return future

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    def _work(self) -> None:
        import torch  # noqa: F401  imported here, as the real one does

        while not self._closing:
            self._wake.wait(1.0)
            self._wake.clear()
            self._answer()
            while (job := self._next()) is not None:
                if job.begin():
                    self.changes.tell()
                    self._run(job)
                self._line.ended()
                self.changes.tell()
                self._answer()

    def _next(self) -> Job | None:
        self._line.struck_out()
        return None if self._closing else self._line.take()

    def _answer(self) -> None:
        while not self._queries.empty():
            query, future = self._queries.get()
            try:
                future.set_result(self._decoded(query))
            except Exception as error:
                future.set_exception(error)

    def _run(self, job: Job) -> None:
        began = time.monotonic()
        try:
            for event in self._events(job):
                if job.is_cancelled:
                    raise Cancelled
                job.publish(event)
        except Cancelled as error:
            job.end(JobState.CANCELLED, error)
        except Exception as error:
            job.end(JobState.FAILED, error)
        else:
            self._line.took(job, time.monotonic() - began)
            job.end(JobState.FINISHED)

    def _events(self, job: Job) -> Any:
        import torch

        from core.images.preview import preview
        from core.sampling.state import State

        request, began = job.request, time.monotonic()
        yield Started(request)
        for part in range(3):
            time.sleep(self.seconds)
            yield Loading("pocket", part + 1, 3)
        yield Loaded(request.checkpoint or "", "sd1", "0" * 64, "cpu", "float32", factors())
        if request.prompt == "fail":
            raise VitrineError("the network answered with NaN at step 3 of 20")
        if request.prompt == "crash":
            raise RuntimeError("a secret detail")
        interrupted = False
        sigmas = tuple(14.6 * (1 - k / request.steps) ** 3 for k in range(request.steps + 1))
        for image in range(request.images):
            assert request.seed is not None
            target = scene(request.prompt, request.seed + image)
            generator = torch.Generator().manual_seed(request.seed + image)
            noise = torch.randn(target.shape, generator=generator)
            wish = Wish.GO_ON
            state = State(0, target + noise * 14.6)
            for index in range(request.steps + 1):
                left = 1 - index / request.steps
                sigma = sigmas[index]
                if index:
                    denoised = torch.lerp(target, target.mean((2, 3), keepdim=True), left**1.5)
                    state = state.next(target + noise * sigma, denoised + noise * left * 0.15)
                yield Step((image,), 0, sigmas, sigma, 999 * left, state, self.seconds)
                time.sleep(self.seconds * 6 ** request.prompt.count("slowly"))
                wish = job.wish()
                if wish is not Wish.GO_ON and index:
                    break
            yield Decoding((image,))
            final = target if wish is Wish.GO_ON else state.denoised
            picture = preview(final, factors())[0]
            alone = replace(request, images=1, seed=request.seed + image)
            yield ImageDone(image, picture, alone, finished=wish is Wish.GO_ON)
            if wish is Wish.FINISH:
                interrupted = True
                break
        yield Finished(time.monotonic() - began, 0, request.steps, interrupted)

    def _decoded(self, query: DecodeStep) -> Any:
        from core.images.preview import preview, variance_preserving

        time.sleep(self.seconds / 2)
        for event in self._jobs[query.job].events():
            if (
                isinstance(event, Step)
                and event.state.index == query.index
                and query.image in event.images
            ):
                noisy = variance_preserving(event.state.latents, event.sigma)
                latents = noisy if query.view == "latents" else event.state.denoised
                assert latents is not None
                return preview(latents, factors())[0].quantize(64).convert("RGB")
        raise RequestError("there is no such step")


def factors() -> Any:
    """(4+1, 3·p·p): latents' first three channels are the colours of a flat patch."""
    import torch

    factors = torch.zeros(5, 3 * PATCH * PATCH)
    for colour in range(3):
        factors[colour, colour * PATCH * PATCH : (colour + 1) * PATCH * PATCH] = 0.25
    factors[4] = 0.5
    return factors


def scene(prompt: str, seed: int) -> Any:
    """(1 4 h w): a disc on a ground, in colours drawn from prompt and seed."""
    import torch

    tint = sum(map(ord, prompt)) + seed
    ground = torch.tensor([-0.6 + (tint % 5) * 0.1, -0.3, 1.2, 0.0])
    disc = torch.tensor([1.6, -1.2 + (tint % 7) * 0.3, -1.3, 0.0])
    y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    distance = torch.sqrt((x - CELLS / 2) ** 2 + (y - CELLS / 2) ** 2)
    inside = ((CELLS / 3 - distance) / 2).clamp(0, 1)[None]
    light = 0.3 * torch.cos(x / CELLS * math.pi)[None]
    picture = (
        torch.lerp(
            ground[:, None, None].expand(-1, CELLS, CELLS),
            disc[:, None, None].expand(-1, CELLS, CELLS),
            inside,
        )
        - light
    )
    return picture[None]
