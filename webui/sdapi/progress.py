"""How far a caller's own job is, as A1111 tells it: exactly 0 when there is none."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any

from core.engine.job import Job, JobState
from core.events import ImageDone, Step
from core.passes import passes
from core.request import Wish
from webui.stream import Stage


@dataclass(frozen=True)
class Way:
    """How far a job is."""

    images: int
    done: int
    step: int
    steps: int
    seconds_left: float
    walk: int = 0
    """Which of the image's walks it is in."""
    walks: int = 1

    @property
    def share(self) -> float:
        """0 to 1."""
        begun = self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.done + (self.walk + begun) / self.walks) / self.images)


def current(stage: Stage, owner: str, id: str | None = None) -> Job | None:
    """The caller's job in work, else the one that is next; or the one of that id."""
    if id is not None:
        job = stage.job(id, owner)
        return None if job.state.is_over else job
    mine = [job for job in stage.engine.jobs(owner) if not job.state.is_over]
    running = (job for job in mine if job.state is JobState.RUNNING)
    waiting = sorted((job for job in mine), key=stage.engine.place)
    return next(running, next(iter(waiting), None))


def way_of(job: Job) -> Way:
    """From the job's events; an image's walks count alike."""
    steps = [event for event in job.events() if isinstance(event, Step)]
    done = sum(isinstance(event, ImageDone) for event in job.events())
    if not steps:
        return Way(job.request.images, done, 0, 0, 0.0)
    last = steps[-1]
    is_over = done and last.images[0] < done
    step = 0 if is_over else last.state.index
    taken = [event.seconds for event in steps[-8:] if event.seconds]
    pace = sum(taken) / len(taken) if taken else 0.0
    walks = len(passes(job.request))
    walk = 0 if is_over else last.pass_index
    begun = 0 if is_over else walk * last.total + step
    left = last.total * walks * (job.request.images - done) - begun
    return Way(job.request.images, done, step, last.total, pace * left, walk, walks)


def told(stage: Stage, owner: str, job: Job | None, with_picture: bool) -> dict[str, Any]:
    """The body of an answer to `progress`."""
    if job is None:
        return {
            "progress": 0.0,
            "eta_relative": 0.0,
            "state": state_of(None, None),
            "current_image": None,
            "textinfo": None,
            "current_task": None,
        }
    way = way_of(job)
    place = stage.engine.place(job)
    return {
        "progress": way.share,
        "eta_relative": way.seconds_left,
        "state": state_of(job, way),
        "current_image": picture_of(stage, job) if with_picture else None,
        "textinfo": f"Waiting: {place} before this one" if place else None,
        "current_task": job.id,
    }


def state_of(job: Job | None, way: Way | None) -> dict[str, Any]:
    if job is None or way is None:
        named, count, done, step, steps, created = "", 0, 0, 0, 0, 0.0
    else:
        named, count, done = job.id, way.images, way.done
        step, steps, created = way.step, way.steps, job.created
    stopping = job is not None and job.wanted is Wish.FINISH
    return {
        "skipped": job is not None and job.wanted is Wish.SKIP,
        "interrupted": stopping,
        "stopping_generation": stopping,
        "job": named,
        "job_count": count,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(created)) if created else "0",
        "job_no": done,
        "sampling_step": step,
        "sampling_steps": steps,
    }


def picture_of(stage: Stage, job: Job) -> str | None:
    """The newest preview, JPEG in base64."""
    if job.state is JobState.WAITING:
        return None
    latest = stage.shows.of(job).latest()
    frames = {key.view: frame for key, frame in latest.items()}
    frame = frames.get("denoised") or frames.get("latents")
    return None if frame is None else base64.b64encode(frame).decode()
