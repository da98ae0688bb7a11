"""What becomes the form's values: what a dropped picture says of itself, or a request."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.engine.engine import Engine
from core.errors import FileError, RequestError
from core.request import GenerationRequest
from webui import form, guides, panels
from webui.stream import json_body

PICTURE_LIMIT = 32 * 2**20
"""Bytes of a dropped picture."""
AT_ONCE = 4
"""Pictures read at the same time; others wait, so memory stays bounded."""


def routes(engine: Engine) -> APIRouter:
    router = APIRouter()
    places = asyncio.Semaphore(AT_ONCE)

    @router.post("/api/read")
    async def read(request: Request) -> dict[str, Any]:
        """A picture's bytes in; form values, by field, and sentences on what is not among them."""
        async with places:
            data = bytearray()
            async for chunk in request.stream():
                data += chunk
                if len(data) > PICTURE_LIMIT:
                    raise RequestError(f"a picture has at most {PICTURE_LIMIT // 2**20} MB here")
            return await run_in_threadpool(values_of, bytes(data), engine)

    @router.post("/api/form")
    async def fill(request: Request) -> dict[str, Any]:
        """A request's JSON in, its seed perhaps as text; out as from `read`."""
        data = await json_body(request)
        if isinstance(data, dict) and str(data.get("seed")).isdecimal():
            data["seed"] = int(data["seed"])
        asked = GenerationRequest.from_json(data)
        return await run_in_threadpool(fitted, asked, [], engine)

    return router


def values_of(data: bytes, engine: Engine) -> dict[str, Any]:
    """Raises FileError where there is no picture, or nothing to be read in it."""
    from core.images.capsule import read_picture

    if not data:
        raise FileError("that file is empty")
    there = _checkpoints(engine)
    found = read_picture(data).request(engine.registry, there)
    if found is None:
        raise FileError("that picture does not say how it was made")
    request, notes = found
    return fitted(request, notes, engine)


def fitted(request: GenerationRequest, notes: list[str], engine: Engine) -> dict[str, Any]:
    """The form's values for a request, as far as this machine has what they name."""
    values = form.written(request)
    there = _checkpoints(engine)
    if request.checkpoint is not None and request.checkpoint not in there:
        notes.append(f"The model {request.checkpoint} is not here; the chosen one is kept.")
    if values["checkpoint"] not in there:
        del values["checkpoint"]
    notes = [*notes, *form.not_written(request), *panels.absent(request, engine.registry)]
    notes += guides.absent(request, engine.catalog)
    return {"values": values, "notes": notes}


def _checkpoints(engine: Engine) -> set[str]:
    return {file.name for file in engine.catalog.checkpoints()}
