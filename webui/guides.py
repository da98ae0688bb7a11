"""Routes of the guides: what there is to guide with, and what a guide will look like.

The preview is made by the same functions as the guide of a run, so it is what the network will see.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from core.engine.engine import MakeGuide
from core.errors import RequestError, VitrineError
from core.images.guides import Preprocessor, label, preprocessor
from core.images.guiding import Scene
from core.images.inputs import Inputs
from core.images.start import prepared
from core.models.catalog import FAMILIES, WHOLE_PICTURE, Catalog, Kind, ModelFile
from core.models.kinds import place_of
from core.request import ControlUse, GenerationRequest, StartImage, read_json
from webui.looks import Looks
from webui.pictures import AT_ONCE, png, side
from webui.stream import json_body, owner

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
    looks = Looks(engine)

    @router.get("/api/guides")
    def there() -> dict[str, Any]:
        return what_there_is(engine.catalog, engine.registry.preprocessors)

    @router.post("/api/guides/preview")
    async def preview(request: Request) -> Response:
        """{"use": …, "start": … or null, "width", "height"} in; the guide as a PNG out."""
        wanted = asked_for(await json_body(request))
        async with places:
            made_by = engine.registry.preprocessors
            name = wanted.use.preprocessor
            if preprocessor(name, "controls.preprocessor", made_by).ask is None:
                guide = await run_in_threadpool(previewed, wanted, inputs, made_by)
            else:  # networks are asked on the engine's thread alone
                guide = await run_in_threadpool(looks.asked, wanted, owner(request))
            return Response(await run_in_threadpool(png, guide), media_type="image/png")

    return router


def what_there_is(catalog: Catalog, made_by: Mapping[str, Preprocessor]) -> dict[str, Any]:
    """Models, image encoders, preprocessors with their settings, and the other choices."""
    return {
        # Their headers are read here: what they were made for decides which is offered first.
        "models": [_offered(file, made_by) for file in catalog.files(Kind.CONTROLNET)],
        "encoders": [file.name for file in catalog.files(Kind.IMAGE_ENCODER, wait=False)],
        "preprocessors": [_described(one, catalog) for one in made_by.values()],
        "choices": CHOICES,
    }


def _offered(file: ModelFile, made_by: Mapping[str, Preprocessor]) -> dict[str, Any]:
    """A model, what it is for, and what it says of itself."""
    base, wanted = file.facts.base, file.facts.preprocessor
    return {
        "name": file.name,
        "title": file.name,
        "for": TITLES.get(base, base),
        "about": file.facts.description,
        "preprocessor": wanted if wanted in made_by else "",
    }


def absent(request: GenerationRequest, catalog: Catalog) -> list[str]:
    """Sentences on the models of a request's guides that are not here."""
    sentences = []
    for use in request.controls:
        try:
            catalog.file(Kind.CONTROLNET, use.model)
        except VitrineError as error:
            sentences.append(f"A guide needs {use.model}: {error}.")
    return sentences


def _described(one: Preprocessor, catalog: Catalog) -> dict[str, Any]:
    settings = [
        {"name": field.name, "default": field.default, **field.metadata, "label": label(field)}
        for field in dataclasses.fields(one.settings)
    ]
    for setting in settings:
        if "kind" in setting:
            setting["choices"] = _models(Kind(setting["kind"]), catalog)
    return {"name": one.name, "title": one.title, "help": one.help, "settings": settings}


def _models(kind: Kind, catalog: Catalog) -> list[tuple[str, str]]:
    """(value, title) of all of a kind, and of what is asked where none is chosen."""
    names = [file.name for file in catalog.files(kind, wait=False)]
    if kind is Kind.DETECTOR:
        first = "The first there is" if names else "Nobody: the whole picture"
        names.append(WHOLE_PICTURE)
    else:
        first = "The first there is" if names else f"None yet: see {place_of(kind)}"
    return [("", first), *((name, name) for name in names)]


def asked_for(asked: Any) -> MakeGuide:
    """Raises RequestError naming the field that is wrong."""
    fields = asked if isinstance(asked, dict) else {}
    use = read_json(ControlUse, fields.get("use"), "controls.")
    width, height = (side(fields, name) for name in ("width", "height"))
    if width * height > MOST_PIXELS:
        raise RequestError(
            f"{width} × {height} is too large for a preview; the run itself may be as large",
            "width",
        )
    start = None
    if fields.get("start") is not None:
        start = read_json(StartImage, fields["start"], "start.")
    return MakeGuide(use, width, height, start)


def previewed(
    asked: MakeGuide, inputs: Inputs, made_by: Mapping[str, Preprocessor] | None = None
) -> Image.Image:
    """What the network will see, at the size that is painted.

    Raises:
        RequestError: names what is wrong or missing.
    """
    begun = None
    if asked.start is not None:
        begun = prepared(asked.start, inputs, asked.width, asked.height)
    scene = Scene(inputs, asked.width, asked.height, begun, preprocessors=made_by)
    return scene.guide(asked.use)
