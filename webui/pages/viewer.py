"""The page for who only watches: the running picture and its timeline, and nothing to press that
changes anything. A document of our own, as gradio's page needs calls that a viewer may not make."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from webui.assets import Assets
from webui.gate import WATCH_PAGE

STYLES = ("vitrine.css", "shell.css", "stage.css", "create.css", "viewer.css")


def routes(files: Assets) -> APIRouter:
    router = APIRouter()

    @router.get(WATCH_PAGE)
    def page() -> HTMLResponse:
        return HTMLResponse(document(files), headers={"cache-control": "no-cache"})

    return router


def document(files: Assets) -> str:
    """The whole page, with the addresses of its styles and scripts."""
    links = [f'<link rel="stylesheet" href="{files.url(name)}">' for name in STYLES]
    links += [f'<link rel="icon" href="{files.url("favicon.svg")}" type="image/svg+xml">']
    modules = files.reached("viewer.js")
    links += [f'<link rel="modulepreload" href="{files.url(name)}">' for name in modules]
    script = f'<script type="module" src="{files.url("viewer.js")}"></script>'
    page = files.text("viewer.html")
    page = page.replace("<!-- links -->", "".join(links) + script)
    return page.replace("<!-- stage -->", files.text("stage.html"))
