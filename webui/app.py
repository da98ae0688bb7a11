"""The shell: our own app with our own routes first, and gradio's page mounted behind them.

Importing this loads no torch, so the page is up while the engine still gets ready.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from core.engine.engine import Engine
from core.errors import FileError, VitrineError
from core.settings import Settings
from webui import assets, catalog, drop, reading, stream
from webui.gate import Gate, Rules
from webui.pages import create
from webui.theme import theme

MAX_FILE = "64mb"


def create_app(engine: Engine, settings: Settings, gate: Rules) -> FastAPI:
    """The whole server: gate, own routes, page.

    Args:
        engine: what runs the requests.
    """
    _own_temporary_folder(settings.data_dir / "gradio-uploads")
    # No pages of documentation: FastAPI's fetch their scripts from another host.
    app = FastAPI(title="Vitrine", docs_url=None, redoc_url=None, openapi_url=None)
    files = assets.read_assets()
    stage = stream.Stage(engine)
    app.include_router(assets.routes(files))
    app.include_router(stream.routes(stage))
    app.include_router(catalog.routes(engine))
    app.include_router(drop.routes(engine))
    app.include_router(reading.routes())
    app.add_exception_handler(VitrineError, _sentence)
    app.add_exception_handler(HTTPException, _plain)

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return Response(files.files["favicon.svg"], media_type="image/svg+xml")

    page = create.page(stage, engine, files)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css=None,
        head=_head(files),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        blocked_paths=[str(settings.data_dir), str(settings.models_dir)],
    )
    app.add_middleware(Gate, rules=gate)
    return app


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
    """Our styles and scripts; every module is named, so none waits for another to ask for it."""
    modules = [name for name in files.files if name.endswith(".js")]
    return "".join(
        [
            f'<link rel="stylesheet" href="{files.url("vitrine.css")}">',
            f'<link rel="stylesheet" href="{files.url("stage.css")}">',
            f'<link rel="icon" href="{files.url("favicon.svg")}" type="image/svg+xml">',
            *(f'<link rel="modulepreload" href="{files.url(name)}">' for name in modules),
        ]
    )


async def _sentence(request: Request, error: Exception) -> Response:
    assert isinstance(error, VitrineError)
    return stream.sentences(error)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)
