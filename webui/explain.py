"""Routes of the Explain page: what a run's model said, looked at and read, as compact numbers.

What a network is asked for is answered on the engine's thread, between the steps of whatever runs.
Steps themselves are in the run's own events, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from core.engine.engine import DecodeLatents, LookInside, LookThrough, LookWhere, LookWords
from core.engine.job import Job
from core.errors import RequestError
from core.events import ImageDone, Loaded, Step
from webui import trials
from webui.looks import Arrays, Looks
from webui.packing import binary
from webui.show import shown
from webui.stream import IMMUTABLE, Missing, Stage, owner

if TYPE_CHECKING:
    from core.engine.looking import Wording


def routes(stage: Stage) -> APIRouter:
    """Everything under /api/explain."""
    router, looks = APIRouter(prefix="/api/explain"), Looks(stage.engine)
    _run_routes(router, stage, looks)
    _inside_routes(router, stage, looks)
    _watched_routes(router, stage, looks)
    router.include_router(trials.routes(stage, looks))
    return router


def _run_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
    @router.get("/run/{id}/{image}")
    def run(id: str, image: int, request: Request) -> dict[str, Any]:
        """The request of a job, and every step of one of its images."""
        job = stage.job(id, owner(request))
        steps = [_step_message(at, step, before) for at, step, before in walked(job, image)]
        if not steps:
            raise Missing(
                "no step of that picture is there"
                if job.state.is_over
                else "the first step of that picture is still to come; look again in a moment"
            )
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
                    "plans": entry.chooses,
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


def _inside_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
    def inside_of(
        id: str, image: int, pass_index: int, index: int, mine: str, bare: bool = False
    ) -> Any:
        stage.job(id, mine)
        query = LookInside(id, image, index, pass_index, without_guides=bare)
        return looks.asked(query, mine, query)

    @router.get("/inside/{id}/{image}/{pass_index}/{index}.jpg")
    def guided(
        id: str,
        image: int,
        pass_index: int,
        index: int,
        request: Request,
        cfg_scale: float | None = None,
        without_guides: bool = False,
    ) -> Response:
        """The estimate guided by any scale (the run's own if none is given), through the VAE."""
        if cfg_scale is not None and not -100 <= cfg_scale <= 100:
            raise RequestError("the scale must lie between -100 and 100", "cfg_scale")
        mine = owner(request)
        found = inside_of(id, image, pass_index, index, mine, without_guides)
        scale = found.cfg_scale if cfg_scale is None else cfg_scale
        query = DecodeLatents(found.checkpoint, found.vae, found.guided(scale))
        return looks.picture(query, mine)

    @router.get("/inside/{id}/{image}/{pass_index}/{index}")
    def inside(
        id: str,
        image: int,
        pass_index: int,
        index: int,
        request: Request,
        without_guides: bool = False,
    ) -> Response:
        """What the model said to each prompt alone; or would have said without the guides."""
        found = inside_of(id, image, pass_index, index, owner(request), without_guides)
        arrays: Arrays = {f"cond{i}": ("f2", cond[0]) for i, cond in enumerate(found.conds)}
        arrays["uncond"] = ("f2", found.uncond[0])
        arrays["preview"] = ("f4", found.preview)
        facts = {
            "weights": found.weights,
            "cfg_scale": found.cfg_scale,
            "sigma": found.sigma,
        }
        return binary(facts, arrays, IMMUTABLE)


def _watched_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
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
