"""Panels of extensions in the form: fields drawn from their settings, read into a request's extras.

A field is named extras.NAME.FIELD; extras.NAME.on is the panel's switch. It knows values, and no
widgets.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.additions import settings_of
from core.extend.house import Extensions
from core.registry import Registry
from core.request import GenerationRequest, Json, as_json
from webui.fields import Field, Kind
from webui.hookspecs import Panel

EXTRAS = "extras."


@dataclass(frozen=True)
class Drawn:
    """One panel, ready to be drawn: an accordion with these fields in it."""

    panel: Panel
    switch: Field
    fields: tuple[Field, ...]


def panels(extensions: Extensions | None) -> tuple[Drawn, ...]:
    """Those of the extensions that are on, in order; one that can't be drawn is named."""
    found = []
    for place, panel in extensions.asked("panels") if extensions is not None else ():
        try:
            found.append(drawn(panel))
        except (TypeError, ValueError, AttributeError) as error:
            if extensions is not None:
                extensions.ledger.failed(place.name, f"{place.name}: its panel: {error}")
    return tuple(found)


def drawn(panel: Panel) -> Drawn:
    """The fields of one panel.

    Raises:
        TypeError: a setting is of a kind that has no widget.
    """
    prefix = f"{EXTRAS}{panel.name}."
    switch = _field(prefix, "on", panel.title, "flag", panel.on, {})
    hints = typing.get_type_hints(panel.settings)
    fields = [
        _field(
            prefix,
            one.name,
            one.metadata.get("label") or one.name.replace("_", " ").capitalize(),
            _kind(hints[one.name], one.metadata, one.name),
            as_json(_default(one)),
            {**one.metadata, "choices": _choices(hints[one.name], one.metadata)},
        )
        for one in dataclasses.fields(panel.settings)
    ]
    return Drawn(panel, switch, tuple(fields))


def read(values: Mapping[str, Any], drawn: Sequence[Drawn]) -> dict[str, dict[str, Json]]:
    """The extras that a form's values ask for: of each panel that is switched on.

    Raises:
        RequestError: names the field, as the form does.
    """
    extras: dict[str, dict[str, Json]] = {}
    for one in drawn:
        if not values.get(one.switch.name, one.switch.default):
            continue
        given = {
            field.name.rpartition(".")[2]: values.get(field.name, field.default)
            for field in one.fields
        }
        settings = as_json(settings_of(one.panel.settings, given, one.panel.name))
        assert isinstance(settings, dict)
        extras[one.panel.name] = settings
    return extras


def written(request: GenerationRequest, drawn: Sequence[Drawn]) -> dict[str, Any]:
    """The form's values for a request's extras: what `read` turns into them again."""
    values: dict[str, Any] = {}
    for one in drawn:
        given = request.extras.get(one.panel.name)
        values[one.switch.name] = given is not None
        for field in one.fields:
            if given is not None:
                values[field.name] = given.get(field.name.rpartition(".")[2], field.default)
    return values


def flat(request: GenerationRequest) -> dict[str, Any]:
    """The form's values for the extras of a request, without asking which panels there are: those
    that are not named here are to be switched off."""
    values: dict[str, Any] = {}
    for name, settings in request.extras.items():
        values[f"{EXTRAS}{name}.on"] = True
        values |= {f"{EXTRAS}{name}.{key}": value for key, value in settings.items()}
    return values


def absent(request: GenerationRequest, registry: Registry) -> list[str]:
    """Sentences on extensions that a request names and that are not on here."""
    there = registry.settings_kinds()
    return [
        f"The extension {name} is not on here, so it has no part in this."
        for name in request.extras
        if name not in there
    ]


def _field(
    prefix: str, name: str, label: str, kind: Kind, default: Any, meta: Mapping[str, Any]
) -> Field:
    low, high = meta.get("low"), meta.get("high")
    is_number = kind in ("whole", "number")
    step = meta.get("step") or (1 if kind == "whole" else 0.01)
    return Field(
        name=prefix + name,
        label=label,
        kind=kind,
        place="more",
        help=meta.get("help") or "",
        elem_id=f"v-{prefix}{name}".replace(".", "-").replace("_", "-"),
        default=default,
        slider=(low, high) if is_number and low is not None and high is not None else None,
        step=step,
        choices=tuple((text, text) for text in meta.get("choices") or ()),
    )


def _kind(hint: Any, meta: Mapping[str, Any], name: str) -> Kind:
    if meta.get("choices") or (isinstance(hint, type) and issubclass(hint, enum.Enum)):
        return "choice"
    kinds: dict[Any, Kind] = {bool: "flag", int: "whole", float: "number", str: "text"}
    if hint not in kinds:
        raise TypeError(f"the setting {name} must be bool, int, float, str or an enum")
    return kinds[hint]


def _choices(hint: Any, meta: Mapping[str, Any]) -> Iterable[str]:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return tuple(str(member.value) for member in hint)
    return tuple(meta.get("choices") or ())


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    assert field.default_factory is not dataclasses.MISSING, "a setting has a default"
    return field.default_factory()
