"""The shell: one page, its tabs, and what each of them is given to be drawn with.

A tab is shown by static/shell.js, which keeps its name in the address. What a tab holds is drawn in
the browser when it is opened first, so a tab costs nothing until then.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gradio as gr

from core.engine.engine import Engine
from core.extend.house import Extensions
from core.settings import Settings
from webui.assets import Assets
from webui.stream import Stage


@dataclass(frozen=True)
class Shell:
    """What a tab's draw function is given. It may use `demo` for events of the whole page."""

    demo: gr.Blocks
    stage: Stage
    engine: Engine
    settings: Settings
    files: Assets
    extensions: Extensions | None = None


@dataclass(frozen=True)
class Tab:
    """One page of the house."""

    name: str
    """In the address (`?tab=name`) and for scripts: lower case letters."""
    title: str
    draw: Callable[[Shell], None]
    """Draws the tab's components into the block that is open, and wires them."""


def page(
    tabs: Sequence[Tab],
    stage: Stage,
    engine: Engine,
    settings: Settings,
    files: Assets,
    extensions: Extensions | None = None,
) -> gr.Blocks:
    """The whole page: a header with the way to each tab, and the tabs; the first one is shown."""
    with gr.Blocks(
        title="Vitrine", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as demo:
        shell = Shell(demo, stage, engine, settings, files, extensions)
        _header(tabs, files)
        with gr.Tabs(elem_id="tabs"):
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.name, elem_id=f"tab_{tab.name}"):
                    tab.draw(shell)
    return demo


def own(files: Assets, name: str) -> gr.HTML:
    """A component of our own: `name`.html, brought to life by `mount` of `name`.js when it is
    drawn first."""
    script = json.dumps(files.url(f"{name}.js"))
    return gr.HTML(
        html_template=files.text(f"{name}.html"),
        elem_id=f"v-{name}",
        apply_default_css=False,
        js_on_load=f"import({script}).then((module) => module.mount(element))",
    )


def _header(tabs: Sequence[Tab], files: Assets) -> None:
    links = "".join(
        f'<a href="?tab={html.escape(tab.name)}" data-tab="{html.escape(tab.name)}">'
        f"{html.escape(tab.title)}</a>"
        for tab in tabs
    )
    script = json.dumps(files.url("shell.js"))
    gr.HTML(
        html_template=files.text("header.html").replace("<!-- tabs -->", links),
        elem_id="v-header",
        apply_default_css=False,
        js_on_load=f"import({script}).then((module) => module.mount(element))",
    )
