"""Routes for the pictures that people put in: stored once, shown again, and prepared as they act.

A picture is named by the SHA-256 of what was stored; who knows the name has seen the picture.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from core.errors import FileError, RequestError
from core.images.inputs import MAX_BYTES, Inputs
from core.images.start import prepared
from core.request import StartImage, read_json
from core.resolve import BOUNDS, MAX_PIXELS, PART_BOUNDS
from webui.show import thumbnail
from webui.stream import IMMUTABLE, Missing, json_body

AT_ONCE = 3
"""Pictures worked on at the same time; others wait, so memory stays bounded."""


def routes(inputs: Inputs) -> APIRouter:
    """Everything under /api/pictures. The shell mounts it with the engine's own folder."""
    router = APIRouter()
    places = asyncio.Semaphore(AT_ONCE)

    @router.post("/api/pictures")
    async def put_in(request: Request) -> dict[str, Any]:
        """A picture's bytes in; its name and size out."""
        async with places:
            return await run_in_threadpool(stored, await _body(request), inputs)

    @router.post("/api/pictures/prepared")
    async def acting(request: Request) -> Response:
        """{"start": …, "width", "height", "show": "mask" or "picture"} in; see `as_it_acts`."""
        asked = await json_body(request)
        async with places:
            picture = await run_in_threadpool(as_it_acts, asked, inputs)
            return Response(await run_in_threadpool(png, picture), media_type="image/png")

    @router.get("/api/pictures/{name}.png")
    def whole(name: str) -> Response:
        path = inputs.path(name)
        if not path.is_file():
            raise Missing("that picture is not among those that were put in here")
        return FileResponse(path, media_type="image/png", headers=IMMUTABLE)

    @router.get("/api/pictures/{name}/thumbnail.jpg")
    def small(name: str) -> Response:
        from core.images.preview import jpeg

        data = jpeg(thumbnail(inputs.open(name)), quality=88)
        return Response(data, media_type="image/jpeg", headers=IMMUTABLE)

    return router


def stored(data: bytes, inputs: Inputs) -> dict[str, Any]:
    """Raises FileError where there is no picture, or none that can be stored."""
    if not data:
        raise FileError("that file is empty")
    name = inputs.add(data)
    width, height = inputs.open(name).size
    return {"name": name, "width": width, "height": height}


def as_it_acts(asked: Any, inputs: Inputs) -> Image.Image:
    """What a request's start comes to: the mask that acts, or the picture as it is begun from.

    Both are as large as the result.

    Raises:
        RequestError: names the field that is wrong, or what is missing.
    """
    fields = asked if isinstance(asked, dict) else {}
    start = read_json(StartImage, fields.get("start"), "start.")
    for name, (low, high) in PART_BOUNDS.items():
        part, _, end = name.partition(".")
        if part == "start" and not low <= getattr(start, end) <= high:
            raise RequestError(f"{end} must lie between {low:,} and {high:,}", name)
    width, height = (side(fields, name) for name in ("width", "height"))
    if width * height > MAX_PIXELS:
        raise RequestError(f"{width} × {height} is more than {MAX_PIXELS:,} pixels", "width")
    begun = prepared(start, inputs, width, height)
    if fields.get("show") != "mask":
        return begun.original or begun.picture
    if begun.whole_mask is None:
        raise RequestError("there is no mask", "start.mask")
    return begun.whole_mask


def side(fields: dict[str, Any], name: str) -> int:
    value, (low, high) = fields.get(name), BOUNDS[name]
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high:,}", name)
    return value


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise RequestError(f"a picture has at most {MAX_BYTES // 2**20} MB here")
    return bytes(data)


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
