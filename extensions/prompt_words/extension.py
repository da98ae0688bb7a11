"""Offers embeddings, LoRAs and styles while a prompt is typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.extend import Place, hookimpl
from webui.hookspecs import Files

if TYPE_CHECKING:
    from fastapi import APIRouter

    from core.engine.engine import Engine

MOST = 12
"""Words that are offered at once."""
LONGEST = 80
"""Letters that are looked at."""


def words(begun: str, engine: Engine, styles: Path) -> list[dict[str, str]]:
    """What could be meant by `begun`: those that begin so first, then those that hold it."""
    from core.models.catalog import Kind
    from core.text.styles import read_styles

    known: list[tuple[str, str, str]] = []
    for file in engine.catalog.files(Kind.EMBEDDING, wait=False):
        known.append((file.name, "embedding", file.name.rpartition("/")[2]))
    for file in engine.catalog.files(Kind.LORA, wait=False):
        weight = 1 if file.facts.weight is None else file.facts.weight
        known.append((file.name, "LoRA", f"<lora:{file.name}:{weight:g}>"))
    if styles.is_file():
        for style in read_styles(styles).all:
            if style.prompt:
                known.append((style.name, "style", style.prompt.replace("{prompt}", "")))
    sought = begun[:LONGEST].casefold()
    held = [entry for entry in known if sought in entry[0].casefold()]
    held.sort(key=lambda entry: (not entry[0].casefold().startswith(sought), entry[0].casefold()))
    return [{"name": name, "kind": kind, "text": text} for name, kind, text in held[:MOST]]


@hookimpl
def routes(place: Place, engine: Engine) -> list[APIRouter]:
    from fastapi import APIRouter

    router = APIRouter()
    styles = place.data.parents[1] / "styles.csv"

    @router.get("/words")
    def offered(begun: str = "") -> dict[str, Any]:
        return {"words": words(begun, engine, styles)}

    return [router]


@hookimpl
def static() -> list[Files]:
    return [Files(scripts=("words.js",), styles=("words.css",))]
