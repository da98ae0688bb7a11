"""Our own API stays what it was: its description, held against one that was written down.

Whoever changes it on purpose renews that one: python -m tests.webui.test_schema
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webui.schema import described

STORED = Path(__file__).parent / "openapi.txt"
RENEW = "python -m tests.webui.test_schema"
QUIET = ("title", "description", "summary")
"""Words for people, which may change."""


def lines() -> Iterator[str]:
    """The description in lines: a call and what it takes, or a field and what it may hold."""
    told = described()
    for path, calls in sorted(told["paths"].items()):
        for method, call in sorted(calls.items()):
            body = call.get("requestBody", {}).get("content", {})
            takes = _held(body.get("application/json", {}).get("schema", {}))
            yield f"{method.upper()} {path} {takes}".rstrip()
    for name, kind in sorted(told["components"]["schemas"].items()):
        if "enum" in kind:
            yield f"{name} {_held(kind)}"
        for field, held in sorted(kind.get("properties", {}).items()):
            must = " required" if field in kind.get("required", ()) else ""
            yield f"{name}.{field} {_held(held)}{must}"


def _held(schema: dict[str, Any]) -> str:
    kept = _without_words(schema)
    return json.dumps(kept, sort_keys=True) if kept else ""


def _without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_words(one) for key, one in value.items() if key not in QUIET}
    return [_without_words(one) for one in value] if isinstance(value, list) else value


def test_the_api_is_the_one_that_programs_were_written_for() -> None:
    stored, now = STORED.read_text(encoding="utf-8").splitlines(), list(lines())
    gone = [line for line in stored if line not in now]
    new = [line for line in now if line not in stored]
    words = f"\ngone: {gone}\nnew: {new}\nIf that is meant: {RENEW}"
    assert not gone and not new, words


def test_every_call_that_is_described_is_answered() -> None:
    """Each path and method is a route, and no route under these roots is left out."""
    from fastapi import FastAPI

    from tests.webui.fake_engine import FakeEngine
    from webui import stream, waiting

    engine = FakeEngine()
    stage = stream.Stage(engine)
    app = FastAPI()
    app.include_router(stream.routes(stage))
    app.include_router(waiting.routes(stage))
    routes = {
        (method.lower(), path)
        for path, calls in app.openapi()["paths"].items()
        for method in calls
        if path.startswith(("/api/jobs", "/api/queue"))
    }
    engine.close()
    told = {(method, path) for path, calls in described()["paths"].items() for method in calls}
    assert told <= routes
    assert routes - told <= {("post", "/api/jobs/{id}/cancel")}  # DELETE says the same


if __name__ == "__main__":
    STORED.write_text("\n".join(lines()) + "\n", encoding="utf-8")
