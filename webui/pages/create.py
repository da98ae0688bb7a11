"""The page where pictures are made: what is drawn, and how it is wired.

Handlers are short: they read the form and hand a request to the engine, which runs it on its own
thread. What then happens is drawn by the stage (webui/pages/timeline.py) from the job's events.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.engine.engine import Engine
from core.errors import VitrineError
from core.registry import Registry
from webui import form
from webui.assets import Assets
from webui.form import AUTOMATIC, OPTION_FIELDS, Field
from webui.pages import timeline
from webui.show import unexpected
from webui.stream import Stage

Choices = Mapping[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Create:
    """The page's components. `inputs` is by field name: the form, whatever its order."""

    inputs: Mapping[str, Any]
    generate: gr.Button
    stop: gr.Button
    skip: gr.Button
    discard: gr.Button
    reply: gr.JSON
    fill: gr.Button


def page(stage: Stage, engine: Engine, files: Assets) -> gr.Blocks:
    with gr.Blocks(
        title="Vitrine", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as demo:
        drawn = draw(choices(engine), beginnings(engine), files)
        wire(demo, drawn, stage, engine, files)
    return demo


def choices(engine: Engine) -> Choices:
    """(title, name) of everything a person can choose, by field."""
    registry: Registry = engine.registry
    return {
        "checkpoint": [(file.title, file.name) for file in engine.catalog.checkpoints()],
        "vae": [(file.name, file.name) for file in engine.catalog.vaes()],
        "sampler": [(entry.title, entry.name) for entry in registry.samplers.values()],
        "schedule": [
            ("Automatic", AUTOMATIC),
            *((entry.title, entry.name) for entry in registry.schedules.values()),
        ],
    }


def beginnings(engine: Engine) -> Mapping[str, Any]:
    """What the form says before anybody touched it: the default model, and its favourites."""
    try:
        checkpoint = engine.catalog.default()
    except VitrineError:
        return {}
    return {"checkpoint": checkpoint.name, **form.defaults(checkpoint.defaults)}


def draw(choices: Choices, beginnings: Mapping[str, Any], files: Assets) -> Create:
    """Everything on the page, and nothing of what it does."""
    inputs: dict[str, Any] = {}

    def put(*names: str) -> None:
        for name in names:
            field = form.BY_NAME[name]
            inputs[name] = widget(field, beginnings.get(name, field.default), choices)

    gr.HTML(html_template=files.text("header.html"), elem_id="v-header", apply_default_css=False)
    with gr.Row(elem_id="v-room"):
        with gr.Column(elem_id="v-compose"):
            with gr.Column(elem_id="v-dock"):
                put("prompt")
                with gr.Row(elem_id="v-actions"):
                    generate = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
                    stop = gr.Button("Stop", variant="primary", elem_id="txt2img_interrupt")
                    skip = gr.Button("Next image", elem_id="txt2img_skip")
                    discard = gr.Button("Discard", elem_id="txt2img_discard")
            gr.HTML(
                html_template=files.text("tokens.html"),
                elem_id="v-tokens",
                apply_default_css=False,
                js_on_load=None,
            )
            gr.HTML(
                html_template=files.text("examples.html"),
                elem_id="v-examples",
                apply_default_css=False,
                js_on_load=None,
            )
            with gr.Column(elem_id="v-settings"):
                gr.HTML(
                    html_template=files.text("fold.html"),
                    elem_id="v-fold",
                    apply_default_css=False,
                    js_on_load=None,
                )
                with gr.Column(elem_id="v-folded"):
                    put("negative_prompt", "checkpoint")
                    with gr.Row(elem_classes="v-pair"):
                        put("sampler", "schedule")
                    put("steps", "cfg_scale")
                    with gr.Row(elem_classes="v-pair"):
                        put("width", "height")
                    put("seed")
                    gr.HTML(
                        html_template=files.text("seed.html"),
                        elem_id="v-seed",
                        apply_default_css=False,
                        js_on_load=None,
                    )
                    put("images")
                    with gr.Accordion("More", open=False, elem_id="v-more"):
                        with gr.Row(elem_classes="v-options"):
                            put(*(field.name for field in OPTION_FIELDS))
                        with gr.Row(elem_classes="v-options"):
                            put("variation.strength", "variation.seed", "clip_skip", "ensd")
                        with gr.Row(elem_classes="v-options"):
                            put("emphasis", "noise")
                        put("vae")
        with gr.Column(elem_id="v-stage"):
            timeline.draw(files)
    reply = gr.JSON(visible="hidden", elem_id="v-reply")
    fill = gr.Button("Fill", visible="hidden", elem_id="v-fill")
    return Create(inputs, generate, stop, skip, discard, reply, fill)


def widget(field: Field, value: Any, choices: Choices) -> Any:
    """The one widget for a field; bounds and words from the table."""
    common: dict[str, Any] = {
        "label": field.label,
        "elem_id": field.elem_id,
        "info": field.help or None,
    }
    if field.kind == "text":
        main = field.name == "prompt"
        return gr.Textbox(
            **common,
            value=value,
            lines=4 if main else 2,
            max_lines=12,
            placeholder="a red apple on a blue background" if main else None,
        )
    if field.is_typed:
        return gr.Textbox(
            **common,
            value="" if value is None else str(value),
            max_lines=1,
            placeholder="random" if field.kind == "seed" else "automatic",
            min_width=90,
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
    if field.kind == "choice":
        offered = [*field.choices] or choices[field.name]
        if field.unset is not None:
            offered, value = [(field.unset, ""), *offered], value or ""
        return gr.Dropdown(offered, **common, value=value, min_width=90)
    if field.slider is not None:
        low, high = field.slider
        return gr.Slider(
            low,
            high,
            **common,
            value=value,
            step=field.step,
            precision=0 if field.kind == "whole" else None,
            buttons=[],
        )
    return gr.Number(**common, value=value, step=field.step, min_width=90)


def wire(demo: gr.Blocks, drawn: Create, stage: Stage, engine: Engine, files: Assets) -> None:
    """What happens when something is pressed or changed."""
    registry: Registry = engine.registry
    inputs = drawn.inputs
    names = json.dumps(list(inputs))
    main = json.dumps(files.url("main.js"))
    widgets = list(inputs.values())

    def script(call: str) -> str:
        """A listener in the browser: the form's values, in the order of `names`."""
        return f"async (...values) => (await import({main})).page.{call}"

    def on_generate(values: dict[Any, Any], request: gr.Request) -> dict[str, Any]:
        by_name = {name: values.get(component) for name, component in inputs.items()}
        owner = str(request.request.scope["vitrine.owner"]) if request.request else ""
        return submitted(by_name, owner, stage, registry)

    def on_load() -> Any:
        """Models may have come since the page was built."""
        return gr.Dropdown(choices=choices(engine)["checkpoint"])

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    drawn.generate.click(
        on_generate, inputs={*widgets}, outputs=drawn.reply, preprocess=False, **quiet
    ).then(None, inputs=drawn.reply, js=script("replied(values[0])"), **quiet)
    drawn.stop.click(None, js=script("stop()"), **quiet)
    drawn.skip.click(None, js=script("skip()"), **quiet)
    drawn.discard.click(None, js=script("discard()"), **quiet)
    drawn.fill.click(
        None, inputs=widgets, outputs=widgets, js=script(f"filled({names}, values)"), **quiet
    )
    gr.on(
        [component.change for component in widgets],
        None,
        inputs=widgets,
        js=script(f"changed({names}, values)"),
        **quiet,
    )
    demo.load(on_load, outputs=inputs["checkpoint"], **quiet)
    demo.load(
        None, inputs=widgets, outputs=widgets, js=script(f"recalled({names}, values)"), **quiet
    )


def submitted(
    values: Mapping[str, Any], owner: str, stage: Stage, registry: Registry
) -> dict[str, Any]:
    """What the page is told after Generate: the job's id, or what is wrong, by field."""
    nonce = secrets.token_hex(4)
    try:
        job = stage.submit(form.read(values, registry), owner)
    except form.FormError as error:
        return {"nonce": nonce, "errors": error.errors}
    except VitrineError as error:
        field = getattr(error, "field", None) or ""
        return {"nonce": nonce, "errors": {field: str(error)}}
    except Exception as error:
        return {"nonce": nonce, "errors": {"": unexpected(error)}}
    return {"nonce": nonce, "job": job.id}
