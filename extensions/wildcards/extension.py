"""`{a|b|c}` and `__colour__` in prompts: one of several, drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import RequestError
from core.extend import Place, RequestStep, hookimpl, setting
from core.request import GenerationRequest, Wording
from webui.hookspecs import Panel

from .grammar import GrammarError, drawn
from .lists import Lists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Settings:
    negative: bool = setting(True, help="In the negative prompt as well.")


def drawing(lists: Lists) -> Callable[[GenerationRequest, Settings], GenerationRequest]:
    def step(request: GenerationRequest, settings: Settings) -> GenerationRequest:
        """The prompts with one of each choice, drawn for each image from its own seed."""
        if request.prompts:  # what was drawn stays
            return request
        fields = ("prompt", "negative_prompt") if settings.negative else ("prompt",)
        told = [worded(request, image, fields, lists) for image in range(request.images)]
        first = told[0]
        request = replace(request, prompt=first.prompt, negative_prompt=first.negative_prompt)
        return request if set(told) == {first} else replace(request, prompts=tuple(told))

    return step


def worded(request: GenerationRequest, image: int, fields: Sequence[str], lists: Lists) -> Wording:
    """What one image is told; `fields` are drawn, the others stay."""
    assert request.seed is not None, "a step is done to a complete request"
    told = Wording(prompt=request.prompt, negative_prompt=request.negative_prompt)
    for name in fields:
        try:
            text = drawn(getattr(request, name), f"{name} {request.seed + image}", lists)
        except GrammarError as error:
            raise RequestError(f"wildcards: {error}", name) from error
        told = replace(told, **{name: text})
    return told


@hookimpl
def request_steps(place: Place) -> list[RequestStep]:
    lists = Lists((place.data, place.folder / "lists"))
    return [RequestStep("wildcards", Settings, drawing(lists))]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("wildcards", Settings, "Wildcards", on=True)]
