"""ComfyUI as a candidate: a checkout, run by a Python that has what it needs.

It is asked as its own nodes ask it, on the CPU, with torch's attention, the quickest that it has
there. Nothing is imported here but torch, numpy and the checkout.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import reading
from tests.benchmarks.networks import Works, called, inputs, latents, networks_works

FLAGS = ("--cpu", "--use-pytorch-cross-attention")
SHRINK, WIDTH = 8, 768
"""Of SD 1.x: pixels along a latent, and numbers of a word."""


def works(file: str, folder: str, sizes: list[int], precision: str, comfyui: str) -> Works:
    """A step of every size, and the decoding of a picture of 512²; of an SD 1.x."""
    model, _, vae = _loaded(file, comfyui)
    network = model.model.diffusion_model
    return networks_works(
        lambda x, timestep, context: network(x, timestep, context=context),
        vae.first_stage_model.decode,
        inputs(sizes, SHRINK, WIDTH, precision),
        model.model.process_latent_out(latents()),
    )


def loading(file: str, folder: str, comfyui: str) -> dict[str, float]:
    """From the name of a file to its networks, in float32."""
    _module("sd", comfyui)

    def load() -> tuple[Any, ...]:
        model, clip, vae = _loaded(file, comfyui)
        return model.model.diffusion_model, vae.first_stage_model, clip.cond_stage_model

    return reading(Path(file), load)


def lora_works(file: str, folder: str, lora: str, comfyui: str) -> Works:
    """A LoRA put on and taken off, and the answer of the U-Net with it."""
    sd, management = _module("sd", comfyui), _module("model_management", comfyui)
    tensors = _module("utils", comfyui).load_torch_file(lora)
    model, clip, _ = _loaded(file, comfyui)
    given = inputs([64], SHRINK, WIDTH, "float32")[64]
    worn: list[Any] = []

    def on() -> None:
        changed, changed_clip = sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
        worn[:] = [changed, changed_clip]
        management.load_models_gpu([changed, changed_clip.patcher])

    def off() -> None:
        management.load_models_gpu([model, clip.patcher])
        worn.clear()

    def network() -> Any:
        x, timestep, context = given
        return model.model.diffusion_model(x, timestep, context=context)

    return {"on": called(on), "off": called(off), "step": called(network)}


def _loaded(file: str, comfyui: str) -> tuple[Any, Any, Any]:
    """Its model, text encoders and VAE, in the memory that they compute in."""
    model, clip, vae, _ = _module("sd", comfyui).load_checkpoint_guess_config(file)
    management = _module("model_management", comfyui)
    management.load_models_gpu([model, clip.patcher, vae.patcher])
    return model, clip, vae


def _module(name: str, comfyui: str) -> Any:
    """One of its own, with its flags set."""
    if comfyui not in sys.path:
        sys.path.insert(0, comfyui)
        sys.argv = [sys.argv[0], *FLAGS]
        importlib.import_module("comfy.options").enable_args_parsing()
    return importlib.import_module(f"comfy.{name}")
