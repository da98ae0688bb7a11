import gradio as gr
import modules.scripts as scripts
from PIL import ImageOps


class Louder(scripts.Script):
    def title(self):
        return "Louder"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        with gr.Accordion("Louder", open=False):
            enabled = gr.Checkbox(label="Enabled", value=True)
            times = gr.Slider(label="Times", minimum=0, maximum=9, step=1, value=2)
            mark = gr.Dropdown(label="Mark", choices=["!", "?"], value="!")
        return [enabled, times, mark]

    def process(self, p, enabled, times, mark):
        if enabled:
            p.all_prompts[0] = p.prompt + mark * times

    def postprocess_image(self, p, pp, enabled, times, mark):
        if enabled:
            pp.image = ImageOps.invert(pp.image)
