import gradio as gr
import modules.scripts as scripts
from modules.processing import Processed, fix_seed, process_images


class Script(scripts.Script):
    def title(self):
        return "Sweep of steps"

    def show(self, is_img2img):
        return not is_img2img

    def ui(self, is_img2img):
        count = gr.Slider(label="Count", minimum=1, maximum=4, step=1, value=2)
        return [count]

    def run(self, p, count):
        fix_seed(p)
        images = []
        for number in range(int(count)):
            p.steps = 2 + number
            images += process_images(p).images
        return Processed(p, images, p.seed, "")
