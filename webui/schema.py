"""Our own API described as OpenAPI, from the request's dataclass and its bounds."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from core.images.infotext import VERSION
from core.request import GenerationRequest
from core.resolve import BOUNDS, OPTION_BOUNDS, PART_BOUNDS

PARTS = {"StartImage": "start", "Enlarge": "enlarge", "Refine": "refine", "Branch": "branch"}


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/api/openapi.json")
    def schema() -> dict[str, Any]:
        """The description, for programs and their makers; no page of it loads foreign scripts."""
        return described()

    return router


@cache
def twin(kind: type) -> type[BaseModel]:
    """A model with the fields of a dataclass; what is any JSON there is anything here."""
    hints = typing.get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        low, high = _bounds(kind, field.name)
        given: Any = Field(ge=low, le=high)
        if field.default is not dataclasses.MISSING:
            given = Field(field.default, ge=low, le=high)
        elif field.default_factory is not dataclasses.MISSING:
            factory = field.default_factory
            given = Field(default_factory=factory, ge=low, le=high)
        if low is None:
            given.metadata.clear()
        fields[field.name] = (_twin_of(hints[field.name]), given)
    config = ConfigDict(extra="forbid")
    return create_model(kind.__name__, __config__=config, __doc__=kind.__doc__, **fields)


def _bounds(kind: type, name: str) -> tuple[float | None, float | None]:
    part = PARTS.get(kind.__name__, "")
    if kind is GenerationRequest and name in BOUNDS:
        return BOUNDS[name]
    if kind.__name__ in ("SamplerOptions", "ScheduleOptions") and name in OPTION_BOUNDS:
        return OPTION_BOUNDS[name]
    return PART_BOUNDS.get(f"{part}.{name}", (None, None))


def _twin_of(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return twin(typing.cast(type, hint))
    if typing.get_origin(hint) is Mapping:
        return dict[str, dict[str, Any]]
    inner = typing.get_args(hint)
    if not inner:
        return hint
    if typing.get_origin(hint) is tuple:
        return tuple[_twin_of(inner[0]), ...]  # type: ignore[misc]
    union = _twin_of(inner[0])
    for one in inner[1:]:
        union = union | _twin_of(one)
    return union


def described() -> dict[str, Any]:
    """OpenAPI 3.1."""
    schema = TypeAdapter(twin(GenerationRequest)).json_schema(
        ref_template="#/components/schemas/{model}"
    )
    parts = schema.pop("$defs", {})
    answer = {"description": "JSON", "content": {"application/json": {"schema": {}}}}
    wrong = {"description": "one sentence, and the field at fault"}
    job = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}

    def call(summary: str, *, of_job: bool = False, body: Any = None) -> dict[str, Any]:
        told: dict[str, Any] = {"summary": summary, "responses": {"200": answer, "422": wrong}}
        if of_job:
            told["parameters"] = [job]
            told["responses"]["404"] = {"description": "no such job of the caller's"}
        if body is not None:
            content = {"application/json": {"schema": body}}
            told["requestBody"] = {"required": True, "content": content}
        return told

    request = {"$ref": "#/components/schemas/GenerationRequest"}
    ids: dict[str, Any] = {
        "type": "object",
        "properties": {"jobs": {"type": "array", "items": {"type": "string"}}},
    }
    pause = {
        "type": "object",
        "properties": {"paused": {"type": "boolean"}, "everybody": {"type": "boolean"}},
    }
    flags = {name: {"type": "boolean"} for name in ("running", "everybody")}
    cancel = {"type": "object", "properties": {**ids["properties"], **flags}}
    steering = ("interrupt", "finish with what there is"), ("skip", "go on with the next image")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vitrine", "version": VERSION.removeprefix("vitrine-")},
        "paths": {
            "/api/jobs": {
                "get": call("The caller's jobs, oldest first"),
                "post": call("Make what the request asks for", body=request),
            },
            "/api/jobs/{id}": {
                "get": call("One job: state, place, expected wait, pictures", of_job=True),
                "delete": call("Discard it, waiting or running", of_job=True),
            },
            **{
                f"/api/jobs/{{id}}/{name}": {"post": call(summary.capitalize(), of_job=True)}
                for name, summary in steering
            },
            "/api/queue": {"get": call("Places and waits of the caller's jobs")},
            "/api/queue/order": {"post": call("Own waiting jobs in another order", body=ids)},
            "/api/queue/pause": {"post": call("Own jobs wait, or go on", body=pause)},
            "/api/queue/cancel": {"post": call("Discard own jobs: these, or all", body=cancel)},
        },
        "components": {"schemas": {"GenerationRequest": schema, **parts}},
    }
