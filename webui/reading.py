"""What the model will read of a prompt: its tokens, chunk by chunk, while it is being typed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.errors import RequestError, VitrineError
from core.models.catalog import Catalog, Kind
from core.models.embeddings import Shelf, made_for
from core.request import Emphasis
from core.resolve import BOUNDS, MAX_PROMPT
from core.text.networks import HYPERNET, LORA, networks
from core.text.prompt import lifted, read
from core.text.tokenizer import Token, Tokenizer
from webui.stream import json_body


class Reader:
    """Reads prompts; the vocabulary is opened when the first one comes."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._shelf = Shelf(catalog)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def reading(
        self, text: str, steps: int, emphasis: Emphasis = Emphasis.ORIGINAL
    ) -> dict[str, Any]:
        """How full the chunks are at most, the tokens of the first step, and which embeddings and
        networks were found, as JSON values."""
        words = lifted(text)[0]
        files = {file.embedding.name: file.embedding for file in self._shelf.files()}
        tokenizer = self.tokenizer.knowing(files.values()) if files else self.tokenizer
        count = tokenizer.count(words, steps, emphasis=emphasis)
        named = tokenizer.embeddings_in(words, steps, emphasis=emphasis) if files else ()
        return {
            "tokens": count.tokens,
            "room": count.room,
            "networks": self._networks(text, steps),
            "embeddings": [
                {
                    "name": name,
                    "vectors": files[name].count,
                    "made_for": made_for(files[name]),
                    "is_ordinary": self.tokenizer.is_ordinary(name),
                }
                for name in named
            ],
            "parts": [
                {
                    "weight": part.weight,
                    "chunks": [
                        [_shown(token) for token in chunk.tokens]
                        for chunk in tokenizer.chunks(part)
                    ],
                }
                for part in read(words, emphasis=emphasis).at(0, steps)
            ],
        }

    def _networks(self, text: str, steps: int) -> list[dict[str, Any]]:
        """Each `<kind:…>` of a prompt, and what is wrong with it, if anything is."""
        try:
            found = networks(text, steps)
        except RequestError as error:
            return [{"tag": "", "problem": str(error)}]
        told = [
            {"tag": f"<{tag.kind}:{tag.arguments}>", "problem": "no such kind of network is known"}
            for tag in found.unknown
        ]
        kinds = {LORA: Kind.LORA, HYPERNET: Kind.HYPERNETWORK}
        for use in found.uses:
            tag, problem = f"<{use.kind}:{use.name}:{use.weight:g}>", ""
            try:
                self._catalog.file(kinds[use.kind], use.name)
            except VitrineError as error:
                problem = str(error)
            told.append({"tag": tag, "problem": problem})
        return told


def _shown(token: Token) -> dict[str, Any]:
    vector = token.vector
    told = {"id": token.id, "text": token.text, "weight": token.weight}
    if vector is None:
        return told
    return told | {"text": vector.name, "vector": vector.index + 1, "vectors": vector.count}


def routes(catalog: Catalog) -> APIRouter:
    router, reader = APIRouter(), Reader(catalog)

    @router.post("/api/tokens")
    async def tokens(request: Request) -> dict[str, Any]:
        """{"text": prompt, "steps": 20, "emphasis": "original"} in; see `Reader.reading`."""
        asked = await json_body(request)
        fields = asked if isinstance(asked, dict) else {}
        text, steps = fields.get("text"), fields.get("steps", 20)
        if not isinstance(text, str) or len(text) > MAX_PROMPT:
            raise RequestError(f"text must be a prompt of at most {MAX_PROMPT:,} letters", "text")
        low, high = BOUNDS["steps"]
        if not isinstance(steps, int) or not low <= steps <= high:
            raise RequestError(f"steps must be a whole number from {low} to {high}", "steps")
        try:
            emphasis = Emphasis(fields.get("emphasis", Emphasis.ORIGINAL))
        except ValueError as error:
            there = ", ".join(Emphasis)
            raise RequestError(f"no such emphasis; there are: {there}", "emphasis") from error
        return await run_in_threadpool(reader.reading, text, steps, emphasis)

    return router
