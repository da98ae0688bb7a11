"""The settings as routes: the machine's, in `vitrine.toml`, and each person's own.

Folders and whatever guards the house are told and never taken: they are set at the start alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.errors import FileError, RequestError
from core.images.save import FileFormat
from core.models.catalog import Catalog
from core.request import Json
from core.settings import Compile, Memory, Precision, Settings, Switch, Tiles
from webui import settings_file
from webui.house import check_house, is_house
from webui.people import People, save_options
from webui.stream import json_body, owner


@dataclass(frozen=True)
class Field:
    """One setting as the page shows it."""

    name: str
    title: str
    help: str
    choices: tuple[str, ...] = ()
    least: int | None = None
    """Of a whole number; None: it is text."""
    most: int | None = None


MACHINE = (
    Field(
        "checkpoint", "Model to begin with", "Empty: your first own one, else the one that ships."
    ),
    Field("device", "Device", "automatic, cpu, cuda, cuda:1 or mps."),
    Field("precision", "Precision", "Of U-Net and text encoder.", get_args(Precision)),
    Field("vae_precision", "Precision of the VAE", "", get_args(Precision)),
    Field(
        "memory",
        "Memory of the graphics card",
        "medvram keeps only the part at work on the card, lowvram only the block at work.",
        get_args(Memory),
    ),
    Field(
        "vae_tiles",
        "The VAE works in tiles",
        "For large pictures in little memory; a tiled picture is slightly another one. "
        "automatic: only where it would not fit as a whole.",
        get_args(Tiles),
    ),
    Field(
        "compile",
        "Compile the network",
        "For graphics cards (cuda). blocks: the first picture waits about a minute, later ones are "
        "quicker. Not measured on a card yet.",
        get_args(Compile),
    ),
    Field(
        "cuda_graphs",
        "Play recorded steps back",
        "For graphics cards (cuda) with memory to spare: a step is recorded once (CUDA graphs) and "
        "then starts at once. Not measured on a card yet.",
        get_args(Switch),
    ),
    Field(
        "checkpoints_in_memory", "Models kept loaded", "Switching between them is quick.", least=1
    ),
    Field("checkpoints_in_ram", "More models kept in plain memory", "", least=0),
    Field("trace_quota_mb", "Room for recorded runs, in MB", "The oldest go first.", least=0),
)
"""Changed here by the machine's own user; they hold from the next start on."""

START_ONLY = ("models_dir", "outputs_dir", "data_dir")
"""Told, and set by flags or in the file alone."""

PERSONAL = (
    Field("format", "Save pictures as", "PNG keeps every pixel.", get_args(FileFormat)),
    Field("quality", "Quality of JPEG and WebP", "1 to 100.", least=1, most=100),
    Field(
        "pattern",
        "Names of pictures",
        "Behind the number, with A1111's words: [seed], [steps], [model_name], [prompt_words]…",
    ),
    Field("folders", "Folders of pictures", "The same, / between folders: [date]/[model_name]."),
)
"""Each person's own; they hold from the next picture on."""


def routes(settings: Settings, catalog: Catalog, root: Path, people: People) -> APIRouter:
    """Everything under /api/settings.

    Args:
        root: the folder of vitrine.toml.
    """
    router = APIRouter()

    @router.get("/api/settings")
    def told(request: Request) -> dict[str, Any]:
        """What holds now, what will hold after the next start, and what is the caller's own."""
        mine = save_options(people.of(owner(request)))
        return {
            "house": is_house(request),
            "machine": machine(settings, root, catalog),
            "start": [
                {"name": name, "value": str(getattr(settings, name)) if is_house(request) else ""}
                for name in START_ONLY
            ],
            "personal": [_shown(field, getattr(mine, field.name)) for field in PERSONAL],
            "file": settings_file.NAME,
        }

    @router.post("/api/settings/machine")
    async def change(request: Request) -> dict[str, Any]:
        """{name: value}; null takes a setting back to its default. For the next start."""
        check_house(request)
        values = read(await json_body(request), MACHINE)
        await run_in_threadpool(settings_file.change, root, values)
        return {"changed": sorted(values), "holds": "after the next start"}

    @router.post("/api/settings/personal")
    async def prefer(request: Request) -> dict[str, Any]:
        values = read(await json_body(request), PERSONAL)
        who = owner(request)
        save_options({**people.of(who), **values})  # raises for what can't be
        await run_in_threadpool(people.change, who, values)
        return {"changed": sorted(values), "holds": "from the next picture on"}

    return router


def machine(settings: Settings, root: Path, catalog: Catalog) -> list[dict[str, Any]]:
    try:
        written: Mapping[str, Any] = settings_file.said(root)
    except FileError:
        written = {}
    names = tuple(checkpoint.name for checkpoint in catalog.checkpoints())
    told = []
    for field in MACHINE:
        entry = _shown(field, getattr(settings, field.name))
        entry["next"] = written.get(field.name)
        if field.name == "checkpoint":
            entry["choices"] = names
        told.append(entry)
    return told


def read(body: Any, fields: tuple[Field, ...]) -> dict[str, str | int | None]:
    """The values of a body. Raises RequestError for a name or a value that is none."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    shelf = {field.name: field for field in fields}
    values: dict[str, str | int | None] = {}
    for name, value in body.items():
        if name not in shelf:
            raise RequestError(
                f"{name!r} can't be set here; there are: {', '.join(shelf)}", str(name)
            )
        values[name] = _read(shelf[name], value)
    return values


def _read(field: Field, value: Any) -> str | int | None:
    if value is None or value == "":
        return None
    if field.least is not None:
        high = field.most or 10**9
        if type(value) is not int or not field.least <= value <= high:
            raise RequestError(
                f"{field.name} must be a whole number from {field.least:,} to {high:,}", field.name
            )
        return value
    if not isinstance(value, str) or len(value) > 500 or "\n" in value:
        raise RequestError(f"{field.name} must be a line of text", field.name)
    if field.choices and value not in field.choices:
        raise RequestError(
            f"{field.name} can be {', '.join(field.choices)}, not {value!r}", field.name
        )
    return value


def _shown(field: Field, value: Json) -> dict[str, Any]:
    return {
        "name": field.name,
        "title": field.title,
        "help": field.help,
        "value": value,
        "choices": field.choices,
        "least": field.least,
        "most": field.most,
    }
