"""A timeline to take along: its steps as an animation, or side by side on one sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image, ImageDraw, ImageFont

from core.engine.engine import View
from core.engine.job import Job
from core.events import ImageDone, Loaded
from webui.explain import walked
from webui.stream import Missing, Stage, owner

EDGE = 384
"""Pixels of a frame's longer side at most."""
LEAST = 192
"""Pixels of a frame's longer side at least: smaller ones are enlarged by whole numbers."""
MOST = 60
"""Frames at most; of longer runs an even choice."""
FRAME_MS = 120
LAST_MS = 1600
"""How long the last frame stays."""
MARGIN = 12
LABEL = 22
PAPER, INK = (251, 250, 247), (27, 34, 32)
TYPES = {"gif": "image/gif", "webp": "image/webp", "png": "image/png"}


class Frame(NamedTuple):
    """One step as a picture."""

    picture: Image.Image
    label: str


def routes(stage: Stage) -> APIRouter:
    router = APIRouter(prefix="/api/explain")

    @router.get("/timeline/{id}/{image}/{view}.{kind}")
    def timeline(id: str, image: int, view: str, kind: str, request: Request) -> Response:
        """A GIF or a WebP that moves, or a PNG with every step on it."""
        job = stage.job(id, owner(request))
        views = {name: name for name in get_args(View)}
        if view not in views or kind not in TYPES:
            raise Missing("there is no such timeline; there are gif, webp and png")
        frames = list(frames_of(job, image, views[view]))
        if not frames:
            raise Missing("no step of that picture is there")
        data = sheet(frames) if kind == "png" else animation(frames, kind)
        name = f"timeline-{id[:6]}-{image}-{view}.{kind}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type=TYPES[kind], headers=headers)

    return router


def frames_of(job: Job, image: int, view: View) -> Iterator[Frame]:
    """The steps of one image by the linear preview, and the finished picture behind them.

    Predicted noise begins with the first prediction.
    """
    from core.engine.answers import seen
    from core.images.preview import preview

    loaded = next((event for event in job.events() if isinstance(event, Loaded)), None)
    steps = [(at, step) for at, step, _ in walked(job, image)]
    if loaded is None:
        return
    if view != "latents":
        steps = [(at, step) for at, step in steps if step.state.denoised is not None]
    done = next((e for e in job.events() if isinstance(e, ImageDone) and e.index == image), None)
    if view != "latents" or (done is not None and done.finished):
        # Where the walk ends there is no noise left, and the picture itself takes that place.
        steps = [(at, step) for at, step in steps if step.sigma > 0] or steps
    for at, step in _chosen(steps):
        row = step.images.index(image)
        (picture,) = preview(seen(step, view)[row : row + 1], loaded.preview)
        yield Frame(_fitted(picture), f"step {at}, sigma {step.sigma:.3g}")
    if done is not None and view != "noise":
        yield Frame(_fitted(done.image.convert("RGB")), "image")


def _chosen(steps: Sequence[Any]) -> list[Any]:
    if len(steps) <= MOST:
        return list(steps)
    return [steps[round(k * (len(steps) - 1) / (MOST - 1))] for k in range(MOST)]


def _fitted(picture: Image.Image) -> Image.Image:
    longer = max(picture.size)
    if longer > EDGE:
        small = picture.copy()
        small.thumbnail((EDGE, EDGE))
        return small
    times = -(-LEAST // longer)
    size = picture.width * times, picture.height * times
    return picture.resize(size, Image.Resampling.BICUBIC) if times > 1 else picture


def animation(frames: Sequence[Frame], kind: str) -> bytes:
    """The frames one after another for ever, the last one longer, as "gif" or "webp"."""
    first, *rest = (_sized(frame.picture, frames[-1].picture.size) for frame in frames)
    stream = io.BytesIO()
    durations = [FRAME_MS] * len(rest) + [LAST_MS]
    options: dict[str, Any] = {"quality": 82} if kind == "webp" else {"disposal": 1}
    first.save(
        stream,
        kind.upper(),
        save_all=True,
        append_images=rest,
        duration=durations,
        loop=0,
        **options,
    )
    return stream.getvalue()


def _sized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A second pass is larger than the first; an animation has one size."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def sheet(frames: Sequence[Frame]) -> bytes:
    """All frames in rows on one PNG, each with its step under it, noise first."""
    width, height = frames[-1].picture.size
    columns = math.ceil(math.sqrt(len(frames) * height / width))
    rows = math.ceil(len(frames) / columns)
    cell = width + MARGIN, height + LABEL + MARGIN
    paper = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for number, frame in enumerate(frames):
        left = MARGIN + number % columns * cell[0]
        top = MARGIN + number // columns * cell[1]
        paper.paste(_sized(frame.picture, (width, height)), (left, top))
        pen.text((left, top + height + 3), frame.label, INK, font)
    stream = io.BytesIO()
    paper.save(stream, "PNG", optimize=True)
    return stream.getvalue()
