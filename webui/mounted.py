"""gradio's page behind our own routes, drawn anew where extensions have changed what is on it.

A page that is open goes on with the components it was drawn with: each drawing has an address of
its own, which it calls, and the last few stay. Whoever loads the page gets the newest.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

log = logging.getLogger("vitrine.page")

KEPT = 4
"""Drawings whose pages may still be open."""
FIRST = 1
"""The first drawing has no address of its own: what has none is its."""
CALLS = "/gradio_api/"
_OF_ITS_OWN = re.compile(r"/~(\d{1,9})(?=/|$)")


class Page:
    """The page as it is now, and as it was. An ASGI app."""

    def __init__(self, draw: Callable[[], FastAPI]) -> None:
        """
        Args:
            draw: a server of nothing but the page, drawn now; slow.
        """
        self._draw = draw
        self._lock = threading.Lock()
        self._drawings = {FIRST: draw()}
        self._newest = FIRST
        self._is_old = False
        self._lives: dict[int, contextlib.AsyncExitStack] = {}
        self._is_living = False

    @property
    def routes(self) -> list[BaseRoute]:
        """Those of the newest drawing."""
        return self._drawings[self._newest].routes

    def outdated(self, *_: object) -> None:
        """Something on it has changed: the next who loads it gets another one."""
        self._is_old = True

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """What gradio does beside answering, for as long as the server runs."""
        self._is_living = True
        await self._follow()
        try:
            yield
        finally:
            for life in self._lives.values():
                await life.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        own = _OF_ITS_OWN.match(path)
        if own is not None:
            number = int(own[1])
        elif path.startswith(CALLS) and FIRST in self._drawings:
            number = FIRST
        else:
            if self._is_old and path == "/":
                await self._renew()
            number = self._newest
        drawing = self._drawings.get(number)
        if drawing is None:
            gone = {"error": "this page is an old one; load it again"}
            await JSONResponse(gone, 404)(scope, receive, send)
            return
        root = "" if number == FIRST else f"/~{number}"
        if root and own is None:
            scope = {**scope, "path": root + path, "raw_path": (root + path).encode()}
        await drawing({**scope, "root_path": root}, receive, send)

    async def _renew(self) -> None:
        await run_in_threadpool(self._draw_anew)
        if self._is_living:
            await self._follow()

    def _draw_anew(self) -> None:
        with self._lock:
            if not self._is_old:
                return
            self._is_old = False
            try:
                drawing = self._draw()
            except Exception:
                log.exception("the page can't be drawn anew; the last one stays")
                return
            number = self._newest + 1
            kept = {n: one for n, one in self._drawings.items() if n > number - KEPT}
            self._drawings, self._newest = {**kept, number: drawing}, number

    async def _follow(self) -> None:
        """Begins the life of those that are new, and ends that of those that are gone."""
        for number, drawing in self._drawings.items():
            if number not in self._lives:
                self._lives[number] = contextlib.AsyncExitStack()
                life = drawing.router.lifespan_context(drawing)
                await self._lives[number].enter_async_context(life)
        for number in self._lives.keys() - self._drawings.keys():
            await self._lives.pop(number).aclose()


def mounted(app: FastAPI, draw: Callable[[], Any], **looks: Any) -> Page:
    """The page that `draw` gives as gradio's Blocks, behind all routes that `app` has by now.

    Args:
        looks: what gradio's mount_gradio_app takes beside.
    """
    import gradio as gr

    def served() -> FastAPI:
        server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        return gr.mount_gradio_app(server, draw(), path="/", **looks)

    page = Page(served)
    before = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with before(app) as state, page.living():
            yield state

    app.router.lifespan_context = lifespan
    app.mount("/", page)
    return page
