"""Pictures that their owners show to everybody in the house: a choice for each picture."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from core.errors import FileError, RequestError
from core.gallery import Gallery, Picture
from webui.gallery import EDGES, TYPES, row
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

    def among(self, pictures: Sequence[int]) -> set[int]:
        """Those of them that are shared."""
        marks = ", ".join("?" * len(pictures))
        with self._lock:
            found = self._base.execute(
                f"SELECT picture FROM shared WHERE picture IN ({marks})", tuple(pictures)
            )
            return {picture for (picture,) in found}

    def newest(self, count: int) -> list[int]:
        with self._lock:
            found = self._base.execute(
                "SELECT picture FROM shared ORDER BY since DESC, picture DESC LIMIT ?", (count,)
            )
            return [picture for (picture,) in found]


def routes(
    gallery: Gallery,
    shared: Shared,
    seen: Callable[[Request], str | None],
    address: Callable[[Request], str],
) -> APIRouter:
    """Everything under /api/shared.

    Args:
        seen: whose pictures a caller may share; None: everybody's.
        address: of this server, as others know it.
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

    def all_shown() -> Iterator[Picture]:
        for id in shared.newest(PAGE):
            try:
                yield shown(id)
            except Missing:
                continue

    @router.get("/api/shared")
    def listed(request: Request, words: str = "") -> dict[str, Any]:
        """What everybody shares, the newest first, told as the gallery tells it; `words`: all of
        them must be in the prompt."""
        mine, sought = seen(request), words.casefold().split()
        told = [
            row(picture, shared=True, mine=mine in (None, picture.owner))
            for picture in all_shown()
            if all(word in picture.prompt.casefold() for word in sought)
        ]
        return {"pictures": told, "next": None, "total": len(told)}

    @router.put("/api/shared/{id}")
    def share(id: int, request: Request) -> dict[str, Any]:
        """Shares it, if it was not; `link`: where others who were let in see it."""
        shared.put(own(id, request).id, True)
        link = f"{address(request)}/?tab=gallery&picture={id}"
        return {"id": str(id), "shared": True, "link": link}

    @router.delete("/api/shared/{id}")
    def take_back(id: int, request: Request) -> dict[str, Any]:
        shared.put(own(id, request).id, False)
        return {"id": str(id), "shared": False}

    @router.get("/api/shared/{id}/picture")
    def whole(id: int, download: bool = False) -> Response:
        path = shown(id).file
        return FileResponse(
            path,
            media_type=TYPES.get(path.suffix.lower(), "application/octet-stream"),
            filename=path.name,
            headers=FRESH,
            content_disposition_type="attachment" if download else "inline",
        )

    @router.get("/api/shared/{id}/{edge}.webp")
    def small(id: int, edge: int) -> Response:
        if edge not in EDGES:
            raise RequestError(f"thumbnails have {EDGES} pixels, not {edge}")
        data = gallery.thumbnail(shown(id), edge)
        return Response(data, media_type="image/webp", headers=FRESH)

    return router
