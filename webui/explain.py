"""Routes of the Explain page: what a run's model said, looked at and read, as compact numbers.

What a network is asked for is answered on the engine's thread, between the steps of whatever runs.
Steps themselves are in the run's own events, and cost nothing.
"""

from __future__ import annotations

import io
import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from core.engine.engine import (
    DecodeLatents,
    EncodePicture,
    GuessOnce,
    LookInside,
    LookThrough,
    LookWhere,
    LookWords,
    PlotSchedules,
    Query,
)
from core.engine.job import Job
from core.errors import RequestError
from core.events import ImageDone, Loaded, Step
from core.request import MAX_SEED
from core.resolve import BOUNDS, MAX_PROMPT
from webui.packing import Kind, binary
from webui.show import shown
from webui.stream import IMMUTABLE, Busy, Missing, Stage, owner

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from core.engine.looking import Wording

KEPT = 64
"""Answers that are kept, to be given again."""
AT_ONCE = 4
"""Questions one session may have open."""
ALL_AT_ONCE = 12
"""Questions that may be open altogether: each holds a thread of the server."""
PATIENCE = 300
"""Seconds that a question waits for its answer."""

Arrays = dict[str, tuple[Kind, "Tensor"]]


class Looks:
    """Asks the engine, with limits, and keeps the last answers."""

    def __init__(self, stage: Stage) -> None:
        self._engine = stage.engine
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def asked(self, query: Query, owner: str, key: Hashable = None) -> Any:
        """The answer; with a `key` it is kept under it.

        Raises:
            Busy: too much is being asked at once, or the engine takes too long.
        """
        with self._lock:
            if key is not None and key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._open[owner] >= AT_ONCE or self._open.total() >= ALL_AT_ONCE:
                raise Busy("too much is being looked into at once; try again in a moment")
            self._open[owner] += 1
        future = self._engine.inspect(query, owner)
        try:
            answer = future.result(PATIENCE)
        except TimeoutError as error:
            future.cancel()
            raise Busy("the engine takes its time; ask again later") from error
        finally:
            with self._lock:
                self._open[owner] -= 1
        if key is not None:
            with self._lock:
                self._kept[key] = answer
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return answer

    def picture(self, query: DecodeLatents, owner: str) -> Response:
        return _jpeg(self.asked(query, owner))


def routes(stage: Stage) -> APIRouter:
    """Everything under /api/explain."""
    router, looks = APIRouter(prefix="/api/explain"), Looks(stage)
    _run_routes(router, stage, looks)
    _step_routes(router, stage, looks)
    _picture_routes(router, stage, looks)
    return router


def _run_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
    @router.get("/run/{id}/{image}")
    def run(id: str, image: int, request: Request) -> dict[str, Any]:
        """The request of a job, and every step of one of its images."""
        job = stage.job(id, owner(request))
        steps = [_step_message(at, step, before) for at, step, before in walked(job, image)]
        if not steps:
            raise Missing("no step of that picture is there")
        pictures = [e.index for e in job.events() if isinstance(e, ImageDone)]
        return {
            "id": job.id,
            "image": image,
            "state": job.state.value,
            "request": shown(job.request),
            "steps": steps,
            "pictures": pictures,
            "samplers": [
                {
                    "name": entry.name,
                    "title": entry.title,
                    "plans": entry.plan is not None or entry.adaptive,
                }
                for entry in stage.engine.registry.samplers.values()
            ],
        }

    @router.get("/latents/{id}/{image}")
    def latents(id: str, image: int, request: Request) -> Response:
        """x_t (brought to unit variance) and the estimate at every step, and how they are seen."""
        job = stage.job(id, owner(request))
        found = list(walked(job, image))
        loaded = next((e for e in job.events() if isinstance(e, Loaded)), None)
        if not found or loaded is None:
            raise Missing("no step of that picture is there")
        arrays: Arrays = {"preview": ("f4", loaded.preview)}
        for at, step, _ in found:
            row = step.images.index(image)
            arrays[f"x{at}"] = ("f2", step.state.latents[row] / (1 + step.sigma**2) ** 0.5)
            if step.state.denoised is not None:
                arrays[f"denoised{at}"] = ("f2", step.state.denoised[row])
        steps = [{"at": at, "sigma": step.sigma} for at, step, _ in found]
        return binary({"steps": steps}, arrays)

    @router.get("/words/{id}")
    def words(id: str, request: Request, pass_index: int = 0) -> Response:
        """How both prompts are read over the steps of a run."""
        mine = owner(request)
        job = stage.job(id, mine)
        found = looks.asked(LookWords(id, pass_index), mine, ("words", id, pass_index))
        arrays: Arrays = {}
        told = {
            name: [_wording(name, number, over, arrays) for number, over in enumerate(wordings)]
            for name, wordings in (("positive", found.positive), ("negative", found.negative))
        }
        facts = {"intervals": found.intervals, "prompt": job.request.prompt, **told}
        return binary(facts, arrays, IMMUTABLE)


def _step_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
    def inside_of(id: str, image: int, pass_index: int, index: int, mine: str) -> Any:
        stage.job(id, mine)
        key = ("inside", id, image, pass_index, index)
        return looks.asked(LookInside(id, image, index, pass_index), mine, key)

    @router.get("/inside/{id}/{image}/{pass_index}/{index}.jpg")
    def guided(
        id: str, image: int, pass_index: int, index: int, request: Request, cfg_scale: float
    ) -> Response:
        """The estimate guided by any scale, through the VAE."""
        if not -100 <= cfg_scale <= 100:
            raise RequestError("the scale must lie between -100 and 100", "cfg_scale")
        mine = owner(request)
        found = inside_of(id, image, pass_index, index, mine)
        query = DecodeLatents(found.checkpoint, found.vae, found.guided(cfg_scale))
        return looks.picture(query, mine)

    @router.get("/inside/{id}/{image}/{pass_index}/{index}")
    def inside(id: str, image: int, pass_index: int, index: int, request: Request) -> Response:
        """What the model said to each prompt alone."""
        found = inside_of(id, image, pass_index, index, owner(request))
        arrays: Arrays = {f"cond{i}": ("f2", cond[0]) for i, cond in enumerate(found.conds)}
        arrays["uncond"] = ("f2", found.uncond[0])
        arrays["preview"] = ("f4", found.preview)
        facts = {
            "weights": found.weights,
            "cfg_scale": found.cfg_scale,
            "sigma": found.sigma,
        }
        return binary(facts, arrays, IMMUTABLE)

    @router.get("/where/{id}/{image}/{pass_index}/{index}")
    def where(id: str, image: int, pass_index: int, index: int, request: Request) -> Response:
        """Where each word was looked at, in each group of layers."""
        mine = owner(request)
        stage.job(id, mine)
        key = ("where", id, image, pass_index, index)
        found = looks.asked(LookWhere(id, image, index, pass_index), mine, key)
        arrays: Arrays = {}
        prompts = []
        for number, looked in enumerate(found.prompts):
            groups = []
            for group, seen in looked.maps.items():
                name = f"{number}/{group.part}/{group.rows}x{group.columns}"
                arrays[name] = ("f2", seen)
                groups.append({**asdict(group), "array": name})
            words = [asdict(word) for word in looked.words]
            prompts.append({"name": looked.name, "words": words, "groups": groups})
        return binary({"prompts": prompts}, arrays, IMMUTABLE)

    @router.get("/through/{id}/{image}/{pass_index}/{index}")
    def through(id: str, image: int, pass_index: int, index: int, request: Request) -> Response:
        """What every block of the U-Net gave on, and how large the model is."""
        mine = owner(request)
        stage.job(id, mine)
        key = ("through", id, image, pass_index, index)
        found = looks.asked(LookThrough(id, image, index, pass_index), mine, key)
        arrays: Arrays = {}
        blocks = []
        for block in found.blocks:
            name = f"{block.part}/{block.index}"
            arrays[name] = ("f2", block.map / block.map.max().clamp(min=1e-6))
            told = {"part": block.part, "index": block.index, "shape": block.shape}
            blocks.append({**told, "seconds": block.seconds, "array": name})
        facts = {
            "blocks": blocks,
            "seconds": found.seconds,
            "context": found.context,
            "network": found.network,
            "encoder": found.encoder,
            "vae": found.vae,
        }
        return binary(facts, arrays, IMMUTABLE)


def _picture_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
    def encoded_of(picture: str, checkpoint: str, seed: int, mine: str) -> Any:
        if not 0 <= seed <= MAX_SEED:
            raise RequestError(f"seed must lie between 0 and {MAX_SEED}", "seed")
        query = EncodePicture(picture, _checkpoint(stage, checkpoint), None, seed)
        return looks.asked(query, mine, query)

    @router.get("/encoded/{picture}")
    def encoded(picture: str, request: Request, checkpoint: str = "", seed: int = 0) -> Response:
        """A picture as latents, noise to lay over it, and the levels of training."""
        found = encoded_of(picture, checkpoint, seed, owner(request))
        arrays: Arrays = {
            "latents": ("f2", found.latents[0]),
            "noise": ("f2", found.noise[0]),
            "preview": ("f4", found.preview),
            "sigmas": ("f4", found.sigmas),
        }
        facts = {"checkpoint": _checkpoint(stage, checkpoint), "size": found.picture.size}
        return binary(facts, arrays, IMMUTABLE)

    def guess_of(
        picture: str, checkpoint: str, seed: int, timestep: float, prompt: str, mine: str
    ) -> Any:
        if not 0 <= timestep <= 999:
            raise RequestError("timestep must lie between 0 and 999", "timestep")
        if len(prompt) > MAX_PROMPT:
            raise RequestError(f"the prompt has more than {MAX_PROMPT:,} letters", "prompt")
        start = encoded_of(picture, checkpoint, seed, mine)
        name = _checkpoint(stage, checkpoint)
        query = GuessOnce(name, None, start.latents, start.noise, timestep, prompt, "")
        return looks.asked(query, mine, ("guess", picture, name, seed, timestep, prompt))

    @router.get("/guess/{picture}")
    def guess(
        picture: str,
        request: Request,
        timestep: float,
        checkpoint: str = "",
        seed: int = 0,
        prompt: str = "",
    ) -> Response:
        """What one call of the network makes of the noised picture, with a prompt and without."""
        found = guess_of(picture, checkpoint, seed, timestep, prompt, owner(request))
        arrays: Arrays = {"cond": ("f2", found.cond[0]), "uncond": ("f2", found.uncond[0])}
        return binary({}, arrays)

    @router.get("/guess/{picture}/{which}.jpg")
    def developed(
        picture: str,
        which: str,
        request: Request,
        timestep: float,
        checkpoint: str = "",
        seed: int = 0,
        prompt: str = "",
    ) -> Response:
        """One of the guesses ("cond" or "uncond") through the VAE."""
        mine = owner(request)
        found = guess_of(picture, checkpoint, seed, timestep, prompt, mine)
        latents = {"cond": found.cond, "uncond": found.uncond}
        if which not in latents:
            raise Missing("there is no such guess")
        return looks.picture(
            DecodeLatents(_checkpoint(stage, checkpoint), None, latents[which]), mine
        )

    @router.get("/vae/{picture}")
    def through(picture: str, request: Request, checkpoint: str = "") -> dict[str, Any]:
        """What is left of a picture behind the VAE, in numbers."""
        from core.images.difference import difference

        mine = owner(request)
        found = encoded_of(picture, checkpoint, 0, mine)
        name = _checkpoint(stage, checkpoint)
        query = DecodeLatents(name, None, found.latents)
        back = looks.asked(query, mine, ("decoded", picture, name))
        lost = difference(found.picture, back)
        width, height = found.picture.size
        return {
            "width": width,
            "height": height,
            "pixels": width * height * 3,
            "latents": found.latents.numel(),
            "shape": list(found.latents.shape[1:]),
            "psnr": lost.psnr,
            "mean": lost.mean,
            "most": lost.most,
        }

    @router.get("/vae/{picture}/{which}.png")
    def before_and_behind(
        picture: str,
        which: str,
        request: Request,
        checkpoint: str = "",
        channel: int = 0,
        row: int = 0,
        column: int = 0,
        nudge: float = 0.0,
    ) -> Response:
        """The picture "before" the VAE, or "behind" it, perhaps with one latent cell nudged."""
        mine = owner(request)
        found = encoded_of(picture, checkpoint, 0, mine)
        if which == "before":
            return _png(found.picture)
        if which != "behind":
            raise Missing("there is no such picture")
        latents = found.latents.clone()
        _, channels, rows, columns = latents.shape
        if not (0 <= channel < channels and 0 <= row < rows and 0 <= column < columns):
            raise RequestError(f"there are {channels} channels of {rows} × {columns} cells")
        if not -20 <= nudge <= 20:
            raise RequestError("a nudge must lie between -20 and 20", "nudge")
        latents[0, channel, row, column] += nudge
        query = DecodeLatents(_checkpoint(stage, checkpoint), None, latents)
        return _png(looks.asked(query, mine))

    @router.get("/schedules")
    def schedules(request: Request, steps: int, checkpoint: str = "") -> Response:
        """The levels of every schedule for so many steps."""
        low, high = BOUNDS["steps"]
        if not low <= steps <= high:
            raise RequestError(f"steps must be a whole number from {low} to {high}", "steps")
        query = PlotSchedules(_checkpoint(stage, checkpoint), steps)
        found = looks.asked(query, owner(request), query)
        shelf = stage.engine.registry.schedules
        told = [
            {"name": name, "title": shelf[name].title, "help": shelf[name].help}
            for name in found.schedules
        ]
        arrays: Arrays = {name: ("f4", levels) for name, levels in found.schedules.items()}
        arrays["training"] = ("f4", found.training)
        return binary({"schedules": told, "checkpoint": query.checkpoint}, arrays)


def walked(job: Job, image: int) -> Iterator[tuple[int, Step, Step | None]]:
    """(place on the timeline, step, the one before) of an image; places go on through passes."""
    before: Step | None = None
    first = at = 0
    for step in job.events():
        if not isinstance(step, Step) or image not in step.images:
            continue
        if before is not None and step.pass_index != before.pass_index:
            first = at + 1
        at = first + step.state.index
        yield at, step, before
        before = step


def _step_message(at: int, step: Step, before: Step | None) -> dict[str, Any]:
    is_next = before is not None and before.pass_index == step.pass_index
    change = None
    if is_next and before is not None:
        moved = step.state.latents - before.state.latents
        change = float(moved.square().mean().sqrt())
    return {
        "at": at,
        "pass": step.pass_index,
        "index": step.state.index,
        "total": step.total,
        "sigma": step.sigma,
        "timestep": step.timestep,
        "seconds": step.seconds,
        "change": change,
        "remembers": bool(step.state.memory),
        "last": step.state.index >= step.total,
    }


def _wording(name: str, number: int, over: Wording, arrays: Arrays) -> dict[str, Any]:
    """A stretch of wording as JSON values; its likenesses go among the arrays."""
    parts = []
    for i, (words, weight, likeness) in enumerate(
        zip(over.words, over.weights, over.likeness, strict=True)
    ):
        array = f"{name}/{number}/{i}"
        arrays[array] = ("f2", likeness)
        told = [asdict(word) for word in words]
        parts.append({"weight": weight, "words": told, "likeness": array})
    stretch = {"first": over.first, "last": over.last, "checkpoint": over.checkpoint}
    return {**stretch, "parts": parts}


def _checkpoint(stage: Stage, name: str) -> str:
    """Of that name, or the default one. Raises RequestError where there is none."""
    catalog = stage.engine.catalog
    return catalog.checkpoint(name).name if name else catalog.default().name


def _png(picture: Image) -> Response:
    """Where pixels are compared, none may be lost."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return Response(stream.getvalue(), media_type="image/png", headers=IMMUTABLE)


def _jpeg(picture: Image) -> Response:
    from core.images.preview import jpeg

    data = jpeg(picture.convert("RGB"), quality=90)
    return Response(data, media_type="image/jpeg", headers=IMMUTABLE)
