"""What the model will read of a prompt: its tokens, chunk by chunk, while it is being typed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.errors import RequestError
from core.resolve import BOUNDS, MAX_PROMPT
from core.text.prompt import lifted, read
from core.text.tokenizer import Tokenizer
from webui.stream import json_body


class Reader:
    """Reads prompts; the vocabulary is opened when the first one comes."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def reading(self, text: str, steps: int) -> dict[str, Any]:
        """How full the chunks are at most, and the tokens of the first step, as JSON values."""
        words, tags = lifted(text)
        count = self.tokenizer.count(words, steps)
        return {
            "tokens": count.tokens,
            "room": count.room,
            "left_out": [f"<{tag.kind}:{tag.arguments}>" for tag in tags],
            "parts": [
                {
                    "weight": part.weight,
                    "chunks": [
                        [{"id": t.id, "text": t.text, "weight": t.weight} for t in chunk.tokens]
                        for chunk in self.tokenizer.chunks(part)
                    ],
                }
                for part in read(words).at(0, steps)
            ],
        }


def routes() -> APIRouter:
    router, reader = APIRouter(), Reader()

    @router.post("/api/tokens")
    async def tokens(request: Request) -> dict[str, Any]:
        """{"text": prompt, "steps": 20} in; see `Reader.reading`."""
        asked = await json_body(request)
        fields = asked if isinstance(asked, dict) else {}
        text, steps = fields.get("text"), fields.get("steps", 20)
        if not isinstance(text, str) or len(text) > MAX_PROMPT:
            raise RequestError(f"text must be a prompt of at most {MAX_PROMPT:,} letters", "text")
        low, high = BOUNDS["steps"]
        if not isinstance(steps, int) or not low <= steps <= high:
            raise RequestError(f"steps must be a whole number from {low} to {high}", "steps")
        return await run_in_threadpool(reader.reading, text, steps)

    return router
