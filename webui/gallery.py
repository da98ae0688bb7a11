"""The gallery's routes: pages of what was made, each picture with all that it says, star and bin.

Everything goes by a picture's number and its owner; no client names a path. On a server that only
this machine reaches, the machine's own user sees everything there is.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from core.engine.engine import Engine
from core.errors import RequestError
from core.gallery import Gallery, Picture
from core.settings import Settings
from webui import info
from webui.gate import LOOPBACK
from webui.stream import IMMUTABLE, Busy, Missing, json_body, owner

if TYPE_CHECKING:
    from webui.sharing import Shared

PAGE = 400
AT_ONCE = 1000
"""Pictures that can be starred or binned with one call."""
LETTERS = 200
"""Of a prompt in a page of many pictures."""
EDGES = (128, 256, 512)
"""Pixels of the longer side of a thumbnail."""
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def whose(request: Request) -> str | None:
    """The owner whose pictures a caller may see; None, everybody's, for the machine's own user.

    That is who calls from this machine and by a name of this machine alone: the guests of a proxy
    that runs here come by another name.
    """
    address = request.client.host if request.client else ""
    is_house = request.scope.get("vitrine.role", "house") == "house"
    if is_house and address in LOOPBACK and request.url.hostname in LOOPBACK:
        return None
    return owner(request)


def routes(gallery: Gallery, engine: Engine, settings: Settings, shared: Shared) -> APIRouter:
    router = APIRouter()
    _telling(router, gallery, engine, settings, shared)
    _showing(router, gallery, settings)
    _changing(router, gallery, engine, settings)
    return router


def _telling(
    router: APIRouter, gallery: Gallery, engine: Engine, settings: Settings, shared: Shared
) -> None:
    @router.get("/api/gallery")
    def page(
        request: Request,
        before: str | None = None,
        limit: int = PAGE,
        words: str = "",
        model: str = "",
        since: float | None = None,
        until: float | None = None,
        starred: bool = False,
        binned: bool = False,
    ) -> dict[str, Any]:
        """Newest first. `next` is the cursor of the page that follows; `total` is null where only
        reading on would tell."""
        mine = whose(request)
        found = gallery.page(
            mine,
            before,
            limit,
            words=words,
            model=model,
            since=since,
            until=until,
            starred=starred,
            binned=binned,
        )
        is_filtered = bool(words or model or starred or binned or since or until)
        total = None if is_filtered else gallery.count(mine)
        if is_filtered and before is None and found.more is None:
            total = len(found.pictures)
        shown = shared.among([picture.id for picture in found.pictures])
        return {
            "pictures": [row(picture, shared=picture.id in shown) for picture in found.pictures],
            "next": found.more,
            "total": total,
        }

    @router.get("/api/gallery/models")
    def models(request: Request) -> dict[str, list[str]]:
        return {"models": gallery.models(whose(request))}

    @router.get("/api/gallery/{id}")
    def told(id: str, request: Request) -> dict[str, Any]:
        """One picture with all that its file says: an own one, or one that is shared."""
        mine = whose(request)
        picture = _picture(gallery, id, None if shared.has(_number(id)) else mine)
        there = picture.file.is_file()
        is_mine = mine in (None, picture.owner)
        if not (is_mine or (there and picture.deleted is None)):
            raise Missing(f"there is no picture {id[:20]} in the gallery")
        begun = is_mine and _start(picture, settings) is not None
        told = row(picture, LETTERS * 1000, shared.has(picture.id), is_mine)
        return {
            **told,
            "negative_prompt": picture.negative_prompt,
            "seed": None if picture.seed is None else str(picture.seed),
            "size": picture.file.stat().st_size if there else None,
            "start": f"/gallery/{picture.id}/start.png" if begun else None,
            "said": info.told(picture.file, engine) if there else None,
        }


def _showing(router: APIRouter, gallery: Gallery, settings: Settings) -> None:
    @router.get("/gallery/{id}/picture")
    def file(id: str, request: Request, download: bool = False) -> Response:
        picture = _picture(gallery, id, whose(request))
        path = picture.file
        if not path.is_file() or path.suffix.lower() not in TYPES:
            raise Missing("the file of this picture is no longer there")
        return FileResponse(
            path,
            media_type=TYPES[path.suffix.lower()],
            filename=picture.path.name,
            headers=IMMUTABLE,
            content_disposition_type="attachment" if download else "inline",
        )

    @router.get("/gallery/{id}/{edge}.webp")
    def small(id: str, edge: int, request: Request) -> Response:
        if edge not in EDGES:
            raise RequestError(f"thumbnails have {EDGES} pixels, not {edge}")
        data = gallery.thumbnail(_picture(gallery, id, whose(request)), edge)
        return Response(data, media_type="image/webp", headers=IMMUTABLE)

    @router.get("/gallery/{id}/start.png")
    def start(id: str, request: Request) -> Response:
        """The picture that this one was made from."""
        path = _start(_picture(gallery, id, whose(request)), settings)
        if path is None:
            raise Missing("the picture that it was made from is no longer there")
        return FileResponse(path, media_type="image/png", headers=IMMUTABLE)


def _changing(router: APIRouter, gallery: Gallery, engine: Engine, settings: Settings) -> None:
    scanning = threading.Lock()

    @router.post("/api/gallery/star")
    async def star(request: Request) -> dict[str, int]:
        """{"ids": ["12"], "starred": true} in."""
        asked = await json_body(request)
        starred = asked.get("starred") if isinstance(asked, dict) else None
        if not isinstance(starred, bool):
            raise RequestError("starred must be true or false", "starred")
        return {
            "changed": await run_in_threadpool(gallery.star, _ids(asked), starred, whose(request))
        }

    @router.post("/api/gallery/bin")
    async def bin(request: Request) -> dict[str, list[str]]:
        """{"ids": ["12"]} in. What is in the bin comes back by `restore`."""
        ids = _ids(await json_body(request))
        gone = await run_in_threadpool(gallery.bin, ids, whose(request))
        return {"ids": [str(picture.id) for picture in gone]}

    @router.post("/api/gallery/restore")
    async def restore(request: Request) -> dict[str, list[str]]:
        ids = _ids(await json_body(request))
        back = await run_in_threadpool(gallery.restore, ids, whose(request))
        return {"ids": [str(picture.id) for picture in back]}

    @router.post("/api/gallery/empty")
    def empty(request: Request) -> dict[str, int]:
        """Deletes what is in the caller's bin, for good."""
        return {"deleted": gallery.empty_bin(whose(request))}

    @router.post("/api/gallery/scan")
    def scan() -> JSONResponse:
        """Takes in what other programs, or an earlier installation, put into the outputs folder."""
        if not scanning.acquire(blocking=False):
            raise Busy("the outputs folder is being looked through already")
        try:
            found = gallery.scan(settings.outputs_dir, engine.registry)
        finally:
            scanning.release()
        return JSONResponse({"added": found.added, "dropped": found.dropped})


def row(
    picture: Picture, letters: int = LETTERS, shared: bool = False, mine: bool = True
) -> dict[str, Any]:
    """A picture in JSON values. `mine`: whether the caller may change it; what is somebody else's
    is shown without its star and its job."""
    stamp = f"{picture.made:.0f}"
    folder = "/gallery" if mine else "/api/shared"
    return {
        "id": str(picture.id),
        "name": picture.path.name,
        "made": picture.made,
        "width": picture.width,
        "height": picture.height,
        "prompt": picture.prompt[:letters],
        "model": picture.checkpoint,
        "starred": mine and picture.starred,
        "shared": shared,
        "mine": mine,
        "job": (picture.job or None) if mine else None,
        "image": picture.image,
        "thumbnail": f"{folder}/{picture.id}/256.webp?v={stamp}",
        "url": f"{folder}/{picture.id}/picture?v={stamp}",
    }


def _picture(gallery: Gallery, id: str, mine: str | None) -> Picture:
    """Raises Missing where there is none of that number, or it is somebody else's."""
    try:
        return gallery.picture(_number(id), mine)
    except RequestError as error:
        raise Missing(f"there is no picture {id[:20]} in the gallery") from error


def _start(picture: Picture, settings: Settings) -> Any:
    from core.images.inputs import Inputs

    if not picture.parent:
        return None
    try:
        path = Inputs(settings.data_dir / "inputs").path(picture.parent)
    except RequestError:  # a file may say what it likes
        return None
    return path if path.is_file() else None


def _ids(asked: Any) -> list[int]:
    """Raises RequestError for anything but {"ids": [...]} with some numbers."""
    ids = asked.get("ids") if isinstance(asked, dict) else None
    if not isinstance(ids, list) or not 0 < len(ids) <= AT_ONCE:
        raise RequestError(f"ids must be a list of 1 to {AT_ONCE} pictures", "ids")
    return [_number(id) for id in ids]


def _number(id: Any) -> int:
    if not isinstance(id, str) or not id.isascii() or not id.isdigit() or len(id) > 18:
        raise RequestError(f"{str(id)[:20]!r} is no picture's number", "ids")
    return int(id)
