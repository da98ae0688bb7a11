"""Routes for styles: wording kept under a name in `styles.csv`, put on prompts and kept anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.errors import RequestError
from core.resolve import MAX_PROMPT
from core.text.styles import Style, Styles, applied, delete_style, read_styles, save_style
from webui.stream import json_body

MAX_NAME = 200


def routes(path: Path) -> APIRouter:
    """Everything under /api/styles; `path` is the file."""
    router = APIRouter()

    @router.get("/api/styles")
    def styles() -> dict[str, Any]:
        return _told(read_styles(path))

    @router.post("/api/styles/applied")
    async def put_on(request: Request) -> dict[str, str]:
        """{"prompt", "negative_prompt", "names": […]} in; both prompts with those styles out."""
        asked = await _fields(request)
        names = asked.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RequestError("names must be a list of names of styles", "names")
        chosen = (await run_in_threadpool(read_styles, path)).named(names)
        prompt, negative = applied(_text(asked, "prompt"), _text(asked, "negative_prompt"), chosen)
        return {"prompt": prompt, "negative_prompt": negative}

    @router.post("/api/styles")
    async def keep(request: Request) -> dict[str, Any]:
        """{"name", "prompt", "negative_prompt"} in: kept, or put in the place of the one there."""
        asked = await _fields(request)
        name = _text(asked, "name").strip()
        if len(name) > MAX_NAME:
            raise RequestError(f"a style's name has at most {MAX_NAME} letters", "name")
        style = Style(name, _text(asked, "prompt"), _text(asked, "negative_prompt"))
        await run_in_threadpool(save_style, path, style)
        return _told(await run_in_threadpool(read_styles, path))

    @router.delete("/api/styles/{name:path}")
    def forget(name: str) -> dict[str, Any]:
        delete_style(path, name)
        return _told(read_styles(path))

    return router


async def _fields(request: Request) -> dict[str, Any]:
    asked = await json_body(request)
    if not isinstance(asked, dict):
        raise RequestError("a JSON object is wanted here")
    return asked


def _text(fields: dict[str, Any], name: str) -> str:
    text = fields.get(name, "")
    if not isinstance(text, str) or len(text) > MAX_PROMPT:
        raise RequestError(f"{name} must be text of at most {MAX_PROMPT:,} letters", name)
    return text


def _told(styles: Styles) -> dict[str, Any]:
    return {
        "styles": [
            {"name": s.name, "prompt": s.prompt, "negative_prompt": s.negative_prompt}
            for s in styles.all
        ],
        "problems": list(styles.problems),
    }
