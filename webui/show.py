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
from typing import TYPE_CHECKING, Any, NamedTuple

from core.engine.engine import View
from core.engine.job import Job
from core.errors import Cancelled, VitrineError
from core.events import (
    Decoding,
    Event,
    Finished,
    ImageDone,
    Loaded,
    Loading,
    Note,
    Started,
    Step,
)
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
    """Which frame: of which image, seen how, after how many intervals."""

    image: int
    view: View
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
        if isinstance(event, Loaded):
            self._factors = event.preview
        elif isinstance(event, Step) and self._factors is not None:
            try:
                frames = drawn(event, self._factors)
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
        self._say(
            {"n": number, **message_of(event), "frames": [f"{k.image}/{k.view}" for k in frames]}
        )

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


def drawn(step: Step, factors: Tensor) -> dict[FrameKey, bytes]:
    """The linear previews of one step, as JPEG files.

    Raises:
        NotFinite: the latents hold a NaN or an infinity.
    """
    from core.images.preview import jpeg, preview, variance_preserving

    tensors: dict[View, Tensor | None] = {
        "latents": variance_preserving(step.state.latents, step.sigma),
        "denoised": step.state.denoised,
    }
    return {
        FrameKey(image, view, step.state.index): jpeg(picture)
        for view, latents in tensors.items()
        if latents is not None
        for image, picture in zip(step.images, preview(latents, factors), strict=True)
    }


def message_of(event: Event) -> dict[str, Any]:
    """An event as JSON values: what the page reads, with no tensors in it."""
    if isinstance(event, Started):
        return {"type": "started", "request": shown(event.request)}
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
            **({"sigmas": event.sigmas} if event.state.index == 0 else {}),
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
