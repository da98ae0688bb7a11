"""Makes the one file that ships from the checkpoints of a training run.

`python -m core.pocket.export` writes `pocket.safetensors`: the averaged weights in fp16, under
the names and in the layout of a Stable Diffusion 1.x single file. What cannot be read off the
shapes of the tensors is in its metadata, as JSON under "vitrine.config".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.pocket import draw
from core.pocket.latents import CHANNELS
from core.pocket.train import AUTOENCODER, UNET
from core.pocket.words import HEADS, Words

SCALE = 0.18215  # of SD 1.x's latents
QUIET = -20.0  # log variance of the encoder's latents: it is not a sampler
UNET_KEYS = "model.diffusion_model."
TEXT_KEYS = "cond_stage_model.transformer.text_model."
SHIPPED = Path(__file__).parent / "pocket.safetensors"

EXAMPLES = (
    "a red apple on a blue background",
    "a panda on a green background",
    "three stars on a black background",
    "a boat on the sea",
    "a ghost on a black background",
    "a unicorn on a purple background",
    "a burger on a yellow background",
    "a house in a meadow",
)


def configuration() -> dict[str, object]:
    """The numbers a loader needs, and words for people."""
    return {
        "unet": {"groups": UNET.groups, "head_width": UNET.head_width},
        "vae": {"groups": AUTOENCODER.groups},
        "text": {"heads": HEADS},
        "size": draw.SIZE,
        "cfg_scale": 5.0,
        "steps": 20,
        "description": "Pocket, a tiny Stable Diffusion 1.x trained from nothing on drawn emoji",
        "concepts": list(draw.CONCEPTS),
        "backgrounds": [*draw.COLOURS, *draw.SCENES],
        "shapes": list(draw.SHAPES),
        "examples": list(EXAMPLES),
        "license": "MIT",
        "data": "Noto Color Emoji (SIL Open Font License 1.1), flat shapes and drawn scenes",
    }


def painter_tensors(state: dict[str, Tensor], words: Words) -> dict[str, Tensor]:
    """U-Net and text encoder under SD 1.x's names, the vocabulary spread out again."""
    tensors = {}
    for key, tensor in state.items():
        part, name = key.split(".", 1)
        if part == "unet":
            tensors[f"{UNET_KEYS}{name}"] = tensor
        elif name.endswith("token_embedding.weight"):
            tensors[f"{TEXT_KEYS}{name}"] = words.full_table(tensor)
        elif not name.endswith("position_ids"):
            tensors[f"{TEXT_KEYS}{name}"] = tensor
    return tensors


def painter_state(tensors: dict[str, Tensor], words: Words) -> dict[str, Tensor]:
    """The reverse of `painter_tensors`: only the rows of the tokens that captions use."""
    state = {}
    for key, tensor in tensors.items():
        if key.startswith(UNET_KEYS):
            state[f"unet.{key.removeprefix(UNET_KEYS)}"] = tensor.float()
        elif key.startswith(TEXT_KEYS):
            name = key.removeprefix(TEXT_KEYS)
            rows = words.rows(tensor) if name.endswith("token_embedding.weight") else tensor
            state[f"text.{name}"] = rows.float()
    return state


def autoencoder_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder under SD 1.x's names, its latents of unit variance scaled by 1 / SCALE.

    The scale folds into the 1×1 convolutions beside the latents, so that SD 1.x's own rule
    (times 0.18215 after encoding, divided by it before decoding) gives the U-Net's latents.
    """
    state = dict(state)
    weight, bias = state["quant_conv.weight"].clone(), state["quant_conv.bias"].clone()
    weight[:CHANNELS] /= SCALE
    bias[:CHANNELS] /= SCALE
    weight[CHANNELS:], bias[CHANNELS:] = 0.0, QUIET
    state["quant_conv.weight"], state["quant_conv.bias"] = weight, bias
    state["post_quant_conv.weight"] = state["post_quant_conv.weight"] * SCALE
    return {f"first_stage_model.{key}": tensor for key, tensor in state.items()}


def average(work: Path, name: str) -> dict[str, Tensor]:
    """The averaged weights of a training run."""
    stored = torch.load(work / f"{name}.pt", weights_only=True, map_location="cpu")
    weights: dict[str, Tensor] = stored["average"]
    return weights


def export(work: Path, target: Path) -> None:
    """Writes the file beside its place and then moves it there."""
    tensors = painter_tensors(average(work, "painter"), Words())
    tensors |= autoencoder_tensors(average(work, "autoencoder"))
    halves = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
    beside = target.with_suffix(".new")
    save_file(halves, beside, {"format": "pt", "vitrine.config": json.dumps(configuration())})
    beside.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"))
    parser.add_argument("--target", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    export(arguments.work, arguments.target)
    print(f"{arguments.target}: {arguments.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
