"""Pictures that their owners show to everybody in the house: a choice for each picture."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from core.errors import FileError, RequestError
from core.gallery import Gallery, Picture
from webui.gallery import TYPES
from webui.stream import Missing

PAGE = 200
FRESH = {"cache-control": "private, no-cache"}
"""A picture that was taken back is not shown from a browser's store."""


class Shared:
    """Numbers of the pictures that are shared, newest first. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileError: the file can't be opened or written.
        """
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS shared (picture INTEGER PRIMARY KEY, since REAL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise FileError(f"{path} can't be written ({error})") from error

    def put(self, picture: int, is_shared: bool) -> None:
        with self._lock:
            if is_shared:
                self._base.execute(
                    "INSERT OR IGNORE INTO shared VALUES (?, ?)", (picture, time.time())
                )
            else:
                self._base.execute("DELETE FROM shared WHERE picture = ?", (picture,))

    def has(self, picture: int) -> bool:
        with self._lock:
            found = self._base.execute("SELECT 1 FROM shared WHERE picture = ?", (picture,))
            return found.fetchone() is not None

    def newest(self, count: int) -> list[int]:
        with self._lock:
            found = self._base.execute(
                "SELECT picture FROM shared ORDER BY since DESC, picture DESC LIMIT ?", (count,)
            )
            return [picture for (picture,) in found]


def routes(gallery: Gallery, shared: Shared, seen: Callable[[Request], str | None]) -> APIRouter:
    """Everything under /api/shared.

    Args:
        seen: whose pictures a caller may share; None: everybody's.
    """
    router = APIRouter()

    def own(id: int, request: Request) -> Picture:
        return gallery.picture(id, seen(request))

    def shown(id: int) -> Picture:
        """Raises Missing for what is not shared, as for what is not there."""
        if 0 < id < 2**63 and shared.has(id):
            try:
                picture = gallery.picture(id)
                if picture.deleted is None and picture.file.is_file():
                    return picture
            except RequestError:
                pass
        raise Missing("there is no such picture")

    @router.get("/api/shared")
    def listed(request: Request) -> list[dict[str, Any]]:
        """What is shared, the newest first; `mine`: whether the caller may take it back."""
        mine, told = seen(request), []
        for id in shared.newest(PAGE):
            try:
                picture = shown(id)
            except Missing:
                continue
            told.append(
                {
                    "id": id,
                    "width": picture.width,
                    "height": picture.height,
                    "prompt": picture.prompt,
                    "made": picture.made,
                    "mine": mine is None or picture.owner == mine,
                }
            )
        return told

    @router.put("/api/shared/{id}")
    def share(id: int, request: Request) -> dict[str, Any]:
        shared.put(own(id, request).id, True)
        return {"id": id, "shared": True}

    @router.delete("/api/shared/{id}")
    def take_back(id: int, request: Request) -> dict[str, Any]:
        shared.put(own(id, request).id, False)
        return {"id": id, "shared": False}

    @router.get("/api/shared/{id}/picture")
    def whole(id: int) -> Response:
        path = shown(id).file
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
        return FileResponse(path, media_type=kind, headers=FRESH)

    @router.get("/api/shared/{id}/thumbnail")
    def small(id: int) -> Response:
        data = gallery.thumbnail(shown(id), 256)
        return Response(data, media_type="image/webp", headers=FRESH)

    return router
