"""What any picture says of its making, and whether making it again gives the same one.

Reading is core's; this room turns it into JSON, and hands the request to the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.engine.engine import Engine
from core.engine.job import Job
from core.errors import FileError, RequestError, VitrineError
from core.events import ImageDone, Loaded, loaded_in
from core.models.catalog import Kind
from core.request import GenerationRequest
from webui import form, guides, panels
from webui.show import shown
from webui.stream import Missing, Stage, owner

if TYPE_CHECKING:
    from core.images.capsule import Capsule, Recipe

PICTURE_LIMIT = 48 * 2**20
"""Bytes of a picture that is read."""
AT_ONCE = 3
"""Pictures read at the same time; others wait, so memory stays bounded."""

MAKERS = {
    "ours": "Vitrine",
    "a1111": "AUTOMATIC1111, Forge or a program that writes as they do",
    "comfyui": "ComfyUI",
    "invokeai": "InvokeAI",
    "none": "",
}


def told(source: Path | bytes, engine: Engine) -> dict[str, Any] | None:
    """All that a picture says of itself, as JSON values; None where it can't be read any more."""
    try:
        return _as_json(_recipe(source, engine), engine)
    except FileError:
        return None


def routes(stage: Stage) -> APIRouter:
    router = APIRouter()
    places = asyncio.Semaphore(AT_ONCE)
    engine = stage.engine

    @router.post("/api/info")
    async def read(request: Request) -> dict[str, Any]:
        """A picture's bytes in; what made it, what can't be honoured, the form's values."""
        async with places:
            data = await read_bytes(request)
            recipe = await run_in_threadpool(_recipe, data, engine)
            return await run_in_threadpool(_as_json, recipe, engine)

    @router.post("/api/info/reproduce")
    async def reproduce(request: Request) -> dict[str, str]:
        """A picture's bytes in; the id of the job that makes it again."""
        async with places:
            data = await read_bytes(request)
            recipe = await run_in_threadpool(_recipe, data, engine)
            if recipe.request is None:
                raise RequestError("that picture does not say how it was made")
            job = await run_in_threadpool(stage.submit, recipe.request, owner(request))
            return {"id": job.id}

    @router.post("/api/info/compare/{id}")
    async def compare(id: str, request: Request) -> dict[str, Any]:
        """The first picture's bytes in, beside the picture of a job that made it again."""
        job = stage.job(id, owner(request))
        async with places:
            data = await read_bytes(request)
            return await run_in_threadpool(compared, data, job, engine)

    return router


def compared(data: bytes, job: Job, engine: Engine) -> dict[str, Any]:
    """How far the picture of a job is from the one it repeats, and what may be the reason.

    Raises:
        Missing: the job has made no picture.
        FileError: `data` is no picture.
    """
    from core.images.difference import difference
    from core.images.pixels import open_picture

    events = job.events()
    made = next((event for event in events if isinstance(event, ImageDone)), None)
    if made is None:
        raise Missing("that job has made no picture")
    loaded = loaded_in(events)
    recipe = _recipe(data, engine)
    first = open_picture(data)
    reasons = list(differences(recipe.capsule, loaded, engine))
    if not data.startswith(b"\x89PNG"):
        reasons.append("It was stored with loss (JPEG or WebP), so equal pixels are not to be had.")
    if first.size != made.image.size:
        sizes = " and ".join(f"{w} × {h}" for w, h in (first.size, made.image.size))
        return {"identical": False, "sizes": sizes, "reasons": reasons}
    found = difference(first, made.image)
    return {
        "identical": found.most == 0,
        "most": found.most,
        "mean": found.mean,
        "psnr": found.psnr,
        "changed": found.changed,
        "reasons": reasons if found.most else [],
    }


def differences(capsule: Capsule | None, loaded: Loaded | None, engine: Engine) -> Iterable[str]:
    """Sentences on what is another thing here than where the picture was made."""
    if capsule is None:
        yield "It does not say what program, device and files it was made with."
        return
    if loaded is not None:
        if loaded.fingerprint != capsule.fingerprint:
            yield (
                f"The checkpoint {capsule.checkpoint} is another file here: "
                f"{loaded.fingerprint[:10]} instead of {capsule.fingerprint[:10]}."
            )
        for what, then, now in (
            ("the device", capsule.device, loaded.device),
            ("the precision", capsule.dtype, loaded.dtype),
            ("the arithmetic", capsule.versions.get("kernels", ""), loaded.kernels),
        ):
            if then and now and then != now:
                yield f"Then {what} was {then}, now it is {now}."
    for name, then in capsule.versions.items():
        here = _version(name)
        if here is not None and here != then:
            yield f"It was made with {name} {then}; here is {here}."
    yield from _files(capsule, engine)


def _files(capsule: Capsule, engine: Engine) -> Iterable[str]:
    """Sentences on the files beside the checkpoint that are missing or others."""
    kinds = {"vae": Kind.VAE, "lora": Kind.LORA, "embedding": Kind.EMBEDDING}
    for key, digest in capsule.hashes.items():
        what, _, name = key.partition(":")
        if what not in kinds:
            continue
        try:
            file = engine.catalog.file(kinds[what], name)
        except VitrineError:
            yield f"The {kinds[what]} {name} is not here."
            continue
        if file.hash is not None and file.hash != digest:
            yield f"The {kinds[what]} {name} is another file here."


def _version(name: str) -> str | None:
    if name == "program":
        from core.images import infotext

        return infotext.VERSION
    try:
        return version(name)
    except ImportError:
        return None


def _recipe(source: Path | bytes, engine: Engine) -> Recipe:
    from core.images.capsule import read_any

    there = {file.name for file in engine.catalog.checkpoints()}
    return read_any(source, engine.registry, there)


def _as_json(recipe: Recipe, engine: Engine) -> dict[str, Any]:
    request, capsule = recipe.request, recipe.capsule
    sentences = list(recipe.sentences)
    values = None
    if request is not None:
        values = form.written(request)
        there = {file.name for file in engine.catalog.checkpoints()}
        if request.checkpoint is not None and request.checkpoint not in there:
            sentences.append(f"The model {request.checkpoint} is not here.")
        if values.get("checkpoint") not in there:
            values.pop("checkpoint", None)
        sentences += form.not_written(request)
        sentences += panels.absent(request, engine.registry)
        sentences += guides.absent(request, engine.catalog)
    return {
        "maker": recipe.kind,
        "made_by": MAKERS[recipe.kind],
        "text": recipe.text,
        "request": None if request is None else shown(request),
        "values": values,
        "titles": None if request is None else _titles(request, engine),
        "sentences": sentences,
        "made_on": None
        if capsule is None
        else {
            "checkpoint": capsule.checkpoint,
            "fingerprint": capsule.fingerprint,
            "device": capsule.device,
            "precision": capsule.dtype,
            "finished": capsule.finished,
            "versions": dict(capsule.versions),
        },
    }


def _titles(request: GenerationRequest, engine: Engine) -> dict[str, str]:
    """Sampler and schedule as people call them; their names where nobody knows them here."""
    samplers, schedules = engine.registry.samplers, engine.registry.schedules
    sampler, schedule = request.sampler, request.schedule
    if not isinstance(schedule, str):
        schedule = f"{len(schedule) - 1} levels drawn by hand"
    return {
        "sampler": samplers[sampler].title if sampler in samplers else sampler,
        "schedule": schedules[schedule].title if schedule in schedules else schedule.capitalize(),
    }


async def read_bytes(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > PICTURE_LIMIT:
            raise RequestError(f"a picture has at most {PICTURE_LIMIT // 2**20} MB here")
    if not data:
        raise FileError("that file is empty")
    return bytes(data)
