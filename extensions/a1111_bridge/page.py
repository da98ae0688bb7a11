"""The tab of a script that is chosen: a prompt, its own widgets, and what its `run` gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from core.errors import VitrineError
from core.events import ImageDone
from core.request import GenerationRequest

from .bridge import as_processing, from_processing
from .facade import Script


def draw_run(script: Script, title: str, shell: Any) -> None:
    """Draws the tab, and wires it."""
    prompt = gr.Textbox(label="Prompt", lines=2)
    negative = gr.Textbox(label="Negative prompt")
    widgets = [prompt, negative, *(script.ui(False) or [])]
    run = gr.Button("Run", variant="primary")
    shown = gr.Gallery(label=title)

    def on_run(given: dict[Any, Any], request: gr.Request) -> list[Any]:
        owner = str(request.request.scope["vitrine.owner"])
        values = [given[widget] for widget in widgets]
        try:
            return ran(script, values, shell.stage, owner)
        except VitrineError as error:
            raise gr.Error(str(error)) from error

    run.click(on_run, {*widgets}, shown)


def ran(script: Script, values: Sequence[Any], stage: Any, owner: str) -> list[Any]:
    """The pictures that `run(p, *args)` gives; `process_images` queues a job each time."""
    prompt, negative, *rest = values
    request = GenerationRequest(prompt=prompt or "", negative_prompt=negative or "")

    def made(p: Any) -> list[Any]:
        asked = from_processing(p, request)
        seed = None if asked.seed in (None, -1) else asked.seed
        job = stage.submit(replace(asked, seed=seed, images=p.n_iter * p.batch_size), owner)
        images = [event.image for event in job if isinstance(event, ImageDone)]
        p.seed = job.request.seed
        return images

    p = as_processing(request)
    p.made, p.seed = made, -1
    return list(script.run(p, *rest).images)
