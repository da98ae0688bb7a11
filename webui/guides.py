"""Routes of the guides: what there is to guide with, and what a guide will look like.

The preview is made by the same functions as the guide of a run, so it is what the network will see.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from core.errors import RequestError
from core.images.guides import PREPROCESSORS, Preprocessor
from core.images.guiding import Scene
from core.images.inputs import Inputs
from core.images.start import prepared
from core.models.catalog import FAMILIES, Kind
from core.request import ControlUse, StartImage, read_json
from webui.pictures import AT_ONCE, png, side
from webui.stream import json_body

MOST_PIXELS = 2048 * 2048
"""Of a preview."""
TITLES = {family.name: family.title for family in FAMILIES}
CHOICES = {
    "hearing": {
        "balanced": "Both alike",
        "prompt": "The prompt more",
        "control": "The guide more",
    },
    "resize": {"crop": "Crop to fill", "fill": "Fit, edges stretched", "stretch": "Stretch"},
    "during": {
        "both": "Both passes",
        "first": "The first pass alone",
        "second": "The second, larger pass alone",
    },
}
"""Value → title, for each choice of a guide."""


def routes(engine: Any, inputs: Inputs) -> APIRouter:
    """Everything under /api/guides."""
    router = APIRouter()
    places = asyncio.Semaphore(AT_ONCE)

    @router.get("/api/guides")
    def there() -> dict[str, Any]:
        return what_there_is(engine.catalog)

    @router.post("/api/guides/preview")
    async def preview(request: Request) -> Response:
        """{"use": …, "start": … or null, "width", "height"} in; the guide as a PNG out."""
        asked = await json_body(request)
        async with places:
            guide = await run_in_threadpool(previewed, asked, inputs)
            return Response(await run_in_threadpool(png, guide), media_type="image/png")

    return router


def what_there_is(catalog: Any) -> dict[str, Any]:
    """Models, image encoders, preprocessors with their settings, and the other choices."""
    return {
        "models": [
            {"name": file.name, "title": file.name, "for": TITLES.get(file.facts.base, "")}
            for file in catalog.files(Kind.CONTROLNET, wait=False)
        ],
        "encoders": [file.name for file in catalog.files(Kind.IMAGE_ENCODER, wait=False)],
        "preprocessors": [_described(one) for one in PREPROCESSORS.values()],
        "choices": CHOICES,
    }


def _described(one: Preprocessor) -> dict[str, Any]:
    settings = [
        {"name": field.name, "default": field.default, **field.metadata}
        for field in dataclasses.fields(one.settings)
    ]
    return {"name": one.name, "title": one.title, "help": one.help, "settings": settings}


def previewed(asked: Any, inputs: Inputs) -> Image.Image:
    """What the network will see, at the size that is painted.

    Raises:
        RequestError: names the field that is wrong, or what is missing.
    """
    fields = asked if isinstance(asked, dict) else {}
    use = read_json(ControlUse, fields.get("use"), "controls.")
    width, height = (side(fields, name) for name in ("width", "height"))
    if width * height > MOST_PIXELS:
        raise RequestError(
            f"{width} × {height} is too large for a preview; the run itself may be as large",
            "width",
        )
    begun = None
    if fields.get("start") is not None:
        start = read_json(StartImage, fields["start"], "start.")
        begun = prepared(start, inputs, width, height)
    return Scene(inputs, width, height, begun).guide(use)
