"""Trains the two guides that ship with the weights: `python -m core.pocket.guides_train edges`.

`edges` follows drawn outlines, `colour` coarse colours. Each is a T2I-Adapter (arXiv:2302.08453)
for the weights in `--model`, which stay as they are: only the adapter learns. Stop it and start it
again as you like; every batch follows from its step number. The file that ships is written at the
end. With more `--steps` a finished one goes on, also on other weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, get_args

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.images.hints import hint_of
from core.nn.attention import Attending
from core.nn.t2i_adapter import AdapterConfig, T2IAdapter, placed
from core.nn.vae import VAE
from core.pocket import draw, train
from core.pocket.export import SCALE, SHIPPED, painter_state
from core.pocket.guides_draw import Part, lesson
from core.pocket.latents import PATCH
from core.pocket.words import Words

FOLDER: Final = Path(__file__).parent / "guides"
WIDTHS: Final = tuple(train.UNET.channels * times for times in train.UNET.multipliers)
ADAPTERS: Final[Mapping[Part, AdapterConfig]] = {
    "edges": AdapterConfig(channels=1, widths=WIDTHS),
    "colour": AdapterConfig(channels=3, widths=WIDTHS),
}
NAMES: Final[Mapping[Part, str]] = {"edges": "outline", "colour": "palette"}
"""What the files are called."""
PREPROCESSORS: Final[Mapping[Part, str]] = {"edges": "scribble", "colour": "segments"}
"""What the page makes of a picture for each, unless told otherwise."""
SAID: Final[Mapping[Part, str]] = {
    "edges": "Draw an outline, and Pocket paints what your words say inside it.",
    "colour": "Dab a few colours, and Pocket paints your words in their places and tones.",
}
BATCH: Final = 8
STEPS: Final = 2000
RATE, LAST_RATE = 2e-3, 5e-5
SNR_LIMIT: Final = 4.0
STRENGTH: Final = 1.5
"""Times that what was learned is strengthened in the file: a weight of 1 then holds its own against
CFG, which strengthens the words alone."""
FIRST: Final = 2 * 10**8  # number of the first lesson: others than the weights were trained on
FITTED_ON: Final = 32  # pictures

Read = Callable[[Tensor], Tensor]
"""(b 3 H W) in [-1, 1] -> latents (b 4 h w)."""


class Guided(train.Painter):
    """A painter as it is, told by an adapter that learns what it sees: `hint` (b c H W)."""

    hint: Tensor

    def __init__(self, vocabulary: int, adapter: T2IAdapter) -> None:
        super().__init__(vocabulary)
        self.requires_grad_(False)
        self.adapter = adapter

    def forward(self, x: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """(b 4 h w), (b,), (b 77) -> the noise that is guessed, like x."""
        context = self.text(input_ids=ids).last_hidden_state
        residuals = placed(train.UNET, self.adapter(self.hint))
        attending = Attending(attend=train.half_scaled_attend)
        return self.unet(x, timestep, context, None, attending, residuals)


def guided(file: Path, words: Words, adapter: T2IAdapter) -> Guided:
    """The U-Net and text encoder of a file, frozen, beside an adapter."""
    painter = Guided(len(words.tokens), adapter)
    painter.load_state_dict(painter_state(load_file(file), words), strict=False)
    return painter


def reading(file: Path) -> Read:
    """The encoder of a file as one linear map of each 8×8 patch, which costs next to nothing.

    It was trained to be one (`latents`). The map is fitted to its answers by least squares, and
    comes to within 0.06 of them, of latents with a deviation of 1.
    """
    prefix = "first_stage_model."
    stored = {k.removeprefix(prefix): v for k, v in load_file(file).items() if k.startswith(prefix)}
    vae = VAE(train.AUTOENCODER)
    vae.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    pixels, _ = train.drawn(FIRST, FITTED_ON, train.EVERYTHING, draw.SIZE)
    with torch.inference_mode():
        answers = SCALE * torch.cat([vae.encode(part)[0] for part in pixels.split(8)])
    wanted = rearrange(answers, "b c h w -> (b h w) c").double()
    found = torch.linalg.lstsq(rearrange(patches(pixels), "b h w d -> (b h w) d").double(), wanted)
    linear = found.solution.float()
    return lambda pixels: rearrange(patches(pixels) @ linear, "b h w c -> b c h w")


def patches(pixels: Tensor) -> Tensor:
    """(b 3 H W) -> (b h w d): the numbers of each 8×8 patch, and a 1."""
    rows = rearrange(pixels, "b c (h p) (w q) -> b h w (p q c)", p=PATCH, q=PATCH)
    return torch.cat((rows, torch.ones_like(rows[..., :1])), dim=-1)


def batch(step: int, part: Part, size: int = BATCH) -> tuple[Tensor, Tensor, list[str]]:
    """Hints (b c H W) in [0, 1], pixels (b 3 H W) in [-1, 1] and captions of a step."""
    lessons = [lesson(FIRST + step * size + i, part) for i in range(size)]
    channels = ADAPTERS[part].channels
    hints = torch.cat([hint_of(one.guide, channels) for one in lessons])
    pixels = torch.cat([hint_of(one.picture, 3) for one in lessons]) * 2 - 1
    return hints, pixels, [one.caption for one in lessons]


def guide_loss(painter: Guided, latents: Tensor, ids: Tensor, bars: Tensor, seed: int) -> Tensor:
    """The error of the picture that is guessed, times 1 + SNR (arXiv:2202.00512), up to a limit.

    The error of the noise, by which the weights were trained, hardly counts where there is nothing
    but noise; and that is where it is decided what stands where, for which a guide is there.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(len(latents)) + torch.rand(len(latents), generator=generator)
    timestep = (offsets * len(bars) / len(latents)).long()
    noise = torch.randn(latents.shape, generator=generator)
    bar = bars[timestep]
    kept, added = (rearrange(share.sqrt(), "b -> b 1 1 1") for share in (bar, 1 - bar))
    with torch.autocast("cpu", torch.bfloat16):
        guess = painter(kept * latents + added * noise, timestep, ids)
    snr = bar / (1 - bar)
    error = (guess.float() - noise).square().mean((1, 2, 3)) / snr
    return ((1 + snr).clamp(max=SNR_LIMIT) * error).mean()


def train_guide(part: Part, file: Path, work: Path, steps: int) -> T2IAdapter:
    """The averaged adapter after so many steps, counting those that were done before."""
    words, read = Words(), reading(file)
    run = begun(part, work)
    assert isinstance(run.network, T2IAdapter) and isinstance(run.average, T2IAdapter)
    teach(run, guided(file, words, run.network), words, read, part, steps)
    return run.average


def begun(part: Part, work: Path) -> train.Run:
    """The adapter of a part from its checkpoint, or from the fixed seed."""
    return train.begun(f"guide-{part}", lambda: T2IAdapter(ADAPTERS[part]), work)


def teach(
    run: train.Run,
    painter: Guided,
    words: Words,
    read: Read,
    part: Part,
    steps: int,
    size: int = BATCH,
) -> None:
    """All steps that are still to do, with `size` lessons each."""
    bars = train.alphas_bar()
    for step in train.steps_of(run, steps):
        painter.hint, pixels, captions = batch(step, part, size)
        loss = guide_loss(painter, read(pixels), words.ids(captions), bars, FIRST + step)
        run.learn(loss, train.cosine(RATE, LAST_RATE, step / steps))


def strengthened(state: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """The adapter whose features are `strength` times as large, for a strength above 0.

    ReLU is positively homogeneous: with the first weights and every bias so many times as large,
    all that follows is.
    """
    return {
        name: strength * tensor if name == "conv_in.weight" or name.endswith(".bias") else tensor
        for name, tensor in state.items()
    }


def export(adapter: T2IAdapter, part: Part, target: Path) -> None:
    """Writes the file, fp16 under the original's names, beside its place and moves it there."""
    state = strengthened(adapter.state_dict(), STRENGTH)
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items()}
    about = {
        "format": "pt",
        "license": "MIT",
        "ss_base_model_version": "pocket",
        "modelspec.title": NAMES[part],
        "modelspec.description": SAID[part],
        "vitrine.preprocessor": PREPROCESSORS[part],
    }
    beside = target.with_suffix(".new")
    save_file(tensors, beside, about)
    beside.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=get_args(Part))
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"))
    parser.add_argument("--model", type=Path, default=SHIPPED, help="the weights that are guided")
    parser.add_argument("--target", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for folder in (arguments.work, arguments.target):
        folder.mkdir(parents=True, exist_ok=True)
    adapter = train_guide(arguments.part, arguments.model, arguments.work, arguments.steps)
    target = arguments.target / f"{NAMES[arguments.part]}.safetensors"
    export(adapter, arguments.part, target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
