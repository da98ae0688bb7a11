"""Extensions on the server: their routes and files behind the gate, and what manages them.

Only the machine's own user may change anything; whoever else looks is told why not.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from core.engine.engine import Engine
from core.errors import RequestError, VitrineError
from core.extend.hookspecs import Place
from core.extend.house import Extension, Extensions
from core.extend.index import MOST_BYTES, Listed, read_index, searched
from core.extend.install import Installer, Pin, Staged
from core.extend.requirements import install as install_requirements
from core.extend.sources import downloaded
from core.registry import Registry
from core.settings import Settings
from webui.gallery import whose
from webui.hookspecs import Files, Page
from webui.shell import Tab
from webui.stream import json_body, owner, sentences

log = logging.getLogger("vitrine.extensions")

INDEX = (
    "https://raw.githubusercontent.com/AUTOMATIC1111/stable-diffusion-webui-extensions"
    "/master/index.json"
)
SHOWN = 60
"""Entries of a list that one search shows."""
ZIP_LIMIT = 48 * 2**20
STATIC = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}


class Refused(VitrineError):
    """Not this person's to do."""

    status = 403


@dataclass(frozen=True)
class Rights:
    """Who may install, update, enable and remove. Fixed at the start."""

    everybody: bool = False
    """Whether whoever is let in may, and not the machine's own user alone."""
    hosts: frozenset[str] = frozenset()
    """One's own servers, which may have private addresses."""
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def may_change(self, request: Request) -> bool:
        return self.everybody or whose(request) is None

    def token(self, request: Request) -> str:
        """What this caller's changes must carry: no other site can know it."""
        return hmac.new(self.key, owner(request).encode(), hashlib.sha256).hexdigest()

    def check(self, request: Request) -> None:
        """Raises Refused."""
        if not self.may_change(request):
            raise Refused(
                "extensions run with the rights of this machine's user, so only that user may "
                "change them, in a browser on the machine itself"
            )
        shown = request.headers.get("x-vitrine-token", "")
        if not hmac.compare_digest(shown.encode(), self.token(request).encode()):
            raise Refused("that did not come from this page; load it again")


class Hosted:
    """The extensions' own routes and files, below /ext/NAME/. Follows every change."""

    def __init__(self, extensions: Extensions, engine: Engine) -> None:
        self._extensions, self._engine = extensions, engine
        self._apps: dict[str, ASGIApp] = {}
        self._files: list[tuple[Place, Files]] = []
        self.rebuild()
        extensions.listen(self.rebuild)

    def rebuild(self, registry: Registry | None = None) -> None:
        apps: dict[str, FastAPI] = {}
        for place, router in self._extensions.asked("routes", engine=self._engine):
            app = apps.setdefault(place.name, _bare())
            if isinstance(router, APIRouter):
                app.include_router(router)
        files = []
        for place, given in self._extensions.asked("static"):
            app = apps.setdefault(place.name, _bare())
            app.include_router(_static(place.folder / "static"))
            files.append((place, given))
        self._apps, self._files = (
            {name: _counted(self, name, app) for name, app in apps.items()},
            files,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        name, _, _ = rest.partition("/")
        if scope["type"] == "http" and rest == "-/all.js":
            await Response(self.script(), media_type=STATIC[".js"], headers=FRESH)(
                scope, receive, send
            )
            return
        app = self._apps.get(name)
        if app is None:
            await JSONResponse({"error": "there is no such extension here"}, 404)(
                scope, receive, send
            )
            return
        inner = {**scope, "root_path": f"{scope.get('root_path', '')}/{name}"}
        await app(inner, receive, send)

    def script(self) -> str:
        """A module that loads every extension's scripts and styles."""
        lines = []
        for place, given in self._files:
            for path in given.scripts:
                url = json.dumps(f"/ext/{place.name}/static/{path}")
                lines.append(f"import({url}).catch((error) => console.error({url}, error));")
            for path in given.styles:
                url = json.dumps(f"/ext/{place.name}/static/{path}")
                lines.append(
                    "document.head.append(Object.assign(document.createElement('link'), "
                    f"{{ rel: 'stylesheet', href: {url} }}));"
                )
        return "\n".join(lines) + "\n"

    def failed(self, name: str, error: Exception) -> None:
        self._extensions.ledger.failed(name, f"{name}: {type(error).__name__}: {error}")


FRESH = {"cache-control": "no-cache"}


def _bare() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def told(request: Request, error: Exception) -> Response:
        return sentences(cast(VitrineError, error))

    app.add_exception_handler(VitrineError, told)
    return app


def _counted(hosted: Hosted, name: str, app: FastAPI) -> ASGIApp:
    """The app; what it raises is its own, and named."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            hosted.failed(name, error)
            log.exception("the extension %s failed", name)
            raise

    return call


def _static(folder: Path) -> APIRouter:
    """Files below a folder, of kinds that a page needs; nothing outside of it."""
    router = APIRouter()

    @router.get("/static/{path:path}")
    def file(path: str) -> Response:
        root = folder.resolve()
        target = (root / path).resolve()
        kind = STATIC.get(target.suffix.lower())
        if not target.is_relative_to(root) or kind is None or not target.is_file():
            return JSONResponse({"error": "there is no such file"}, 404)
        return FileResponse(target, media_type=kind, headers=FRESH)

    return router


def tabs(extensions: Extensions) -> list[Tab]:
    """The extensions' pages; one whose drawing fails says so in its place."""
    found = []
    for place, page in extensions.asked("pages"):
        if isinstance(page, Page) and page.name.isalnum() and page.name.islower():
            found.append(Tab(page.name, page.title, _drawing(extensions, place.name, page)))
    return found


def _drawing(extensions: Extensions, name: str, page: Page) -> Callable[[Any], None]:
    def draw(shell: Any) -> None:
        import gradio as gr

        try:
            page.draw(shell)
        except Exception as error:
            log.exception("the page of %s can't be drawn", name)
            sentence = f"{name}: its page can't be drawn: {type(error).__name__}: {error}"
            extensions.ledger.failed(name, sentence)
            gr.Textbox(sentence, label="An extension failed", interactive=False)

    return draw


def host(
    app: FastAPI, extensions: Extensions, engine: Engine, settings: Settings, rights: Rights
) -> None:
    """Extensions on a server: their own routes, and those of the page that manages them."""
    installer = Installer(settings.data_dir, taken_names(extensions.folders), rights.hosts)
    app.include_router(routes(extensions, installer, rights))
    app.mount("/ext", Hosted(extensions, engine))


def nothing(engine: Engine, settings: Settings) -> Extensions:
    """No extensions at all."""
    return Extensions(engine.registry, (), settings.data_dir, settings.outputs_dir, packages=False)


def routes(extensions: Extensions, installer: Installer, rights: Rights) -> APIRouter:
    router = APIRouter()
    _looking(router, extensions, installer, rights)
    _switching(router, extensions, rights)
    _installing(router, extensions, installer, rights)
    return router


def _looking(
    router: APIRouter, extensions: Extensions, installer: Installer, rights: Rights
) -> None:
    @router.get("/api/extensions")
    def all(request: Request) -> dict[str, Any]:
        """Every extension there is, in the order in which they act."""
        pins, previous = installer.pins(), installer.previous()
        may = rights.may_change(request)
        return {
            "may_change": may,
            "token": rights.token(request) if may else "",
            "all_off": extensions.all_off,
            "extensions": [as_json(one, pins, previous) for one in extensions.all()],
        }

    @router.get("/api/extensions/readme")
    def readme(name: str) -> dict[str, str]:
        path = extensions.one(name).found.folder / "README.md"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return {"text": text[: 64 * 1024]}


def _switching(router: APIRouter, extensions: Extensions, rights: Rights) -> None:
    actions: dict[str, Callable[[str], None]] = {
        "enable": extensions.enable,
        "disable": extensions.disable,
        "reload": extensions.reload,
    }

    @router.post("/api/extensions/switch")
    async def switch(request: Request) -> dict[str, Any]:
        """{"name", "do"}: enable, disable or reload one."""
        rights.check(request)
        given = await _given(request, name=str, do=str)
        if given["do"] not in actions:
            raise RequestError(f"there is no {given['do'][:40]!r}; there are: {', '.join(actions)}")
        await run_in_threadpool(actions[given["do"]], given["name"])
        return {"state": extensions.one(given["name"]).state}

    @router.post("/api/extensions/order")
    async def order(request: Request) -> dict[str, Any]:
        """{"names"}: these first, in this order."""
        rights.check(request)
        given = await _given(request, names=list)
        names = [name for name in given["names"] if isinstance(name, str)]
        await run_in_threadpool(extensions.order, names)
        return {"names": [one.found.name for one in extensions.all()]}


def _installing(
    router: APIRouter, extensions: Extensions, installer: Installer, rights: Rights
) -> None:
    @router.post("/api/extensions/look")
    async def look(request: Request) -> dict[str, Any]:
        """{"url"}: fetches it, runs nothing, and says what it is."""
        rights.check(request)
        given = await _given(request, url=str)
        return staged_json(await run_in_threadpool(installer.look_at, given["url"].strip()))

    @router.post("/api/extensions/look-into")
    async def look_into(request: Request, name: str = "extension.zip") -> dict[str, Any]:
        """A zip's bytes in; the same."""
        rights.check(request)
        data = await request.body()
        if len(data) > ZIP_LIMIT:
            raise RequestError(f"a zip may be {ZIP_LIMIT // 2**20} MB at most")
        return staged_json(await run_in_threadpool(installer.look_into, data, name))

    @router.post("/api/extensions/install")
    async def install(request: Request) -> dict[str, Any]:
        """{"id", "enable"}: puts in place what was shown, with the packages that it needs."""
        rights.check(request)
        given = await _given(request, id=str, enable=bool)
        return await run_in_threadpool(installed, extensions, installer, **given)

    @router.post("/api/extensions/roll-back")
    async def roll_back(request: Request) -> dict[str, Any]:
        """{"name"}: what was there before the last update."""
        rights.check(request)
        name = (await _given(request, name=str))["name"]
        await run_in_threadpool(installer.roll_back, name)
        return await run_in_threadpool(_anew, extensions, name)

    @router.post("/api/extensions/remove")
    async def remove(request: Request) -> dict[str, Any]:
        """{"name"}: switched off, and deleted."""
        rights.check(request)
        name = (await _given(request, name=str))["name"]
        if name not in installer.pins():
            installer.remove(name)  # says what there is
        await run_in_threadpool(extensions.disable, name)
        await run_in_threadpool(installer.remove, name)
        return {"name": name}

    @router.post("/api/extensions/index")
    async def index(request: Request) -> dict[str, Any]:
        """{"url", "words"}: a list's entries that hold the words. `url` "" is A1111's list."""
        rights.check(request)
        given = await _given(request, url=str, words=str)
        url = given["url"].strip() or INDEX
        data = await run_in_threadpool(downloaded, url, rights.hosts, MOST_BYTES)
        found = searched(read_index(data), given["words"])
        return {"total": len(found), "entries": [listed_json(one) for one in found[:SHOWN]]}


def installed(
    extensions: Extensions, installer: Installer, id: str, enable: bool
) -> dict[str, Any]:
    """Puts a download in its place; enables it if asked, or if it was on before."""
    staged = installer.install(id)
    said = install_requirements(staged.requirements)
    before = extensions.one(staged.name).state
    if enable and before != "on":
        extensions.enable(staged.name)
    elif before == "on":
        extensions.reload(staged.name)
    return {"name": staged.name, "state": extensions.one(staged.name).state, "packages": said}


def _anew(extensions: Extensions, name: str) -> dict[str, Any]:
    if extensions.one(name).state == "on":
        extensions.reload(name)
    return {"name": name, "state": extensions.one(name).state}


def as_json(one: Extension, pins: dict[str, Pin], previous: dict[str, Pin]) -> dict[str, Any]:
    name = one.found.name
    pin = pins.get(name)
    return {
        "name": name,
        "title": one.about.title or name.replace("_", " "),
        "description": one.about.description,
        "version": one.about.version,
        "permissions": list(one.about.permissions),
        "ships": one.found.ships,
        "state": one.state,
        "problem": one.problem,
        "notes": list(one.notes),
        "hooks": list(one.hooks),
        "load_seconds": one.load_seconds,
        "seconds": one.account.seconds,
        "calls": one.account.calls,
        "errors": one.account.errors,
        "sentences": list(one.account.sentences),
        "pin": None if pin is None else asdict(pin),
        "can_roll_back": name in previous,
    }


def staged_json(staged: Staged) -> dict[str, Any]:
    return {
        **asdict(staged),
        "size": sum(size for _, size in staged.files),
        "title": staged.about.title or staged.name,
    }


def listed_json(entry: Listed) -> dict[str, Any]:
    return asdict(entry)


async def _given(request: Request, **kinds: type) -> dict[str, Any]:
    """A JSON object with exactly these fields. Raises RequestError naming the one at fault."""
    data = await json_body(request)
    if not isinstance(data, dict):
        raise RequestError("a JSON object is expected")
    for name, kind in kinds.items():
        if not isinstance(data.get(name), kind):
            raise RequestError(f"{name} is missing, or no {kind.__name__}", name)
    return {name: data[name] for name in kinds}


def taken_names(folders: Collection[tuple[Path, bool]]) -> set[str]:
    """Names that an extension from elsewhere may not have: those that ship."""
    return {
        path.parent.name for folder, ships in folders if ships for path in folder.glob("*/*.py")
    }
