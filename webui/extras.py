"""Making pictures larger without painting them; the engine does it, between steps of its jobs."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from core.engine.engine import Engine, Upscale
from core.errors import FileError, RequestError
from core.gallery import Gallery
from core.images.capsule import read_any, read_picture
from core.images.formats import encoded
from core.images.pixels import check_size
from core.images.resize import FILTERS
from core.images.save import Disk, write_new
from core.models.catalog import Kind
from core.request import GenerationRequest
from core.settings import Settings
from webui.info import read_bytes
from webui.stream import Busy, owner

FOLDER = "extras-images"
AT_ONCE = 2
"""Pictures of one caller that are made larger at the same time."""
SCALES = (1.0, 16.0)


def routes(engine: Engine, settings: Settings, gallery: Gallery) -> APIRouter:
    router = APIRouter()
    busy: Counter[str] = Counter()

    @router.get("/api/extras")
    def upscalers() -> dict[str, list[str]]:
        """What can make a picture larger."""
        files = engine.catalog.files(Kind.UPSCALER, wait=False)
        return {"upscalers": [*FILTERS, *(file.name for file in files)]}

    @router.post("/api/extras")
    async def enlarge(request: Request, upscaler: str, scale: float) -> dict[str, Any]:
        """A picture's bytes in; it is saved `scale` times as large, and its address comes back."""
        mine = owner(request)
        if not SCALES[0] <= scale <= SCALES[1]:
            raise RequestError(f"scale must lie between {SCALES[0]} and {SCALES[1]}", "scale")
        if busy[mine] >= AT_ONCE:
            raise Busy(f"{AT_ONCE} pictures of yours are being made larger; let one finish first")
        busy[mine] += 1
        try:
            data = await read_bytes(request)
            name, size = await run_in_threadpool(_put_in, data, engine)
            width, height = (max(1, round(side * scale)) for side in size)
            check_size((width, height), "the result")
            answer = engine.inspect(Upscale(name, upscaler, width, height), mine)
            picture = await asyncio.wrap_future(answer)
            path, made = await run_in_threadpool(_saved, picture, data, engine, settings)
        finally:
            busy[mine] -= 1
            if not busy[mine]:
                del busy[mine]
        hung = gallery.add(path, made, picture.size, owner=mine)
        return {
            "id": str(hung.id),
            "name": path.name,
            "url": f"/gallery/{hung.id}/picture?v={hung.made:.0f}",
            "width": picture.width,
            "height": picture.height,
        }

    return router


def _put_in(data: bytes, engine: Engine) -> tuple[str, tuple[int, int]]:
    name = engine.inputs.add(data)
    return name, engine.inputs.open(name).size


def _saved(
    picture: Image.Image, data: bytes, engine: Engine, settings: Settings
) -> tuple[Path, GenerationRequest]:
    """The file with the words of the picture that it was made of, and what those words ask for.

    Raises:
        FileError: the disk refuses.
    """
    text = read_picture(data).parameters or ""
    recipe = read_any(data, engine.registry)
    folder = settings.outputs_dir / FOLDER / f"{datetime.now():%Y-%m-%d}"
    try:
        path = write_new(folder, "", ".png", encoded(picture, "PNG", text), Disk())
    except OSError as error:
        raise FileError(f"the picture can't be saved in {folder}: {error.strerror}") from error
    return path, recipe.request or GenerationRequest(prompt="")
