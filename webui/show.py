"""Events to what the page shows: numbered JSON messages and JPEG frames.

One reader thread per job that is looked at, however many look. What it keeps is bounded: the jobs
looked at longest ago are forgotten, and read anew from their events when asked for.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from core.engine.engine import View
from core.engine.job import Job
from core.errors import Cancelled, VitrineError
from core.events import (
    Decoding,
    Event,
    Finished,
    Identified,
    ImageDone,
    Loaded,
    Loading,
    Note,
    Started,
    Step,
)
from core.passes import kept_intervals, passes
from core.request import GenerationRequest
from webui import form

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

log = logging.getLogger("vitrine.show")

VIEWS: tuple[View, ...] = ("latents", "denoised")
FRAME_BUDGET = 192 * 2**20
"""Bytes of frames kept over all jobs."""
THUMBNAIL = 192
"""Pixels on the longer side."""


class FrameKey(NamedTuple):
    """Which frame: of which image, seen how, and at which place of its timeline.

    Places count on through all passes; of the first, a place is the number of intervals done.
    """

    image: int
    view: View
    step: int


class Place(NamedTuple):
    """What stands at a place of a timeline."""

    pass_index: int
    step: int


class Show:
    """What is to be seen of one job, so far and from now on. Thread-safe."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.over = False
        self.size = 0
        """Bytes of all frames."""
        self._messages: list[dict[str, Any]] = []
        self._frames: dict[FrameKey, bytes] = {}
        self._done: dict[int, ImageDone] = {}
        self._latest: tuple[FrameKey, ...] = ()
        self._places: dict[int, dict[int, Place]] = {}
        """By image, then by place."""
        self._factors: Tensor | None = None
        self._listeners: set[Callable[[], None]] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name=f"show-{job.id}", daemon=True).start()

    def messages(self, after: int = 0) -> list[dict[str, Any]]:
        """Those numbered above `after`, oldest first."""
        with self._changed:
            # Numbers are consecutive: message n is at n - 1.
            return self._messages[max(0, after) :]

    def latest(self) -> dict[FrameKey, bytes]:
        """The newest step's frames, one for each view."""
        with self._changed:
            return {key: self._frames[key] for key in self._latest}

    def frame(self, key: FrameKey) -> bytes | None:
        with self._changed:
            return self._frames.get(key)

    def place(self, key: FrameKey) -> Place | None:
        """The pass and the step that a frame is of."""
        with self._changed:
            return self._places.get(key.image, {}).get(key.step)

    def image(self, index: int) -> ImageDone | None:
        with self._changed:
            return self._done.get(index)

    def settle(self, timeout: float) -> bool:
        """Waits until everything there is has been read; for jobs that are over already."""
        with self._changed:
            return self._changed.wait_for(lambda: self.over, timeout)

    def listen(self, heard: Callable[[], None]) -> None:
        """`heard` is called, from the reader's thread, whenever there is more."""
        with self._changed:
            self._listeners.add(heard)

    def forget(self, heard: Callable[[], None]) -> None:
        with self._changed:
            self._listeners.discard(heard)

    @property
    def is_watched(self) -> bool:
        with self._changed:
            return bool(self._listeners)

    def _read(self) -> None:
        number = 0
        try:
            for number, event in self.job.follow():
                self._take(number, event)
        except Cancelled:
            self._say({"n": number + 1, "type": "cancelled"})
        except VitrineError as error:
            self._say({"n": number + 1, "type": "failed", "text": _sentence(error)})
        except Exception as error:
            self._say({"n": number + 1, "type": "failed", "text": unexpected(error)})
        with self._changed:
            self.over = True
            self._changed.notify_all()
        self._tell()

    def _take(self, number: int, event: Event) -> None:
        frames: dict[FrameKey, bytes] = {}
        message = message_of(event)
        if isinstance(event, Loaded):
            self._factors = event.preview
        elif isinstance(event, Step):
            message["at"] = at = self._placed(event)
            try:
                if self._factors is not None:
                    frames = drawn(event, self._factors, at)
            except VitrineError as error:
                log.warning("no preview of job %s: %s", self.job.id, error)
        with self._changed:
            if isinstance(event, ImageDone):
                self._done[event.index] = event
            self._frames.update(frames)
            self.size += sum(map(len, frames.values()))
            if frames:
                first = min(key.image for key in frames)
                self._latest = tuple(key for key in frames if key.image == first)
        self._say({"n": number, **message, "frames": [f"{k.image}/{k.view}" for k in frames]})

    def _placed(self, step: Step) -> int:
        """The place of a step on its images' timelines: behind all places of earlier passes."""
        with self._changed:
            there = self._places.get(step.images[0], {})
            earlier = [at for at, place in there.items() if place.pass_index < step.pass_index]
            at = step.state.index + (max(earlier) + 1 if earlier else 0)
            for image in step.images:
                place = Place(step.pass_index, step.state.index)
                self._places.setdefault(image, {})[at] = place
        return at

    def _say(self, message: dict[str, Any]) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            listeners = tuple(self._listeners)
        for heard in listeners:
            heard()


class Shows:
    """The shows of all jobs, by id; the least recently asked for are forgotten first."""

    def __init__(self, budget: int = FRAME_BUDGET, jobs: int = 200) -> None:
        self._budget, self._jobs = budget, jobs
        self._shows: OrderedDict[str, Show] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, job: Job) -> Show:
        with self._lock:
            show = self._shows.get(job.id)
            if show is None:
                show = self._shows[job.id] = Show(job)
            self._shows.move_to_end(job.id)
            self._tidy(show)
            return show

    def known(self, id: str) -> Show | None:
        with self._lock:
            return self._shows.get(id)

    def _tidy(self, wanted: Show) -> None:
        size = sum(show.size for show in self._shows.values())
        for id, show in list(self._shows.items()):
            if size <= self._budget and len(self._shows) <= self._jobs:
                return
            if show is wanted or show.is_watched or not show.over:
                continue
            size -= show.size
            del self._shows[id]


def drawn(step: Step, factors: Tensor, at: int) -> dict[FrameKey, bytes]:
    """The linear previews of one step, as JPEG files; `at` is its place on the timeline.

    Raises:
        NotFinite: the latents hold a NaN or an infinity.
    """
    from core.images.preview import jpeg, preview, variance_preserving

    tensors: dict[View, Tensor | None] = {
        "latents": variance_preserving(step.state.latents, step.sigma),
        "denoised": step.state.denoised,
    }
    return {
        FrameKey(image, view, at): jpeg(picture)
        for view, latents in tensors.items()
        if latents is not None
        for image, picture in zip(step.images, preview(latents, factors), strict=True)
    }


def message_of(event: Event) -> dict[str, Any]:
    """An event as JSON values: what the page reads, with no tensors in it."""
    if isinstance(event, Started):
        return {
            "type": "started",
            "request": shown(event.request),
            "passes": planned(event.request),
        }
    if isinstance(event, Loading):
        return {"type": "loading", "part": event.part, "done": event.done, "total": event.total}
    if isinstance(event, Loaded):
        return {
            "type": "loaded",
            "checkpoint": event.checkpoint,
            "family": event.family,
            "device": event.device,
            "precision": event.dtype,
        }
    if isinstance(event, Identified):
        return {"type": "identified", **asdict(event)}
    if isinstance(event, Note):
        return {"type": "note", "kind": event.kind, "text": event.text}
    if isinstance(event, Step):
        return {
            "type": "step",
            "images": list(event.images),
            "pass": event.pass_index,
            "index": event.state.index,
            "total": event.total,
            "sigma": event.sigma,
            "timestep": event.timestep,
            "seconds": event.seconds,
            **_beginning(event),
        }
    if isinstance(event, Decoding):
        return {"type": "decoding", "images": list(event.images)}
    if isinstance(event, ImageDone):
        return {"type": "image", **image_message(event)}
    assert isinstance(event, Finished)
    return {
        "type": "finished",
        "seconds": event.seconds,
        "evaluations": event.evaluations,
        "interrupted": event.interrupted,
    }


def _beginning(step: Step) -> dict[str, Any]:
    """What the first step of a walk tells: the levels of its pass."""
    if not step.begins and step.state.index:
        return {}
    return {"begins": True, "sigmas": step.sigmas}


def planned(request: GenerationRequest) -> list[dict[str, int]]:
    """The passes of a request in full: their sizes, and how many steps each will take."""
    return [
        {
            "width": part.request.width or 0,
            "height": part.request.height or 0,
            "steps": part.request.steps
            if part.strength is None
            else kept_intervals(part.strength, part.request.steps),
        }
        for part in passes(request)
    ]


def image_message(done: ImageDone) -> dict[str, Any]:
    return {
        "index": done.index,
        "width": done.image.width,
        "height": done.image.height,
        "finished": done.finished,
        "request": shown(done.request),
        "form": form.written(done.request),
        "name": done.path.name if done.path is not None else None,
    }


def shown(request: GenerationRequest) -> dict[str, Any]:
    """The request for a browser: seeds as text, for JavaScript rounds numbers above 2^53."""
    values: dict[str, Any] = request.to_json()
    values["seed"] = None if request.seed is None else str(request.seed)
    return values


def thumbnail(image: Image) -> Image:
    """A copy of at most THUMBNAIL pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def unexpected(error: Exception) -> str:
    """The sentence for an error nobody foresaw; the traceback goes to the log under its id."""
    problem = secrets.token_hex(3)
    log.error("unexpected (id %s)", problem, exc_info=error)
    return f"Something went wrong (id {problem}); the log has the details."


def _sentence(error: VitrineError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
