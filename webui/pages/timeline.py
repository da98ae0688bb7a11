"""The stage: the picture, its timeline and the session's images, as one component of our own.

The markup is static/stage.html; what moves in it are the modules in static/. Nothing of a request
is ever written into the markup: scripts show it as text.
"""

from __future__ import annotations

import json

import gradio as gr

from webui.assets import Assets


def draw(files: Assets) -> gr.HTML:
    main = json.dumps(files.url("main.js"))
    return gr.HTML(
        html_template=files.text("stage.html"),
        elem_id="v-timeline",
        apply_default_css=False,
        js_on_load=f"import({main}).then((module) => module.page.mount(element))",
    )
