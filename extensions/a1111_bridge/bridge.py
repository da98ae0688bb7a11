"""Turns what an AUTOMATIC1111 extension registered into hooks of this house."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from core.errors import RequestError
from core.extend import Finisher, Place, RequestStep, hookimpl
from core.request import GenerationRequest
from webui.hookspecs import Page, Panel

from .facade import Registered, Script, registering
from .widgets import Widget, drawn_widgets

if TYPE_CHECKING:
    from fastapi import APIRouter
    from PIL.Image import Image


@dataclass(frozen=True)
class Ready:
    """One script that always acts, and the settings that its widgets are."""

    name: str
    script: Any
    settings: type
    title: str


class Bridged:
    """One extension of AUTOMATIC1111's. Imported when its first hook is asked, for its data folder
    is known only then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._registered: Registered | None = None
        self._ready: list[Ready] = []
        self._listed: list[Script] = []
        self.addresses: list[str] = []
        """Of its routes, as patterns."""

    def registered(self, place: Place) -> Registered:
        if self._registered is None:
            said = Registered(self.folder, place.data, options=_options(place.data))
            with registering(said):
                _imported(self.folder, place.name)
                for callback in said.callbacks.get("ui_settings", []):
                    callback()
                self._ready, self._listed = _made(said, place.name)
            self._registered = said
        return self._registered

    def ready(self, place: Place) -> list[Ready]:
        self.registered(place)
        return self._ready

    def hooks(self) -> dict[str, Callable[..., Any]]:
        """Functions of the hooks' names."""

        @hookimpl
        def request_steps(place: Place) -> list[RequestStep]:
            return [
                RequestStep(one.name, one.settings, processing(one)) for one in self.ready(place)
            ]

        @hookimpl
        def finishers(place: Place) -> list[Finisher]:
            return [Finisher(one.name, one.settings, finishing(one)) for one in self.ready(place)]

        @hookimpl
        def panels(place: Place) -> list[Panel]:
            return [Panel(one.name, one.settings, one.title) for one in self.ready(place)]

        @hookimpl
        def pages(place: Place) -> list[Page]:
            return [*tabs(self.registered(place)), *map(run_page, self._listed)]

        @hookimpl
        def routes(place: Place, engine: Any) -> list[APIRouter]:
            router, self.addresses = routers(self.registered(place))
            return [router]

        return {hook.__name__: hook for hook in (request_steps, finishers, panels, pages, routes)}


def _options(data: Path) -> dict[str, Any]:
    """What a person set instead of the defaults."""
    path = data / "settings.json"
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _imported(folder: Path, name: str) -> None:
    """Its scripts, in the order of their names; its folder is on the path meanwhile."""
    sys.path.insert(0, str(folder))
    try:
        for path in sorted((folder / "scripts").glob("*.py")):
            module = f"vitrine_extension_{name}.scripts_{path.stem}"
            spec = importlib.util.spec_from_file_location(module, path)
            assert spec is not None and spec.loader is not None, "a file has a loader"
            loaded = importlib.util.module_from_spec(spec)
            sys.modules[module] = loaded
            spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(folder))


def told(there: Mapping[str, Bridged]) -> dict[str, Any]:
    """For the page: scripts, styles, and (pattern, extension) of the routes."""
    scripts, styles, routes = [], [], []
    for name, one in there.items():
        own = sorted(path.name for path in (one.folder / "javascript").glob("*.*js"))
        scripts += [f"/ext/{name}/javascript/{file}" for file in own]
        if (one.folder / "style.css").is_file():
            styles.append(f"/ext/{name}/style.css")
        routes += [(pattern, name) for pattern in one.addresses]
    return {"scripts": scripts, "styles": styles, "routes": routes}


def _made(said: Registered, name: str) -> tuple[list[Ready], list[Script]]:
    """Scripts that are always there, with their widgets as settings; and those that are chosen."""
    always = sys.modules["modules.scripts"].AlwaysVisible
    found: list[Ready] = []
    listed: list[Script] = []
    for kind in said.scripts:
        script: Script = kind()
        shown = script.show(False)
        if shown is not always:
            listed += [script] if shown else []
            continue
        widgets = drawn_widgets(lambda script=script: script.ui(False))  # type: ignore[misc]
        own = f"{name}_{len(found) + 1}" if found else name
        found.append(Ready(own, script, _settings(own, widgets), script.title()))
    return found, listed


def _settings(name: str, widgets: list[Widget]) -> type:
    """A frozen dataclass with a field for each widget, in order."""
    fields = [
        (
            widget.name,
            widget.kind,
            dataclasses.field(default=widget.default, metadata=widget.metadata),
        )
        for widget in widgets
    ]
    return dataclasses.make_dataclass(f"Settings_{name}", fields, frozen=True)


def _arguments(settings: Any) -> list[Any]:
    return [getattr(settings, one.name) for one in dataclasses.fields(settings)]


def processing(one: Ready) -> Callable[[GenerationRequest, Any], GenerationRequest]:
    """`process(p, *args)` as a step: what it changes on p is changed in the request.

    A script that adds to the prompt would add again when the picture is made again; it is told by
    its own settings, which travel on, so the step acts once: it leaves a mark in them.
    """

    def step(request: GenerationRequest, settings: Any) -> GenerationRequest:
        if settings.done:
            return request
        p = as_processing(request)
        one.script.process(p, *_arguments(settings)[:-1])
        own = {**request.extras[one.name], "done": True}
        changed = from_processing(p, request)
        return replace(changed, extras={**changed.extras, one.name: own})

    return step


def finishing(one: Ready) -> Callable[[Image, GenerationRequest, Any], Image]:
    """`postprocess_image(p, pp, *args)`, where `pp.image` is the picture."""

    def finish(image: Image, request: GenerationRequest, settings: Any) -> Image:
        pp = SimpleNamespace(image=image)
        one.script.postprocess_image(as_processing(request), pp, *_arguments(settings)[:-1])
        return pp.image  # type: ignore[no-any-return]

    return finish


NAMES = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg_scale": "cfg_scale",
    "width": "width",
    "height": "height",
    "tiling": "tiling",
}
"""AUTOMATIC1111's name of a field → ours, of those that a script may change."""


def as_processing(request: GenerationRequest) -> SimpleNamespace:
    """A request as the `p` that scripts are handed."""
    p = SimpleNamespace(**{theirs: getattr(request, ours) for theirs, ours in NAMES.items()})
    p.sampler_name, p.scheduler = request.sampler, request.schedule
    p.batch_size, p.n_iter = 1, request.images
    p.all_prompts, p.all_negative_prompts = [request.prompt], [request.negative_prompt]
    p.all_seeds, p.extra_generation_params = [request.seed], {}
    p.sd_model = SimpleNamespace()
    return p


def from_processing(p: Any, request: GenerationRequest) -> GenerationRequest:
    """The request with what a script changed on `p`; its lists count before the single values."""
    changes = {ours: getattr(p, theirs) for theirs, ours in NAMES.items()}
    for listed, name in (("all_prompts", "prompt"), ("all_negative_prompts", "negative_prompt")):
        if getattr(p, listed) and getattr(p, listed)[0] != getattr(request, name):
            changes[name] = getattr(p, listed)[0]
    return replace(request, **changes)


def routers(said: Registered) -> tuple[APIRouter, list[str]]:
    """What `on_app_started` registers on its app, and its files for the browser, as routes of the
    extension's own; and the patterns of the former."""
    from fastapi import APIRouter, FastAPI
    from fastapi.responses import FileResponse

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    with registering(said):
        for callback in said.callbacks.get("app_started", []):
            callback(None, app)
    router = APIRouter()
    router.routes.extend(app.routes)
    # JavaScript's named groups are written otherwise, and not needed.
    patterns = [
        re.sub(r"\(\?P<\w+>", "(", route.path_regex.pattern)
        for route in app.routes
        if hasattr(route, "path_regex")
    ]
    javascript = said.folder / "javascript"

    @router.get("/javascript/{name}")
    def script(name: str) -> FileResponse:
        there = {path.name: path for path in javascript.glob("*.*js")}
        if name not in there:
            raise RequestError(f"there is no script {name[:80]!r}")
        return FileResponse(there[name], media_type="text/javascript")

    @router.get("/style.css")
    def style() -> FileResponse:
        if not (said.folder / "style.css").is_file():
            raise RequestError("it has no styles")
        return FileResponse(said.folder / "style.css", media_type="text/css")

    return router, patterns


def tabs(said: Registered) -> list[Page]:
    """What `on_ui_tabs` gives: (blocks, title, id), drawn into a tab of ours."""
    pages = []
    for number, callback in enumerate(said.callbacks.get("ui_tabs", [])):

        def draw(shell: Any, callback: Callable[[], Any] = callback) -> None:
            with registering(said):
                for blocks, _, _ in callback() or []:
                    blocks.render()

        name = "".join(letter for letter in said.folder.name if letter.isalnum()).lower()
        pages.append(Page(f"{name}{number or ''}", said.folder.name.replace("_", " "), draw))
    return pages


def run_page(script: Script) -> Page:
    """A tab for a script that is chosen: its widgets, and what `run` gives."""
    title = script.title()

    def draw(shell: Any) -> None:
        from .page import draw_run

        draw_run(script, title, shell)

    return Page("".join(letter for letter in title.lower() if letter.isalnum())[:40], title, draw)
