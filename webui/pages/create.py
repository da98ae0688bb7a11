"""The page where pictures are made: what is drawn, and how it is wired.

Handlers are short: they read the form and hand a request to the engine, which runs it on its own
thread. What then happens is drawn by the stage (webui/pages/timeline.py) from the job's events.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core.engine.engine import Engine
from core.errors import VitrineError
from core.images.resize import FILTERS
from core.models.kinds import Kind
from core.registry import Registry
from webui import form, panels
from webui.assets import Assets
from webui.fields import AUTOMATIC, MODE, Field
from webui.form import placed
from webui.pages import timeline
from webui.picture_fields import LATENT_UPSCALERS
from webui.shell import Shell
from webui.show import unexpected
from webui.stream import Stage

Choices = Mapping[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Create:
    """The page's components. `inputs` is by field name: the form, whatever its order."""

    inputs: Mapping[str, Any]
    begun: gr.Column
    """What is asked of a picture to begin from."""
    masked: gr.Column
    """What is asked of its mask."""
    generate: gr.Button
    stop: gr.Button
    skip: gr.Button
    discard: gr.Button
    reply: gr.JSON
    fill: gr.Button


def tab(shell: Shell) -> None:
    engine, files = shell.engine, shell.files
    shown = panels.panels(shell.extensions)
    drawn = draw(choices(engine), beginnings(engine), files, shown)
    wire(shell.demo, drawn, shell.stage, engine, files, shown)


def choices(engine: Engine) -> Choices:
    """(title, name) of everything a person can choose, by field or by the last part of its name."""
    registry: Registry = engine.registry
    schedules = [(entry.title, entry.name) for entry in registry.schedules.values()]
    return {
        "checkpoint": [(file.title, file.name) for file in engine.catalog.checkpoints()],
        "vae": [(file.name, file.name) for file in engine.catalog.vaes()],
        "sampler": [(entry.title, entry.name) for entry in registry.samplers.values()],
        "schedule": [("Automatic", AUTOMATIC), *schedules],
        "enlarge.schedule": schedules,
        "upscaler": [(name, name) for name in upscalers(engine)],
    }


def upscalers(engine: Engine) -> list[str]:
    """What can make a picture larger: networks by the names of their files, filters, latents."""
    files = getattr(engine.catalog, "files", None)
    networks = [file.name for file in files(Kind.UPSCALER, wait=False)] if files else []
    return [*LATENT_UPSCALERS, *FILTERS, *networks]


def beginnings(engine: Engine) -> Mapping[str, Any]:
    """What the form says before anybody touched it: the default model, and its favourites."""
    try:
        checkpoint = engine.catalog.default()
    except VitrineError:
        return {}
    return {"checkpoint": checkpoint.name, **form.defaults(checkpoint.defaults)}


class Drawing:
    """Puts the form's widgets where they are asked for, each with its words and its first value."""

    def __init__(self, choices: Choices, beginnings: Mapping[str, Any], files: Assets) -> None:
        self.inputs: dict[str, Any] = {}
        self._choices, self._beginnings, self._files = choices, beginnings, files

    def put(self, *names: str) -> None:
        for name in names:
            field = form.BY_NAME[name]
            value = self._beginnings.get(name, field.default)
            self.inputs[name] = widget(field, value, self._choices)

    def pair(self, *names: str) -> None:
        with gr.Row(elem_classes="v-pair"):
            self.put(*names)

    def panel(self, drawn: panels.Drawn) -> None:
        """The settings of an extension, folded away."""
        with gr.Accordion(drawn.panel.title, open=False):
            for field in (drawn.switch, *drawn.fields):
                self.inputs[field.name] = widget(field, field.default, self._choices)

    def markup(self, name: str, elem_id: str) -> None:
        """A component of our own, from static/{name}.html."""
        gr.HTML(
            html_template=self._files.text(f"{name}.html"),
            elem_id=elem_id,
            apply_default_css=False,
            js_on_load=None,
        )


def draw(
    choices: Choices,
    beginnings: Mapping[str, Any],
    files: Assets,
    shown: Sequence[panels.Drawn] = (),
) -> Create:
    """Everything on the page, and nothing of what it does."""
    drawing = Drawing(choices, beginnings, files)
    put, markup = drawing.put, drawing.markup

    with gr.Row(elem_id="v-room"):
        with gr.Column(elem_id="v-compose"):
            put(MODE)
            with gr.Column(elem_id="v-dock"):
                put("prompt")
                with gr.Row(elem_id="v-actions"):
                    generate = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
                    stop = gr.Button("Stop", variant="primary", elem_id="txt2img_interrupt")
                    skip = gr.Button("Next image", elem_id="txt2img_skip")
                    discard = gr.Button("Discard", elem_id="txt2img_discard")
                    gr.HTML(
                        html_template=files.text("forever.html"),
                        elem_id="v-forever",
                        apply_default_css=False,
                        js_on_load=None,
                    )
                markup("queue", "v-queue")
            markup("tokens", "v-tokens")
            markup("wordings", "v-wordings")
            begun, masked = _start(drawing)
            markup("examples", "v-examples")
            with gr.Column(elem_id="v-settings"):
                markup("fold", "v-fold")
                with gr.Column(elem_id="v-folded"):
                    _settings(drawing)
                    for one in shown:
                        drawing.panel(one)
        with gr.Column(elem_id="v-stage"):
            timeline.draw(files)
    reply = gr.JSON(visible="hidden", elem_id="v-reply")
    fill = gr.Button("Fill", visible="hidden", elem_id="v-fill")
    return Create(drawing.inputs, begun, masked, generate, stop, skip, discard, reply, fill)


def _start(drawing: Drawing) -> tuple[gr.Column, gr.Column]:
    """The picture to begin from. Not in the browser's page until it is asked for."""
    drawing.put("start.picture", "start.mask", "start.depth")
    with gr.Column(visible=False, elem_id="v-begun") as begun:
        drawing.markup("start", "v-start")
        drawing.put("start.strength")
        drawing.markup("axis", "v-axis")
        drawing.put("start.resize")
    with gr.Column(visible=False, elem_id="v-masked") as masked:
        drawing.pair("start.grow", "start.blur")
        drawing.put("start.fill", "start.only_masked", "start.padding")
        drawing.put("start.soft", "start.invert")
        with gr.Accordion("Extend the picture", open=False, elem_id="v-extend"):
            with gr.Row(elem_classes="v-options"):
                drawing.put(*(f"start.extend.{side}" for side in ("left", "top")))
            with gr.Row(elem_classes="v-options"):
                drawing.put(*(f"start.extend.{side}" for side in ("right", "bottom")))
    return begun, masked


def _settings(drawing: Drawing) -> None:
    put, pair, markup = drawing.put, drawing.pair, drawing.markup
    put("negative_prompt", "checkpoint")
    pair("sampler", "schedule")
    put("steps", "cfg_scale")
    pair("width", "height")
    put("seed")
    markup("seed", "v-seed")
    put("images")
    with gr.Accordion("Enlarge", open=False, elem_id="v-enlarge"):
        put("enlarge.on", "enlarge.scale", "enlarge.upscaler", "enlarge.strength")
        pair("enlarge.width", "enlarge.height")
        pair("enlarge.steps", "enlarge.cfg_scale")
        pair("enlarge.sampler", "enlarge.schedule")
        put("enlarge.checkpoint", "enlarge.prompt", "enlarge.negative_prompt")
    with gr.Accordion("Guides", open=False, elem_id="v-guides-fold"):
        markup("guides", "v-guides")
    put("controls")
    with gr.Accordion("Refine", open=False, elem_id="v-refine"):
        put(*(field.name for field in placed("refine")))
    with gr.Accordion("More", open=False, elem_id="v-more"):
        with gr.Row(elem_classes="v-options"):
            put(*(field.name for field in form.OPTION_FIELDS))
        with gr.Row(elem_classes="v-options"):
            put("variation.strength", "variation.seed")
        with gr.Row(elem_classes="v-options"):
            put("variation.resize_from.width", "variation.resize_from.height")
        with gr.Row(elem_classes="v-options"):
            put("clip_skip", "ensd")
        with gr.Row(elem_classes="v-options"):
            put("emphasis", "noise")
        put("tiling", "vae")


def widget(field: Field, value: Any, choices: Choices) -> Any:
    """The one widget for a field; bounds and words from the table."""
    common: dict[str, Any] = {
        "label": field.label,
        "elem_id": field.elem_id,
        "info": field.help or None,
    }
    if field.kind in ("picture", "guides"):
        return gr.Textbox(value=value, visible="hidden", elem_id=field.elem_id)
    if field.kind == "flag":
        return gr.Checkbox(**common, value=value)
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
            placeholder=_placeholder(field),
            min_width=90,
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
    if field.kind == "choice":
        return _choice(field, value, choices, common)
    if field.slider is not None:
        low, high = field.slider
        return gr.Slider(
            low,
            high,
            **common,
            value=value,
            step=field.step,
            precision=0 if field.kind == "whole" else None,
            min_width=90,
            buttons=[],
        )
    return gr.Number(**common, value=value, step=field.step, min_width=90)


def _choice(field: Field, value: Any, choices: Choices, common: dict[str, Any]) -> Any:
    if field.name == MODE:
        return gr.Radio([*field.choices], **common, value=value)
    if field.unset is not None:
        value = value or ""
    return gr.Dropdown(_offered(field, choices), **common, value=value, min_width=90)


def _offered(field: Field, choices: Choices) -> list[tuple[str, str]]:
    """(title, value) of a list, that of none first."""
    offered = [*field.choices] or choices.get(field.name) or choices[field.shelf]
    return offered if field.unset is None else [(field.unset, ""), *offered]


def _placeholder(field: Field) -> str:
    """What an empty number means."""
    if field.kind == "seed":
        return "random"
    if field.name.startswith("start.extend."):
        return "0"
    if field.name.startswith("variation.resize_from."):
        return "none"
    if field.name in ("enlarge.width", "enlarge.height"):
        return "by the factor"
    return "the same" if field.name.startswith("enlarge.") else "automatic"


def wire(
    demo: gr.Blocks,
    drawn: Create,
    stage: Stage,
    engine: Engine,
    files: Assets,
    shown: Sequence[panels.Drawn] = (),
) -> None:
    """What happens when something is pressed or changed."""
    inputs = drawn.inputs
    # In the order they were drawn in, which is the order in which gradio hands over a set.
    names = json.dumps(list(inputs))
    ids = json.dumps({name: component.elem_id for name, component in inputs.items()})
    main = json.dumps(files.url("main.js"))
    widgets = list(inputs.values())

    def script(call: str) -> str:
        """A listener in the browser: the form's values, in the order of `names`."""
        return f"async (...values) => (await import({main})).page.{call}"

    def on_generate(values: dict[Any, Any], request: gr.Request) -> dict[str, Any]:
        by_name = {name: values.get(component) for name, component in inputs.items()}
        owner = str(request.request.scope["vitrine.owner"]) if request.request else ""
        return submitted(by_name, owner, stage, engine.registry, shown)

    named_anew = ["checkpoint", "enlarge.checkpoint", "refine.checkpoint", "enlarge.upscaler"]

    def on_load() -> Any:
        """Models may have come since the page was built."""
        there = choices(engine)
        return [gr.Dropdown(choices=_offered(form.BY_NAME[name], there)) for name in named_anew]

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    drawn.generate.click(
        on_generate,
        inputs={*widgets},
        outputs=drawn.reply,
        js=script(f"ready({names}, values)"),
        preprocess=False,
        **quiet,
    ).then(None, inputs=drawn.reply, js=script("replied(values[0])"), **quiet)
    drawn.stop.click(None, js=script("stop()"), **quiet)
    drawn.skip.click(None, js=script("skip()"), **quiet)
    drawn.discard.click(None, js=script("discard()"), **quiet)
    drawn.fill.click(None, outputs=widgets, js=script(f"filled({names})"), **quiet)
    gr.on(
        [component.change for component in widgets],
        None,
        inputs=widgets,
        js=script(f"changed({names}, values)"),
        **quiet,
    )
    for column, mode in ((drawn.begun, "text"), (drawn.masked, "inpaint")):
        sees = f"(mode {'!==' if mode == 'text' else '==='} {json.dumps(mode)})"
        inputs[MODE].change(
            None,
            inputs=inputs[MODE],
            outputs=column,
            js=f"(mode) => ({{__type__: 'update', visible: {sees}}})",
            **quiet,
        )
    demo.load(on_load, outputs=[inputs[name] for name in named_anew], **quiet)
    demo.load(None, inputs=widgets, outputs=widgets, js=script(f"recalled({ids}, values)"), **quiet)


def submitted(
    values: Mapping[str, Any],
    owner: str,
    stage: Stage,
    registry: Registry,
    shown: Sequence[panels.Drawn] = (),
) -> dict[str, Any]:
    """What the page is told after Generate: the job's id, or what is wrong, by field."""
    nonce = secrets.token_hex(4)
    try:
        request = replace(form.read(values, registry), extras=panels.read(values, shown))
        job = stage.submit(request, owner)
    except form.FormError as error:
        return {"nonce": nonce, "errors": error.errors}
    except VitrineError as error:
        field = getattr(error, "field", None) or ""
        return {"nonce": nonce, "errors": {field: str(error)}}
    except Exception as error:
        return {"nonce": nonce, "errors": {"": unexpected(error)}}
    return {"nonce": nonce, "job": job.id}
