"""The models' routes: a card for each file of every kind, its preview picture, its details.

What a file says was read by the catalog, in the background; a card says what is known by now.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from core.engine.engine import Engine
from core.errors import RequestError, VitrineError
from core.gallery.thumbs import Thumbs
from core.models.catalog import Catalog, Kind, ModelFile, place_of
from core.settings import Settings
from webui.stream import IMMUTABLE, Missing

SHORT = 10
"""Digits of a hash that people compare."""
EDGE = 384
"""Pixels of the longer side of a preview."""

TITLES: Mapping[Kind, str] = {
    Kind.CHECKPOINT: "Checkpoints",
    Kind.LORA: "LoRAs",
    Kind.EMBEDDING: "Embeddings",
    Kind.HYPERNETWORK: "Hypernetworks",
    Kind.VAE: "VAEs",
    Kind.UPSCALER: "Upscalers",
    Kind.CONTROLNET: "ControlNets",
}
"""The kinds that have cards, in their order."""


class Shelves:
    """The cards of each kind as they were looked up last: one picture asked for is no reason to
    walk through all folders."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._files: dict[Kind, dict[str, ModelFile]] = {}
        self._lock = threading.Lock()

    def looked(self, kind: Kind) -> list[ModelFile]:
        """What there is now."""
        files = {file.name: file for file in self.catalog.files(kind, wait=False)}
        with self._lock:
            self._files[kind] = files
        return list(files.values())

    def file(self, kind: Kind, name: str) -> ModelFile:
        """Raises Missing where there is no such model."""
        with self._lock:
            known = self._files.get(kind, {}).get(name)
        if known is not None:
            return known
        self.looked(kind)
        with self._lock:
            known = self._files[kind].get(name)
        if known is None:
            raise Missing(f"there is no {kind} {name[:80]!r}")
        return known


def routes(engine: Engine, settings: Settings) -> APIRouter:
    router = APIRouter()
    shelves = Shelves(engine.catalog)
    thumbs = Thumbs(settings.data_dir / "thumbs")

    @router.get("/api/cards")
    def kinds() -> dict[str, Any]:
        """The kinds there are; `version` grows whenever more is known of some file."""
        engine.catalog.begin()
        return {
            "version": engine.catalog.version,
            "kinds": [{"kind": kind.value, "title": title} for kind, title in TITLES.items()],
        }

    @router.get("/api/cards/version")
    def version() -> dict[str, int]:
        return {"version": engine.catalog.version}

    @router.get("/api/cards/{kind}")
    def cards(kind: str) -> dict[str, Any]:
        """Every file of a kind, those that can't be used with the reason."""
        wanted = _kind(kind)
        version = engine.catalog.version
        files = shelves.looked(wanted)
        # Why a file can't be used is known once it was read; asking would read all of them.
        is_read = all(file.is_read for file in files)
        broken = engine.catalog.unreadable(wanted) if is_read else {}
        return {
            "version": version,
            "place": place_of(wanted),
            "cards": [card(file, engine.catalog) for file in files],
            "broken": [{"name": name, "problem": why} for name, why in broken.items()],
        }

    @router.get("/api/card")
    def details(kind: str, name: str) -> dict[str, Any]:
        file = shelves.file(_kind(kind), name)
        return {**card(file, engine.catalog), **_details(engine.catalog, file)}

    @router.get("/cards/picture.webp")
    def picture(kind: str, name: str) -> Response:
        """The preview that lies beside a model, made small."""
        file = shelves.file(_kind(kind), name)
        if file.picture is None:
            raise Missing(f"no picture lies beside {name[:80]!r}")
        data = thumbs.of(file.picture, EDGE)
        return Response(data, media_type="image/webp", headers=IMMUTABLE)

    return router


def card(file: ModelFile, catalog: Catalog) -> dict[str, Any]:
    """What a card shows, as JSON values."""
    families = {family.name: family.title for family in catalog.families}
    name = PurePosixPath(file.name)
    return {
        "name": file.name,
        "title": name.name,
        "folder": "" if str(name.parent) == "." else str(name.parent),
        "family": families.get(file.facts.base, file.facts.base),
        "size": file.size,
        "modified": file.modified,
        "hash": file.hash[:SHORT] if file.hash else None,
        "picture": _stamp(file.picture) if file.picture else None,
        "triggers": list(file.facts.triggers[:3]),
        "weight": file.facts.weight,
        "is_read": file.is_read,
    }


def _details(catalog: Catalog, file: ModelFile) -> dict[str, Any]:
    facts = file.facts
    values: dict[str, Any] = {
        "file": file.path.name,
        "hash": file.hash,
        "alias": facts.alias,
        "description": facts.description,
        "triggers": list(facts.triggers),
        "negative": facts.negative,
        "changed": datetime.fromtimestamp(file.modified, UTC).isoformat(),
        "lacks": list(facts.lacks),
        "prediction": facts.prediction,
        "remarks": [],
        "examples": [],
    }
    if file.kind is Kind.CHECKPOINT:
        try:
            checkpoint = catalog.checkpoint(file.name)
        except VitrineError as error:
            return {**values, "remarks": [str(error)]}
        values |= {
            "remarks": list(checkpoint.remarks),
            "examples": list(checkpoint.examples[:8]),
            "description": checkpoint.description,
            "pixels": checkpoint.size,
        }
    return values


def _kind(text: str) -> Kind:
    there = {kind.value: kind for kind in TITLES}
    if text not in there:
        raise RequestError(f"no kind of model {text[:40]!r}; there are: {', '.join(there)}", "kind")
    return there[text]


def _stamp(path: Path) -> str:
    """Changes with the picture, so a browser may keep what it has."""
    try:
        return f"{path.stat().st_mtime:.0f}"
    except OSError:
        return "0"
