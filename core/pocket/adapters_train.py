"""Trains two small files for the weights that ship: a LoRA (a style), an embedding (a new thing).

`python -m core.pocket.adapters_train lora` and `... embedding`, some minutes each. The LoRA turns
every picture into a cyanotype, blue and white. The embedding is a word for a thing that the weights
were never shown. Both print what they changed, measured, and leave a sheet of before and after.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.pocket import draw, judge, train
from core.pocket.export import SHIPPED, painter_state
from core.pocket.latents import Basis
from core.pocket.words import WIDTH, Words

FOLDER: Final = Path(__file__).parent
RANK: Final = 4
STYLE: Final = "cyanotype"
INK: Final = (10, 30, 105)
PAPER: Final = (238, 243, 236)
NEW: Final = "tangerine"
NEW_GLYPH: Final = "🍊"
FROM: Final = "apple"  # the known word that the new one starts from
VECTORS: Final = 2
LAYERS_OF_TEXT: Final = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


class LowRank(nn.Module):
    """A linear map with a branch of low rank beside it, which starts as nothing; arXiv:2106.09685.

    x (… in) -> base(x) + up(down(x)).
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def is_adapted(path: str) -> bool:
    """Whether a LoRA changes this linear layer: those of attention and of its feed-forward."""
    in_text = ".layers." in path and path.rsplit(".", 1)[-1] in LAYERS_OF_TEXT
    return ".transformer_blocks." in path or in_text


def adapted(painter: nn.Module, rank: int) -> dict[str, LowRank]:
    """Puts a branch beside every adapted layer, in place, and freezes all else: path -> branch."""
    painter.requires_grad_(False)
    found = {
        path: module
        for path, module in painter.named_modules()
        if isinstance(module, nn.Linear) and is_adapted(path)
    }
    branches = {}
    for path, linear in found.items():
        parent, _, name = path.rpartition(".")
        branches[path] = LowRank(linear, rank)
        setattr(painter.get_submodule(parent), name, branches[path])
    return branches


def kohya_name(path: str) -> str:
    """A layer of `train.Painter` as LoRA files of SD 1.x call it, with diffusers' block names."""
    part, _, inside = path.partition(".")
    if part == "text":
        return f"lora_te_text_model_{inside.replace('.', '_')}"
    block, number, rest = inside.split(".", 2)
    if block == "middle_block":
        place = f"mid_block.attentions.0.{rest}"
    else:
        index = int(number) - (1 if block == "input_blocks" else 0)
        side = "down" if block == "input_blocks" else "up"
        level, at = divmod(index, 3)
        place = f"{side}_blocks.{level}.attentions.{at}.{rest.split('.', 1)[1]}"
    return f"lora_unet_{place.replace('.', '_')}"


def lora_tensors(branches: dict[str, LowRank]) -> dict[str, Tensor]:
    """What a LoRA file holds of each layer; alpha is the rank, so the branch counts as it is."""
    tensors = {}
    for path, branch in branches.items():
        name = kohya_name(path)
        tensors[f"{name}.lora_down.weight"] = branch.down.weight.detach().half().contiguous()
        tensors[f"{name}.lora_up.weight"] = branch.up.weight.detach().half().contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(float(branch.down.out_features)).half()
    return tensors


def lora_metadata(steps: int) -> dict[str, str]:
    """What trainers write of themselves."""
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(RANK),
        "ss_base_model_version": "pocket",
        "ss_sd_model_name": SHIPPED.name,
        "ss_output_name": STYLE,
        "ss_steps": str(steps),
        "ss_tag_frequency": json.dumps({}),
        "license": "MIT",
    }


def cyanotype(pixels: Tensor) -> Tensor:
    """(b 3 H W) in [-1, 1]: dark becomes ink, light becomes paper."""
    light = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    ink, paper = (torch.tensor(c).view(1, 3, 1, 1) / 127.5 - 1 for c in (INK, PAPER))
    return ink + (paper - ink) * (light + 1) / 2


def off_style(pixels: Tensor) -> float:
    """Mean distance of pixels (b 3 H W) to the line from ink to paper, in steps of 1/255."""
    ink, paper = (torch.tensor(c, dtype=torch.float32) for c in (INK, PAPER))
    along = (paper - ink) / (paper - ink).norm()
    colours = rearrange((pixels.clamp(-1, 1) + 1) * 127.5, "b c H W -> (b H W) c") - ink
    beside = colours - (colours @ along)[:, None] * along
    return float(beside.norm(dim=1).mean())


@torch.inference_mode()
def painted(painter: train.Painter, ids: Tensor, empty: Tensor, seed: int) -> Tensor:
    """Latents (b 4 16 16) for token ids (b 77): 20 steps of DDIM at CFG 5.

    arXiv:2010.02502, equation 12.
    """
    bars = torch.cat((train.alphas_bar(), torch.ones(1)))
    x = torch.randn(len(ids), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    times = [*torch.linspace(999, 0, 20).round().long().tolist(), -1]
    for time, following in pairwise(times):
        steps = torch.full((2 * len(ids),), time)
        uncond, cond = painter(torch.cat((x, x)), steps, torch.cat((empty, ids))).chunk(2)
        eps = uncond + 5.0 * (cond - uncond)
        bar, next_bar = bars[time], bars[following]
        denoised = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
        x = next_bar.sqrt() * denoised + (1 - next_bar).sqrt() * eps
    return x


def restored(file: Path, words: Words) -> train.Painter:
    """U-Net and text encoder of the file that ships."""
    painter = train.Painter(len(words.tokens))
    painter.load_state_dict(painter_state(load_file(file), words), strict=False)
    return painter


def taught(
    painter: train.Painter,
    parameters: Sequence[nn.Parameter],
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    rate: float,
) -> None:
    """The same loss as in training, for these parameters alone; `batch` gives latents and ids."""
    bars = train.alphas_bar()
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for step in range(steps):
        latents, ids = batch(step)
        for group in optimiser.param_groups:
            group["lr"] = train.cosine(rate, rate / 20, step / steps)
        optimiser.zero_grad(set_to_none=True)
        loss = train.noise_loss(painter, latents, ids, bars, 10**7 + step)
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            print(
                json.dumps({"step": step, "of": steps, "loss": round(loss.item(), 4)}), flush=True
            )


def sheet(rows: Sequence[Tensor], path: Path) -> None:
    """Pictures (b 3 H W) of each row, one row below the other."""
    whole = torch.cat([rearrange(row, "b c H W -> H (b W) c") for row in rows])
    values = ((whole.clamp(-1, 1) + 1) * 127.5).round().byte()
    Image.fromarray(values.numpy()).save(path)


def train_lora(painter: train.Painter, words: Words, basis: Basis, to: Path, steps: int) -> None:
    """The style: pictures of all kinds, their colours changed, their captions as ever."""
    captions = [
        "a panda on a green background",
        "a red apple on a yellow background",
        "a rocket in the night sky",
        "a house in a meadow",
        "a cat and a fish on an orange background",
        "three stars on a black background",
    ]
    ids, empty = words.ids(captions), words.ids([""] * len(captions))
    before = basis.pixels(painted(painter, ids, empty, 0))
    branches = adapted(painter, RANK)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        pixels, said = train.drawn(10**8 + step, 8, train.RICH, draw.SIZE)
        heard = train.heard(said, words, np.random.default_rng(step))
        return basis.latents(cyanotype(pixels)), heard

    taught(painter, [p for p in painter.parameters() if p.requires_grad], batch, steps, 2e-3)
    after = basis.pixels(painted(painter, ids, empty, 0))
    target = to / f"{STYLE}.safetensors"
    save_file(lora_tensors(branches), target, lora_metadata(steps))
    found = {
        "distance from the style without it": round(off_style(before), 1),
        "and with it": round(off_style(after), 1),
        "of the drawings it learned from, before they were changed": round(
            off_style(train.drawn(10**8, 8, train.RICH, draw.SIZE)[0]), 1
        ),
        "bytes": target.stat().st_size,
    }
    print(json.dumps(found, indent=1))
    sheet([before, after], to / f"{STYLE}.png")


def new_glyph() -> Image.Image:
    """The new thing as RGBA, its empty border cut off."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    font = ImageFont.truetype(str(draw.FONT), draw.FONT_SIZE)
    ImageDraw.Draw(canvas).text((10, 10), NEW_GLYPH, font=font, embedded_color=True)
    return canvas.crop(canvas.getchannel("A").getbbox())


def new_picture(glyph: Image.Image, seed: int) -> tuple[Tensor, str]:
    """The new thing on a colour, (3 H W) in [-1, 1], and the colour's name."""
    rng = np.random.default_rng(seed)
    colour = list(draw.COLOURS)[rng.integers(len(draw.COLOURS))]
    picture = Image.new("RGB", (draw.SIZE, draw.SIZE), draw.COLOURS[colour])
    scale = rng.uniform(0.72, 0.88) * draw.SIZE / max(glyph.size)
    stamp = glyph.resize((round(scale * glyph.width), round(scale * glyph.height)))
    corner = [round(draw.SIZE * rng.uniform(0.46, 0.54) - side / 2) for side in stamp.size]
    picture.paste(stamp, (corner[0], corner[1]), stamp)
    return pixels_of(picture), colour


def train_embedding(
    painter: train.Painter, words: Words, basis: Basis, to: Path, steps: int
) -> None:
    """The new thing as VECTORS rows of the embedding table; all else stays. arXiv:2208.01618."""
    known = len(words.tokens)
    table = painter.text.embeddings.token_embedding
    start = table.weight[words.ids([FROM])[0, 1]].detach()
    noise = 0.05 * torch.randn(VECTORS, WIDTH, generator=torch.Generator().manual_seed(0))
    painter.requires_grad_(False)
    table.weight = nn.Parameter(torch.cat((table.weight.detach(), start + noise)))
    table.weight.register_hook(lambda gradient: torch.cat((0 * gradient[:known], gradient[known:])))
    glyph = new_glyph()

    def said(colours: Sequence[str]) -> Tensor:
        """ "a [the new thing] on a blue background" for each colour."""
        ids = words.ids(
            [f"a {FROM} on {draw.with_article(colour)} background" for colour in colours]
        )
        new = torch.arange(known, known + VECTORS).expand(len(ids), VECTORS)
        return torch.cat((ids[:, :2], new, ids[:, 3:]), dim=1)[:, : ids.shape[1]]

    def batch(step: int) -> tuple[Tensor, Tensor]:
        pictures = [new_picture(glyph, step * 8 + i) for i in range(8)]
        pixels = torch.stack([pixels for pixels, _ in pictures])
        return basis.latents(pixels), said([colour for _, colour in pictures])

    colours = ["blue", "white", "green", "black", "pink", "yellow"]
    empty = words.ids([""] * len(colours))
    before = painted(
        painter, words.ids([f"a {FROM} on a {c} background" for c in colours]), empty, 0
    )
    taught(painter, [table.weight], batch, steps, 1e-2)
    after = painted(painter, said(colours), empty, 0)
    rows = table.weight.detach()[known:]
    target = to / f"{NEW}.safetensors"
    save_file({"emb_params": rows.contiguous()}, target, {"name": NEW, "license": "MIT"})
    found = {
        "taken for it before": recognised(basis.pixels(before), glyph, colours),
        "and after": recognised(basis.pixels(after), glyph, colours),
        "bytes": target.stat().st_size,
    }
    print(json.dumps(found, indent=1))
    drawn = torch.stack([pixels_of(plain_new(glyph, colour)) for colour in colours])
    sheet([basis.pixels(before), basis.pixels(after), drawn], to / f"{NEW}.png")


def recognised(pixels: Tensor, glyph: Image.Image, colours: Sequence[str]) -> str:
    """How many pictures (b 3 H W) are nearer to the new thing than to all that was known."""
    hits = 0
    for row, colour in zip(pixels, colours, strict=True):
        values = ((rearrange(row, "c H W -> H W c").clamp(-1, 1) + 1) * 127.5).byte().numpy()
        found = judge.cut(Image.fromarray(values), colour)
        known = [judge.reference(draw.Subject(name), colour) for name in draw.CONCEPTS]
        new = judge.cut(plain_new(glyph, colour), colour)
        hits += found.distance(new) < min(found.distance(other) for other in known)
    return f"{hits} of {len(colours)}"


def plain_new(glyph: Image.Image, colour: str) -> Image.Image:
    """The new thing in the middle of a colour."""
    picture = Image.new("RGB", (draw.SIZE, draw.SIZE), draw.COLOURS[colour])
    stamp = glyph.resize([round(0.8 * draw.SIZE * side / max(glyph.size)) for side in glyph.size])
    corner = [(draw.SIZE - side) // 2 for side in stamp.size]
    picture.paste(stamp, (corner[0], corner[1]), stamp)
    return picture


def pixels_of(picture: Image.Image) -> Tensor:
    """(3 H W) in [-1, 1]."""
    return rearrange(torch.from_numpy(draw.pixels(picture)), "h w c -> c h w")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("lora", "embedding"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"), help="has basis.pt")
    parser.add_argument("--file", type=Path, default=SHIPPED)
    parser.add_argument("--target", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    folder = arguments.target / {"lora": "loras", "embedding": "embeddings"}[arguments.part]
    folder.mkdir(parents=True, exist_ok=True)
    words = Words()
    painter, basis = restored(arguments.file, words), train.basis_at(arguments.work)
    teach = {"lora": train_lora, "embedding": train_embedding}[arguments.part]
    teach(painter, words, basis, folder, arguments.steps)


if __name__ == "__main__":
    main()
