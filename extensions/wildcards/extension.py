"""`{a|b|c}` and `__colour__` in prompts: one of several, drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import RequestError
from core.extend import Place, RequestStep, hookimpl, setting
from core.request import GenerationRequest
from webui.hookspecs import Panel

from .grammar import GrammarError, drawn
from .lists import Lists

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Settings:
    negative: bool = setting(True, help="In the negative prompt as well.")


def drawing(lists: Lists) -> Callable[[GenerationRequest, Settings], GenerationRequest]:
    def step(request: GenerationRequest, settings: Settings) -> GenerationRequest:
        """The prompts with one of each choice; the same seed draws the same."""
        fields = ["prompt", *(["negative_prompt"] if settings.negative else [])]
        changes = {}
        for name in fields:
            try:
                changes[name] = drawn(getattr(request, name), f"{name} {request.seed}", lists)
            except GrammarError as error:
                raise RequestError(f"wildcards: {error}", name) from error
        return replace(request, **changes)

    return step


@hookimpl
def request_steps(place: Place) -> list[RequestStep]:
    lists = Lists((place.data, place.folder / "lists"))
    return [RequestStep("wildcards", Settings, drawing(lists))]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("wildcards", Settings, "Wildcards", on=True)]
