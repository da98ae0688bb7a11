"""What the page says of each model: its size, its favourites, prompts to begin with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from core.engine.engine import Engine
from core.errors import VitrineError
from core.request import as_json
from webui import form


def routes(engine: Engine) -> APIRouter:
    router = APIRouter()

    @router.get("/api/models")
    def models() -> dict[str, Any]:
        return described(engine)

    return router


def described(engine: Engine) -> dict[str, Any]:
    """Every checkpoint and sampler, as JSON values. Reads headers, so it may take a moment."""
    try:
        default = engine.catalog.default().name
    except VitrineError:
        default = None
    return {
        "default": default,
        "fields": {field.name: field.elem_id for field in form.FIELDS},
        "beginnings": {field.name: as_json(field.default) for field in form.FIELDS},
        "checkpoints": [
            {
                "name": file.name,
                "title": file.title,
                "size": file.size,
                "description": file.description,
                "examples": list(file.examples),
                "defaults": form.defaults(file.defaults),
            }
            for file in engine.catalog.checkpoints()
        ],
        "unreadable": list(engine.catalog.unreadable().values()),
        "samplers": {
            name: {
                "title": entry.title,
                "help": entry.help,
                "options": list(entry.options),
                "schedule": engine.registry.schedule(entry.schedule).title,
                "automatic": entry.schedule,
            }
            for name, entry in engine.registry.samplers.items()
        },
        "schedules": {
            name: list(entry.options) for name, entry in engine.registry.schedules.items()
        },
    }
