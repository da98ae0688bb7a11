"""The shell: our own app with our own routes first, and gradio's page mounted behind them.

Importing this loads no torch, so the page is up while the engine still gets ready.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from core.engine.engine import Engine
from core.errors import FileError, VitrineError
from core.extend.house import Extensions
from core.gallery import Gallery
from core.images.inputs import Inputs
from core.settings import Settings
from webui import (
    assets,
    cards,
    catalog,
    drop,
    explain,
    extending,
    extras,
    gallery,
    guides,
    house,
    info,
    levels,
    pictures,
    race,
    reading,
    reels,
    schema,
    sdapi,
    sharing,
    shell,
    stream,
    waiting,
    wordings,
)
from webui import settings as settings_routes
from webui.gate import Gate, Rules
from webui.guests import Links, Presence
from webui.mounted import mounted
from webui.pages import create
from webui.pages import explain as explain_page
from webui.pages import extensions as extensions_page
from webui.pages import extras as extras_page
from webui.pages import gallery as gallery_page
from webui.pages import info as info_page
from webui.pages import models as models_page
from webui.pages import settings as settings_page
from webui.pages import viewer as viewer_page
from webui.people import People
from webui.shell import Tab
from webui.theme import theme

MAX_FILE = "64mb"
UPLOADS = "gradio-uploads"

TABS = (
    Tab("create", "Create", create.tab),
    Tab("gallery", "Gallery", gallery_page.tab),
    Tab("explain", "Explain", explain_page.tab),
    Tab("models", "Models", models_page.tab),
    Tab("info", "PNG info", info_page.tab),
    Tab("extras", "Extras", extras_page.tab),
    Tab("settings", "Settings", settings_page.tab),
    Tab("extensions", "Extensions", extensions_page.tab),
)
"""The pages, in their order; one line each."""

STYLES = ("vitrine.css", "shell.css", "stage.css", "create.css")
"""Of the first page; the others bring their own."""


def create_app(
    engine: Engine,
    settings: Settings,
    gate: Rules,
    extensions: Extensions | None = None,
    rights: extending.Rights | None = None,
    root: Path | None = None,
) -> FastAPI:
    """The whole server: gate, own routes, page.

    Args:
        engine: what runs the requests.
        extensions: those that are there; None: none.
        rights: who may change them; None: the machine's own user.
        root: the folder of vitrine.toml; None: the one that holds the data folder.
    """
    extensions = extensions or extending.nothing(engine, settings)
    _own_temporary_folder(settings.data_dir / UPLOADS)
    # No pages of documentation: FastAPI's fetch their scripts from another host.
    app = FastAPI(title="Vitrine", docs_url=None, redoc_url=None, openapi_url=None)
    files = assets.read_assets()
    stage = stream.Stage(engine)
    made = getattr(engine, "gallery", None) or Gallery(settings.data_dir / "gallery.sqlite3")
    app.include_router(assets.routes(files))
    app.include_router(stream.routes(stage))
    app.include_router(catalog.routes(engine))
    app.include_router(drop.routes(engine))
    app.include_router(reading.routes(engine.catalog))
    app.include_router(info.routes(stage))
    app.include_router(wordings.routes(settings.data_dir.parent / "styles.csv"))
    app.include_router(explain.routes(stage))
    app.include_router(reels.routes(stage))
    app.include_router(race.routes(stage))
    app.include_router(cards.routes(engine, settings))
    shared = sharing.Shared(settings.data_dir / "shared.sqlite3")
    app.include_router(gallery.routes(made, engine, settings, shared))
    app.include_router(extras.routes(engine, settings, made))
    app.include_router(levels.routes(engine))
    inputs = Inputs(settings.data_dir / "inputs")
    app.include_router(pictures.routes(inputs))
    app.include_router(guides.routes(engine, inputs))
    links, presence = Links(settings.data_dir / "links.json"), Presence()
    app.include_router(house.routes(links, presence, gate))
    app.include_router(waiting.routes(stage))
    app.include_router(viewer_page.routes(files))
    app.include_router(schema.routes())
    people = People(settings.data_dir / "people.sqlite3")
    home = settings.data_dir.parent if root is None else root
    app.include_router(settings_routes.routes(settings, engine.catalog, home, people))
    address = functools.partial(house.address, gate)
    app.include_router(sharing.routes(made, shared, gallery.whose, address))
    offered = sdapi.routes(stage, settings, people) if gate.has_sdapi else sdapi.closed()
    app.include_router(offered)
    extending.host(app, extensions, engine, settings, rights or extending.Rights())
    app.add_exception_handler(VitrineError, _sentence)
    app.add_exception_handler(HTTPException, _plain)

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return Response(files.files["favicon.svg"], media_type="image/svg+xml")

    def drawn() -> gr.Blocks:
        tabs = (*TABS, *extending.tabs(extensions))
        return shell.page(tabs, stage, engine, settings, files, extensions)

    page = mounted(app, drawn, **_looks(settings, files))
    extensions.listen(page.outdated)
    app.add_middleware(Gate, rules=gate, links=links, presence=presence)
    return app


def _looks(settings: Settings, files: assets.Assets) -> dict[str, Any]:
    """How gradio is to serve the page."""
    return {
        "theme": theme(),
        "css": None,
        "head": _head(files),
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "max_file_size": MAX_FILE,
        "ssr_mode": False,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "blocked_paths": [*_private(settings.data_dir), str(settings.models_dir)],
    }


def _private(data: Path) -> list[str]:
    """All of the data folder but gradio's own, from which pictures of extensions are shown.

    gradio serves nothing that it did not make itself; this bars the rest once more.
    """
    return [str(path) for path in data.iterdir() if path.name != UPLOADS]


def _own_temporary_folder(folder: Path) -> None:
    """gradio's uploads live in the data folder, and none outlives a restart.

    A name nobody else would use: the folder is emptied, wherever the data folder may be.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {folder} can't be made: {error.strerror}") from error
    os.environ["GRADIO_TEMP_DIR"] = str(folder)


def _head(files: assets.Assets) -> str:
    """Our styles, and the scripts of the first page; every module is named, so none waits for
    another to ask for it. What other pages need is asked for when they are opened."""
    modules = files.reached("main.js", "shell.js")
    return "".join(
        [
            *(f'<link rel="stylesheet" href="{files.url(name)}">' for name in STYLES),
            f'<link rel="icon" href="{files.url("favicon.svg")}" type="image/svg+xml">',
            *(f'<link rel="modulepreload" href="{files.url(name)}">' for name in modules),
            '<script type="module" src="/ext/-/all.js"></script>',
        ]
    )


async def _sentence(request: Request, error: Exception) -> Response:
    assert isinstance(error, VitrineError)
    return stream.sentences(error)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)
