"""ControlNet as its A1111 extension offers it: units of a request, lists, and guides made apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.engine.engine import MakeGuide
from core.errors import RequestError
from core.images.control_text import (
    NAMED_MODES,
    NAMED_PASSES,
    NAMED_RESIZES,
    OURS,
    ours,
    settings_of,
)
from core.images.inputs import Inputs
from core.images.pixels import open_picture
from core.models.catalog import Kind
from core.request import ControlUse, During, Hearing, Resize
from webui.looks import Looks
from webui.sdapi.extras import base64_png
from webui.sdapi.given import ApiError, Given, picture_bytes
from webui.sdapi.names import Names
from webui.stream import owner

SCRIPT = "controlnet"
VERSION = 3
UNITS = 3

RESIZES = (Resize.STRETCH, Resize.CROP, Resize.FILL)
HEARINGS = (Hearing.BALANCED, Hearing.PROMPT, Hearing.CONTROL)


def units(given: Given, names: Names, inputs: Inputs) -> tuple[ControlUse, ...]:
    """The guides of a request: those of its units that are switched on.

    Raises:
        ApiError: names the field.
    """
    found = []
    for name, entry in given.object("alwayson_scripts").items():
        if name.casefold() == SCRIPT and isinstance(entry, Mapping):
            found += [
                _unit(Given(unit), names, inputs) for unit in Given(entry).list("args") if unit
            ]
    return tuple(use for use in found if use is not None)


def _unit(unit: Given, names: Names, inputs: Inputs) -> ControlUse | None:
    model = unit.chosen("model")
    if unit.value("enabled") is not None and not unit.truth("enabled"):
        return None
    if model is None:
        raise ApiError(422, "a ControlNet unit needs a model", "alwayson_scripts.ControlNet.model")
    picture, mask = _pictures(unit)
    weight, start, end = (unit.number(n) for n in ("weight", "guidance_start", "guidance_end"))
    module = module_of(unit.text("module") or "none", names)
    low_memory = unit.truth("low_vram") or unit.truth("lowvram")
    return ControlUse(
        model=model_of(model, names),
        picture=None if picture is None else inputs.add(picture_bytes(picture, "image")),
        mask=None if mask is None else inputs.add(picture_bytes(mask, "mask")),
        preprocessor=module,
        settings=settings_of(module, unit.number("threshold_a"), unit.number("threshold_b")),
        weight=1.0 if weight is None else weight,
        start=start or 0.0,
        end=1.0 if end is None else end,
        resize=_among(unit, "resize_mode", RESIZES, NAMED_RESIZES, Resize.CROP),
        hearing=_among(unit, "control_mode", HEARINGS, NAMED_MODES, Hearing.BALANCED),
        during=_among(unit, "hr_option", (), NAMED_PASSES, During.BOTH),
        low_memory=low_memory,
    )


def _pictures(unit: Given) -> tuple[Any, Any]:
    """The picture and the mask of a unit; older clients put both into one object."""
    picture = unit.value("image") or unit.value("input_image")
    mask = unit.value("mask_image") or unit.value("mask")
    if isinstance(picture, Mapping):
        both = Given(picture)
        picture, mask = both.value("image"), both.value("mask") or mask
    return picture or None, mask or None


def model_of(text: str, names: Names) -> str:
    """The catalog's name. Raises ApiError naming what there is."""
    try:
        return names.catalog.file(Kind.CONTROLNET, text).name
    except RequestError as error:
        raise ApiError(422, str(error), "alwayson_scripts.ControlNet.model") from error


def module_of(text: str, names: Names) -> str:
    """Ours for one of the extension's. Raises ApiError naming what there is."""
    found = ours(text, names.registry.preprocessors)
    if found is None:
        there = ", ".join(modules(names))
        raise ApiError(422, f"no preprocessor named {text!r}; there are: {there}", "module")
    return found


def modules(names: Names) -> list[str]:
    """Every name a module may be called by."""
    return [*names.registry.preprocessors, *(name for name in OURS if name)]


def _among(
    unit: Given, name: str, numbered: tuple[Any, ...], named: Mapping[str, Any], default: Any
) -> Any:
    value = unit.value(name)
    if value is None or value == "":
        return default
    if isinstance(value, str) and value.strip().casefold() in named:
        return named[value.strip().casefold()]
    number = value if isinstance(value, str) else unit.whole(name)
    if isinstance(number, int) and 0 <= number < len(numbered):
        return numbered[number]
    raise ApiError(422, f"{name} can be {', '.join(named)}, not {value!r}", name)


def routes(router: APIRouter, names: Names, json_body: Any) -> None:
    """Everything under /controlnet that means something here."""

    @router.get("/controlnet/version")
    def version() -> dict[str, int]:
        return {"version": VERSION}

    @router.get("/controlnet/model_list")
    def model_list() -> dict[str, list[str]]:
        return {"model_list": models(names)}

    @router.get("/controlnet/module_list")
    def module_list() -> dict[str, Any]:
        return {"module_list": modules(names), "module_detail": {}}

    @router.get("/controlnet/control_types")
    def control_types() -> dict[str, Any]:
        every = {"module_list": modules(names), "model_list": ["None", *models(names)]}
        return {
            "control_types": {"All": {**every, "default_option": "none", "default_model": "None"}}
        }

    @router.get("/controlnet/settings")
    def settings() -> dict[str, int]:
        return {"control_net_unit_count": UNITS}

    looks = Looks(names.engine)

    @router.post("/controlnet/detect")
    async def detect(request: Request) -> dict[str, Any]:
        given = Given(await json_body(request))
        return await run_in_threadpool(detected, given, names, looks, owner(request))


def detected(given: Given, names: Names, looks: Looks, who: str) -> dict[str, Any]:
    """Guides made of pictures, without painting; networks are asked on the engine's thread.

    Raises:
        ApiError: names the field.
        RequestError: a network is wanted that is not there.
        FileError: a picture or a network's file can't be read.
    """
    pictures = given.list("controlnet_input_images") or given.list("controlnet_images")
    if not pictures:
        raise ApiError(422, "No image selected", "controlnet_input_images")
    module = module_of(given.text("controlnet_module") or "none", names)
    first, second = (given.number(f"controlnet_threshold_{letter}") for letter in "ab")
    make, settings = names.registry.preprocessors[module], settings_of(module, first, second)
    checked = make.checked(settings)
    opened = [open_picture(picture_bytes(one, "controlnet_input_images")) for one in pictures]
    if make.ask is None:
        made = [make(one, checked) for one in opened]
    else:
        inputs = names.engine.inputs
        uses = [
            ControlUse(model="", picture=inputs.add(one), preprocessor=module, settings=settings)
            for one in opened
        ]
        made = [
            looks.asked(MakeGuide(use, *one.size), who)
            for use, one in zip(uses, opened, strict=True)
        ]
    return {"images": [base64_png(one) for one in made], "info": "Success"}


def models(names: Names) -> list[str]:
    return [
        f"{file.name} [{file.hash[:8]}]" if file.hash else file.name
        for file in names.catalog.files(Kind.CONTROLNET)
    ]
