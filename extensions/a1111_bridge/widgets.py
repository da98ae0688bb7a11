"""The widgets that a script draws, as fields of a settings dataclass. They are never shown: the
panel draws its own from the settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Widget:
    """One setting."""

    name: str
    kind: type
    default: Any
    metadata: dict[str, Any]


def drawn_widgets(draw: Callable[[], Any]) -> list[Widget]:
    """What `draw` gives, in order; last a mark of the bridge's own, `done`.

    Raises:
        TypeError: a widget is of a kind that is no setting.
    """
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        given = draw() or []
    found: list[Widget] = []
    for widget in given:
        name = _name(widget.label or f"value {len(found) + 1}", {one.name for one in found})
        metadata: dict[str, Any] = {
            "label": widget.label,
            "help": getattr(widget, "info", "") or "",
        }
        if isinstance(widget, gr.Checkbox):
            found.append(Widget(name, bool, bool(widget.value), metadata))
        elif isinstance(widget, gr.Slider):
            is_whole = all(float(n).is_integer() for n in (widget.step, widget.minimum))
            kind = int if is_whole else float
            metadata |= {"low": widget.minimum, "high": widget.maximum, "step": widget.step}
            found.append(Widget(name, kind, kind(widget.value or widget.minimum), metadata))
        elif isinstance(widget, gr.Number):
            found.append(Widget(name, float, float(widget.value or 0), metadata))
        elif isinstance(widget, gr.Radio | gr.Dropdown):
            choices = tuple(str(value) for _, value in widget.choices)
            value = str(widget.value) if widget.value is not None else choices[0]
            found.append(Widget(name, str, value, metadata | {"choices": choices}))
        elif isinstance(widget, gr.Textbox):
            found.append(Widget(name, str, str(widget.value or ""), metadata))
        else:
            raise TypeError(f"its widget {type(widget).__name__} can't be a setting")
    mark = {"label": "Done already", "help": "Set by the house once the script has acted."}
    return [*found, Widget("done", bool, False, mark)]


def _name(label: str, taken: set[str]) -> str:
    """A field's name from its words."""
    plain = re.sub(r"\W+", "_", label.lower()).strip("_") or "value"
    plain = f"a_{plain}" if plain[0].isdigit() else plain
    name, number = plain, 2
    while name in taken or name == "done":
        name, number = f"{plain}_{number}", number + 1
    return name
