"""What can vary along an axis, and the requests of a grid. It knows no page."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.errors import RequestError
from core.request import GenerationRequest

MOST = 100
"""Pictures of one grid."""

_RANGE = re.compile(r"(-?[\d.]+)\s*-\s*(-?[\d.]+)(?:\s*\(([+-]?[\d.]+)\)|\s*\[(\d+)\])?")


@dataclass(frozen=True)
class Axis:
    """One thing that varies."""

    title: str
    kind: type
    change: Callable[[GenerationRequest, Any, Sequence[Any]], GenerationRequest]
    """(request, value, all values of this axis) -> request"""


def _setting(name: str) -> Callable[[GenerationRequest, Any, Sequence[Any]], GenerationRequest]:
    return lambda request, value, values: replace(request, **{name: value})


def _words(request: GenerationRequest, value: str, values: Sequence[str]) -> GenerationRequest:
    """The first value stands in the prompt; each of them takes its place."""
    if values[0] not in request.prompt + request.negative_prompt:
        raise RequestError(f"{values[0]!r} is in neither prompt", "prompt")
    return replace(
        request,
        prompt=request.prompt.replace(values[0], value),
        negative_prompt=request.negative_prompt.replace(values[0], value),
    )


AXES = {
    "steps": Axis("Steps", int, _setting("steps")),
    "cfg_scale": Axis("CFG scale", float, _setting("cfg_scale")),
    "seed": Axis("Seed", int, _setting("seed")),
    "sampler": Axis("Sampler", str, _setting("sampler")),
    "schedule": Axis("Schedule", str, _setting("schedule")),
    "checkpoint": Axis("Checkpoint", str, _setting("checkpoint")),
    "clip_skip": Axis("Clip skip", int, _setting("clip_skip")),
    "width": Axis("Width", int, _setting("width")),
    "height": Axis("Height", int, _setting("height")),
    "words": Axis("Words of the prompt", str, _words),
}


def values(text: str, axis: Axis) -> list[Any]:
    """What was typed, as values of an axis.

    Raises:
        RequestError: names what can't be read.
    """
    parts = [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]
    found: list[Any] = []
    for part in filter(None, parts):
        if axis.kind is str:
            found.append(part)
            continue
        try:
            spread = _RANGE.fullmatch(part)
            found += _spread(spread, axis.kind) if spread else [axis.kind(part)]
        except (ValueError, OverflowError) as error:
            raise RequestError(f"{part[:40]!r} is no value for {axis.title}") from error
        if len(found) > MOST:
            raise RequestError(f"a grid has at most {MOST} pictures")
    if not found:
        raise RequestError(f"{axis.title} has no values yet")
    return found


def _spread(found: re.Match[str], kind: type) -> Iterator[Any]:
    """A range, its ends included."""
    first, last = float(found[1]), float(found[2])
    if found[4]:
        count = int(found[4])
        steps = [
            first + (last - first) * i / max(1, count - 1) for i in range(min(count, MOST + 1))
        ]
    else:
        width = abs(float(found[3] or 1)) * (1 if last >= first else -1)
        if not width:
            raise ValueError("a range needs a step")
        count = int((last - first) / width + 1e-9) + 1
        steps = [first + width * i for i in range(min(count, MOST + 1))]
    return (kind(round(step) if kind is int else round(step, 6)) for step in steps)


@dataclass(frozen=True)
class Cell:
    """One picture of a grid."""

    x: int
    y: int
    z: int
    request: GenerationRequest


def cells(
    request: GenerationRequest, along: Sequence[tuple[Axis, Sequence[Any]] | None]
) -> list[Cell]:
    """The pictures of a grid along x, y and z; None where nothing varies.

    Raises:
        RequestError: there are too many.
    """
    columns = [[None] if axis is None else list(axis[1]) for axis in along]
    count = len(columns[0]) * len(columns[1]) * len(columns[2])
    if count > MOST:
        raise RequestError(f"that is {count} pictures; a grid has at most {MOST}")
    found = []
    for z, y, x in itertools.product(*(range(len(column)) for column in reversed(columns))):
        changed = request
        for axis, index in zip(along, (x, y, z), strict=True):
            if axis is not None:
                changed = axis[0].change(changed, axis[1][index], axis[1])
        found.append(Cell(x, y, z, changed))
    return found
