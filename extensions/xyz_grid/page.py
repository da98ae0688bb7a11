"""The tab: what varies, and the sheet as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL.Image import Image

from core.errors import VitrineError
from core.events import ImageDone
from core.request import GenerationRequest

from .axes import AXES, Cell, cells, values

if TYPE_CHECKING:
    from webui.shell import Shell
    from webui.stream import Stage

NOTHING = "nothing"
CHOICES = [("Nothing", NOTHING), *((axis.title, name) for name, axis in AXES.items())]


def draw(shell: Shell) -> None:
    """Draws the tab, and wires it."""
    prompt = gr.Textbox(label="Prompt", lines=2, elem_id="v-grid-prompt")
    negative = gr.Textbox(label="Negative prompt")
    seed = gr.Number(0, label="Seed", precision=0)
    axes = []
    for name, chosen in (("X", "steps"), ("Y", "cfg_scale"), ("Z", NOTHING)):
        with gr.Row():
            axes.append(gr.Dropdown(CHOICES, value=chosen, label=f"{name}: what varies"))
            axes.append(gr.Textbox(label=f"{name}: its values", placeholder="10, 20 or 1-9 (+2)"))
    paint = gr.Button("Paint the grid", variant="primary")
    said = gr.Textbox(label="How far", interactive=False)
    shown = gr.Image(label="Sheet", type="pil", format="png", interactive=False)

    asked = [prompt, negative, seed, *axes]

    def on_click(given: dict[Any, Any], request: gr.Request) -> Iterator[tuple[Image | None, str]]:
        owner = str(request.request.scope["vitrine.owner"])
        yield from painted([given[widget] for widget in asked], shell.stage, owner)

    paint.click(on_click, {*asked}, [shown, said])


def painted(given: Sequence[Any], stage: Stage, owner: str) -> Iterator[tuple[Image | None, str]]:
    """The sheet after each of its pictures, and a sentence on how far it is."""
    from .sheet import sheet

    prompt, negative, seed, *axes = given
    try:
        request = GenerationRequest(
            prompt=prompt or "", negative_prompt=negative or "", seed=max(0, int(seed or 0))
        )
        along = [
            None if name == NOTHING else (AXES[name], values(text or "", AXES[name]))
            for name, text in zip(axes[::2], axes[1::2], strict=True)
        ]
        asked = cells(request, along)
        labels = [
            [] if axis is None else [f"{axis[0].title}: {value}" for value in axis[1]]
            for axis in along
        ]
        pictures: dict[tuple[int, int, int], Image] = {}
        for cell in asked:
            picture = _made(cell, stage, owner)
            pictures[cell.x, cell.y, cell.z] = picture
            size = (
                max(one.width for one in pictures.values()),
                max(one.height for one in pictures.values()),
            )
            yield sheet(pictures, labels, size), f"{len(pictures)} of {len(asked)} pictures"
    except VitrineError as error:
        yield None, str(error)


def _made(cell: Cell, stage: Stage, owner: str) -> Image:
    """The picture of one cell."""
    for event in stage.submit(cell.request, owner):
        if isinstance(event, ImageDone):
            picture = event.image
    return picture
