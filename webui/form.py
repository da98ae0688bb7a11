"""Values of the form to a request, and back: by one table, whatever draws it.

The page is drawn from the table, and it is read, filled from a picture and reset through it; no
list of positions exists anywhere. It knows values, not widgets.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from typing import Any

from core.errors import RequestError
from core.registry import Registry
from core.request import (
    ControlUse,
    Emphasis,
    Enlarge,
    Fill,
    GenerationRequest,
    NoiseKind,
    Refine,
    Resize,
    SamplerOptions,
    ScheduleOptions,
    StartImage,
    Variation,
    as_json,
    read_json,
)
from webui import panels
from webui.fields import (
    AUTOMATIC,
    BASIC,
    ENLARGE,
    ENLARGES,
    MODE,
    MORE,
    OPTION,
    OPTIONS,
    REFINE,
    SCHEDULE_OPTION,
    START,
    TUPLES,
    VARIATION,
    WORDS,
    Field,
    Place,
)
from webui.picture_fields import ENLARGE_FIELDS, GUIDE_FIELDS, REFINE_FIELDS, START_FIELDS

__all__ = ["AUTOMATIC", "BY_NAME", "FIELDS", "MODE", "OPTION", "Field"]

FIELDS: tuple[Field, ...] = (
    *WORDS,
    *BASIC,
    *OPTIONS,
    *MORE,
    *START_FIELDS,
    *ENLARGE_FIELDS,
    *REFINE_FIELDS,
    *GUIDE_FIELDS,
)
BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}
OPTION_FIELDS = OPTIONS
"""Those that only some samplers or schedules take."""

_KINDS: Mapping[str, type[enum.Enum]] = {
    "emphasis": Emphasis,
    "noise": NoiseKind,
    "start.resize": Resize,
    "start.fill": Fill,
}
_YES_NO = {"yes": True, "no": False}
_OF_IMAGE = frozenset(START + name for name in ("picture", "depth", "strength", "resize"))
"""What acts of the start where there is no mask."""


class FormError(RequestError):
    """Wrong values, each by its field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(errors.values()), next(iter(errors), None))
        self.errors = dict(errors)


def placed(place: Place) -> tuple[Field, ...]:
    """The fields of one place on the page."""
    return tuple(field for field in FIELDS if field.place == place)


def read(values: Mapping[str, Any], registry: Registry) -> GenerationRequest:
    """The form's values, by field name, as a request. An absent field keeps its default.

    What does not act is left out, whatever its value: an option that the chosen sampler does not
    take, the mask where nothing is inpainted, a second pass that is off.

    Raises:
        FormError: names every field that can't be read, with a sentence for each.
    """
    read: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in FIELDS:
        if not _acts(field, values):
            continue
        try:
            read[field.name] = _read(field, values.get(field.name, field.default))
        except ValueError as error:
            errors[field.name] = str(error)
    errors |= _missing(read)
    if errors:
        raise FormError(errors)
    taken = registry.sampler(read["sampler"]).options
    options = _part(read, OPTION)
    shaping = _shaping(_part(read, SCHEDULE_OPTION), read["sampler"], read["schedule"], registry)
    variation = _part(read, VARIATION)
    start, enlarge, refine = (_part(read, part) for part in (START, ENLARGE, REFINE))
    del read[MODE]
    return GenerationRequest(
        **{name: value for name, value in read.items() if value is not None},
        sampler_options=SamplerOptions(**{k: v for k, v in options.items() if k in taken}),
        schedule_options=ScheduleOptions(**shaping),
        variation=Variation(**variation)
        if variation["strength"] or variation["resize_from"]
        else None,
        start=StartImage(**start) if start else None,
        enlarge=Enlarge(**_without(enlarge, "on")) if enlarge.get("on") else None,
        refine=Refine(**refine) if refine.get("checkpoint") else None,
    )


def written(request: GenerationRequest) -> dict[str, Any]:
    """The form's values for a request, by field name: what `read` turns into it again.

    Of a part that the request has not, only that it is not there: its other values stay.
    """
    values: dict[str, Any] = {}
    for field in FIELDS:
        part = field.name.partition(".")[0]
        absent = part in ("start", "enlarge", "refine") and getattr(request, part) is None
        if field.name in (MODE, ENLARGES) or absent:
            continue
        values[field.name] = _written(field, _value(request, field.name))
    values[MODE] = _mode(request.start)
    values[ENLARGES] = request.enlarge is not None
    if request.refine is None:
        values["refine.checkpoint"] = ""
    if not isinstance(request.schedule, str):
        values["schedule"] = AUTOMATIC
    if request.variation is None:
        values["variation.strength"] = BY_NAME["variation.strength"].default
    return values | panels.flat(request)


_ELSEWHERE = ("record", "extras")
"""What the page keeps for itself, and what panels of extensions show."""


def not_written(request: GenerationRequest) -> list[str]:
    """Sentences on what of a request the form has no place for."""
    notes = []
    if not isinstance(request.schedule, str):
        notes.append("The noise levels were drawn by hand; the sampler's own are used instead.")
    plain = GenerationRequest(prompt="")
    on_form = {name.partition(".")[0] for name in BY_NAME}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        is_plain = value == getattr(plain, field.name)
        if field.name not in on_form and field.name not in _ELSEWHERE and not is_plain:
            notes.append(f"This page has no place for {field.name.replace('_', ' ')} yet.")
    return notes


def defaults(checkpoint_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What choosing a checkpoint sets: its own size (left empty) and its own favourites."""
    fields = [BY_NAME[name] for name in ("width", "height", "steps", "cfg_scale")]
    values = {field.name: "" if field.is_typed else field.default for field in fields}
    for name, value in checkpoint_defaults.items():
        if name in BY_NAME:
            values[name] = int(value) if BY_NAME[name].kind == "whole" else value
    return values


def _mode(start: StartImage | None) -> str:
    if start is None:
        return "text"
    return "image" if start.mask is None and not start.extend else "inpaint"


def _acts(field: Field, values: Mapping[str, Any]) -> bool:
    """Whether a field counts, by what else is chosen."""
    if field.name.startswith(START):
        mode = values.get(MODE) or "text"
        return mode == "inpaint" or (mode == "image" and field.name in _OF_IMAGE)
    if field.name.startswith(ENLARGE):
        return bool(values.get(ENLARGES))
    if field.name.startswith(REFINE):
        return bool(values.get("refine.checkpoint"))
    return True


def _missing(read: dict[str, Any]) -> dict[str, str]:
    """What is wrong between fields; joins the numbers of a tuple on the way."""
    errors = {}
    for name, ends in TUPLES.items():
        given = [read.pop(f"{name}.{end}") for end in ends if f"{name}.{end}" in read]
        if name == "start.extend":
            numbers = tuple(number or 0 for number in given)
            read[name] = numbers if any(numbers) else ()
        elif len(given) == len(ends):
            read[name] = None if None in given else tuple(given)
            if read[name] is None and any(given):
                missing = f"{name}.{ends[given.index(None)]}"
                errors[missing] = f"{BY_NAME[missing].label} is missing: both are needed, or none."
    mode = read.get(MODE)
    if mode not in ("image", "inpaint"):
        read.pop("start.extend", None)
    elif not read.get("start.picture"):
        errors["start.picture"] = "Choose a picture to begin from first, or draw one."
    elif mode == "inpaint" and not read.get("start.mask") and not read["start.extend"]:
        errors["start.mask"] = "Paint over what is to change first, or extend the picture."
    return errors


def _shaping(
    options: dict[str, Any], sampler: str, schedule: str, registry: Registry
) -> dict[str, Any]:
    """The options of the schedule that it takes."""
    name = registry.sampler(sampler).schedule if schedule == AUTOMATIC else schedule
    taken = {"discard_penultimate", "round_timesteps", *registry.schedule(name).options}
    options["discard_penultimate"] = _YES_NO.get(options["discard_penultimate"])
    return {name: value for name, value in options.items() if name in taken}


def _value(request: GenerationRequest, path: str) -> Any:
    """The value at a path of names; None where a part on the way is not there."""
    value: Any = request
    for group, ends in TUPLES.items():
        if path.startswith(group + "."):
            numbers = _value(request, group)
            return numbers[ends.index(path.rpartition(".")[2])] if numbers else None
    for name in path.split("."):
        value = getattr(value, name) if value is not None else None
    return value


def _written(field: Field, value: Any) -> Any:
    """One value as its widget holds it."""
    if field.kind == "guides":
        return json.dumps(as_json(value)) if value else ""
    if isinstance(value, enum.Enum):
        return value.value
    if field.kind == "choice" and isinstance(value, bool):
        return "yes" if value else "no"
    if value is None and (field.is_typed or field.unset is not None):
        return ""
    if value is None and field.kind in ("text", "picture"):
        return ""
    if field.is_typed:
        return repr(value).removesuffix(".0")
    return value


def _part(read: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Takes out the values of one part of the request, by its own field names."""
    return {
        name.removeprefix(prefix): read.pop(name) for name in list(read) if name.startswith(prefix)
    }


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _read(field: Field, value: Any) -> Any:
    """One value; None where the house decides. Raises ValueError with a sentence."""
    if field.kind in ("text", "picture"):
        return _text(field, value)
    if field.kind == "guides":
        return _guides(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        value = field.default
    if value is None:
        return None
    if field.kind == "flag":
        if not isinstance(value, bool):
            raise ValueError(f"{field.label} must be on or off.")
        return value
    if field.kind == "choice":
        if not isinstance(value, str):
            raise ValueError(f"{field.label} must be one of the list.")
        if field.choices and value not in [name for _, name in field.choices]:
            raise ValueError(f"{field.label} must be one of the list.")
        return _KINDS[field.name](value) if field.name in _KINDS else value
    number = _number(field, value)
    if field.kind == "seed" and number == -1:  # A1111's word for "a new one each time"
        return None
    limits = field.limits
    if limits is not None and not limits[0] <= number <= limits[1]:
        raise ValueError(f"{field.label} lies between {limits[0]:,} and {limits[1]:,}.")
    return number


def _text(field: Field, value: Any) -> str | None:
    if value is None or (value == "" and field.kind == "picture"):
        value = field.default
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field.label} must be text.")
    # No words, or no picture, of its own.
    return value if value or field.name in ("prompt", "negative_prompt") else None


def _guides(value: Any) -> tuple[ControlUse, ...]:
    """The guides, which the page keeps as JSON in one text."""
    if value in (None, ""):
        return ()
    try:
        uses = json.loads(value)
        if not isinstance(uses, list):
            raise ValueError("Guides must be a list.")
        return tuple(read_json(ControlUse, use, f"controls[{n}].") for n, use in enumerate(uses))
    except (TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError("Guides could not be read.") from error
    except RequestError as error:
        raise ValueError(str(error)) from error


def _number(field: Field, value: Any) -> int | float:
    """`value` as a finite number of the field's kind; large seeds keep every digit."""
    whole = field.kind in ("whole", "seed")
    wanted = "a whole number" if whole else "a number"
    problem = ValueError(f"{field.label} must be {wanted}.")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise problem
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40:
            raise problem
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise problem from None
    if isinstance(value, float) and (not math.isfinite(value) or (whole and value % 1)):
        raise problem
    return int(value) if whole else float(value) if abs(value) < 2**1000 else _too_large(problem)


def _too_large(problem: ValueError) -> float:
    raise problem
