"""Trains Pocket from nothing: `python -m core.pocket.train`, on a CPU or a GPU, resumable.

Two processes run side by side, each on one thread of its own, because the latents are given
(`latents`): one trains U-Net and text encoder, the other encoder and decoder. Every batch follows
from its step number, so a run that was stopped goes on with the same data. Checkpoints, logs and
the basis of the latents live in the work folder; `export` makes the one file that ships.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, distributed, nn
from torch.nn import functional

from core.nn.attention import Attending, Site
from core.nn.unet import UNet, UNetConfig
from core.nn.vae import VAE, VAEConfig
from core.pocket import draw
from core.pocket.latents import Basis, fitted
from core.pocket.words import PREFIXES, WIDTH, Words, text_encoder

UNET = UNetConfig(
    channels=64, multipliers=(1, 2, 3, 3), context=WIDTH, heads=None, head_width=32, groups=32
)
AUTOENCODER = VAEConfig(channels=32, multipliers=(1, 2, 4, 4), groups=8)

PLAIN = draw.Mix()
MODEST = draw.Mix(gradients=0.04, scenes=0.06, shapes=0.06, sizes=0.04)
RICH = draw.Mix(
    gradients=0.08, scenes=0.15, shapes=0.14, sizes=0.08, places=0.05, counts=0.06, pairs=0.06
)
RICHER = draw.Mix(
    gradients=0.08, scenes=0.12, shapes=0.12, sizes=0.1, places=0.06, counts=0.18, pairs=0.26
)
MODEST_NEWER, RICHER_NEWER = replace(MODEST, newer=0.7), replace(RICHER, newer=0.4)
PAIRED_NEWER = replace(RICHER_NEWER, counts=0.15, pairs=0.34)
COUPLED = draw.Mix(0.06, 0.1, 0.06, 0.1, 0.1, 0.14, 0.4, newer=0.2)
EVERYTHING = draw.Mix(0.1, 0.2, 0.15, 0.2, 0.1, 0.12, 0.12)


@dataclass(frozen=True)
class Stage:
    """A stretch of the U-Net's training: `side` in pixels, cosine from `rate` to `last_rate`."""

    side: int
    batch: int
    steps: int
    rate: float
    last_rate: float
    mix: draw.Mix


@dataclass(frozen=True)
class Reading:
    """A stretch of the autoencoder's training: cosine from `rate` to `last_rate`."""

    steps: int
    rate: float
    last_rate: float


Stretch = TypeVar("Stretch", Stage, Reading)

STAGES = (
    Stage(side=64, batch=32, steps=1400, rate=1.0e-3, last_rate=7e-4, mix=PLAIN),
    Stage(side=128, batch=16, steps=1500, rate=7e-4, last_rate=6e-4, mix=MODEST),
    Stage(side=128, batch=16, steps=2400, rate=6e-4, last_rate=2e-5, mix=RICH),
    Stage(side=64, batch=32, steps=1200, rate=6e-4, last_rate=6e-4, mix=MODEST_NEWER),
    Stage(side=128, batch=16, steps=250, rate=6e-4, last_rate=6e-4, mix=RICHER_NEWER),
    Stage(side=128, batch=24, steps=650, rate=7e-4, last_rate=7e-4, mix=RICHER_NEWER),
    Stage(side=128, batch=24, steps=710, rate=7e-4, last_rate=3.5e-4, mix=RICHER_NEWER),
    Stage(side=128, batch=24, steps=120, rate=3.5e-4, last_rate=3.3e-4, mix=PAIRED_NEWER),
    Stage(side=128, batch=24, steps=260, rate=3.3e-4, last_rate=1e-5, mix=PAIRED_NEWER),
    Stage(side=128, batch=24, steps=1400, rate=6e-4, last_rate=4.5e-4, mix=COUPLED),
    Stage(side=128, batch=24, steps=450, rate=4.5e-4, last_rate=1e-5, mix=COUPLED),
)
READINGS = (
    Reading(steps=3600, rate=1.5e-3, last_rate=3e-5),
    Reading(steps=1250, rate=7e-4, last_rate=7e-4),
    Reading(steps=1300, rate=7e-4, last_rate=2e-5),
)
READING_L1, READING_L2 = 0.25, 4.0
RIM_WEIGHT = 4.0
WARM_UP = 100  # steps
CLIP = 1.0  # norm of the gradient
DROPPED_CAPTIONS = 0.1
UNKNOWN_WORDS = 0.05  # share of captions with one word that Pocket does not know
SNR_LIMIT = 5.0
AVERAGED_EVERY = 4  # steps
EMA_LIMIT = 0.975  # for so many steps at once
MEET_EVERY = 12  # steps
MEETING_POINT = "tcp://127.0.0.1:29517"
SAVE_EVERY = 150.0  # seconds


def alphas_bar() -> Tensor:
    """The product of 1 - beta over 1,000 steps; SD 1.x's "scaled linear" betas."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def half_scaled_attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Plain attention, quick to differentiate on a CPU: the scale is put on q, the smaller one."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores, dim=-1, dtype=scores.dtype) @ v


class Painter(nn.Module):
    """What one process trains: the U-Net and the text encoder, together."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.unet = UNet(UNET)
        self.text = text_encoder(vocabulary)
        # Each residual branch starts as nothing, as in the code of arXiv:2105.05233.
        for name, parameter in self.unet.named_parameters():
            if "out_layers.3" in name or "proj_out" in name or name.startswith("out.2"):
                nn.init.zeros_(parameter)
        embeddings = self.text.embeddings
        nn.init.normal_(embeddings.token_embedding.weight, std=0.5)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.1)

    def forward(self, x: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """(b 4 h w), (b,), (b 77) -> the noise that is guessed, like x."""
        context = self.text(input_ids=ids).last_hidden_state
        attending = Attending(attend=half_scaled_attend)
        return self.unet(x, timestep, context, None, attending)


def drawn(seed: int, batch: int, mix: draw.Mix, side: int) -> tuple[Tensor, list[str]]:
    """Batch number `seed`: pixels (b 3 H W) in [-1, 1] and captions."""
    examples = [draw.example(seed * batch + i, mix, side) for i in range(batch)]
    pixels = np.stack([draw.pixels(picture) for picture, _ in examples])
    return rearrange(torch.from_numpy(pixels), "b h w c -> b c h w").contiguous(), [
        caption for _, caption in examples
    ]


def heard(captions: list[str], words: Words, rng: np.random.Generator) -> Tensor:
    """Token ids (b 77); some captions dropped, prefixed or with a word that is not known."""
    said: list[str] = []
    unknown: list[int | None] = []
    for caption in captions:
        if rng.random() < 0.1:
            caption = f"{PREFIXES[rng.integers(len(PREFIXES))]} {caption}"
        said.append("" if rng.random() < DROPPED_CAPTIONS else caption)
        unknown.append(int(rng.integers(6)) if said[-1] and rng.random() < UNKNOWN_WORDS else None)
    return words.ids(said, unknown)


def stage_at(step: int, stages: Sequence[Stretch]) -> tuple[Stretch, float]:
    """The stage of a step and the learning rate there."""
    within = step
    for stage in stages:
        if within < stage.steps:
            return stage, cosine(stage.rate, stage.last_rate, within / stage.steps)
        within -= stage.steps
    raise ValueError(f"step {step} lies behind the last of {step - within} steps")


def cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def noise_loss(painter: Painter, latents: Tensor, ids: Tensor, bars: Tensor, seed: int) -> Tensor:
    """Min-SNR weighted error of the guessed noise; arXiv:2006.11239, eq. 14, and 2303.09556."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(latents)
    # One timestep from each of `batch` equal strata: less variance than independent draws.
    offsets = torch.rand(batch, generator=generator)
    timestep = ((torch.arange(batch) + offsets) * 1000 / batch).long().clamp(max=999)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    bar = bars[timestep].to(latents)
    timestep = timestep.to(latents.device)
    mixed = bar.sqrt().view(-1, 1, 1, 1) * latents + (1 - bar).sqrt().view(-1, 1, 1, 1) * noise
    with torch.autocast(latents.device.type, torch.bfloat16):
        guess = painter(mixed, timestep, ids)
    snr = bar / (1 - bar)
    weight = snr.clamp(max=SNR_LIMIT) / snr
    return (weight * (guess.float() - noise).square().mean((1, 2, 3))).mean()


def autoencoder_loss(vae: VAE, pixels: Tensor, latents: Tensor, seed: int) -> Tensor:
    """How badly the decoder reads, half of it the encoder's latents and half the given ones.

    The given ones get a little noise. The encoder's may help the decoder as long as they stay
    close to the given ones, which the U-Net learns on.
    """
    generator = torch.Generator().manual_seed(seed)
    amount = 0.1 * torch.rand(len(latents), 1, 1, 1, generator=generator)
    noise = (amount * torch.randn(latents.shape, generator=generator)).to(latents)
    half = len(pixels) // 2
    with torch.autocast(pixels.device.type, torch.bfloat16):
        encoded, _ = vae.encode(pixels[:half])
        decoded = vae.decode(torch.cat((encoded.float(), (latents + noise)[half:])))
    error = decoded.float() - pixels
    weight = rim_weight(pixels)
    reading = (weight * (READING_L1 * error.abs() + READING_L2 * error.square())).mean()
    return reading + functional.smooth_l1_loss(encoded.float(), latents[:half], beta=0.1)


def rim_weight(pixels: Tensor) -> Tensor:
    """More for the two outermost rows and columns, where padding left a frame: (1 1 H W)."""
    weight = torch.full_like(pixels[:1, :1], RIM_WEIGHT)
    weight[:, :, 2:-2, 2:-2] = 1.0
    return weight


def basis_at(work: Path) -> Basis:
    """The basis of the latents; fitted on 600 drawings the first time."""
    path = work / "basis.pt"
    if not path.exists():
        pixels, _ = drawn(10**7, 600, EVERYTHING, draw.SIZE)
        basis = fitted(pixels)
        save({"mean": basis.mean, "directions": basis.directions, "std": basis.deviation}, path)
    stored = torch.load(path, weights_only=True)
    return Basis(stored["mean"], stored["directions"], stored["std"])


def save(state: dict[str, Any], path: Path) -> None:
    """Writes beside the file, then takes its place: a reader never sees half a checkpoint."""
    beside = path.with_suffix(f".{os.getpid()}")
    torch.save(state, beside)
    beside.replace(path)


@dataclass
class Run:
    """A network in training, with its average, its optimiser and how far it has come."""

    name: str
    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    work: Path
    step: int = 0
    seconds: float = 0.0
    loss: float | None = None
    """Running mean over about 100 steps, for the log."""
    saves: bool = True

    @property
    def path(self) -> Path:
        return self.work / f"{self.name}.pt"

    def load(self) -> None:
        """Takes up the checkpoint, where there is one."""
        if self.path.exists():
            stored = torch.load(self.path, weights_only=True)
            self.network.load_state_dict(stored["network"])
            self.average.load_state_dict(stored["average"])
            self.optimiser.load_state_dict(stored["optimiser"])
            self.step, self.seconds = stored["step"], stored["seconds"]

    def save(self) -> None:
        if not self.saves:
            return
        state = {part: getattr(self, part).state_dict() for part in ("network", "average")}
        state["optimiser"] = self.optimiser.state_dict()
        save({**state, "step": self.step, "seconds": self.seconds}, self.path)

    def learn(self, loss: Tensor, rate: float) -> None:
        """One step of AdamW (arXiv:1711.05101) and of the running average."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / WARM_UP)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimiser.step()
        self.step += 1
        value = loss.item()
        self.loss = value if self.loss is None else self.loss + (value - self.loss) / 100
        if self.step % AVERAGED_EVERY == 0:
            decay = min(EMA_LIMIT, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.average.parameters()), list(self.network.parameters()), 1 - decay
                )


@dataclass(frozen=True)
class Crew:
    """Processes that train one network together, each on pictures of its own.

    They put in the mean of their weights every MEET_EVERY steps: local SGD, arXiv:1805.09767.
    """

    member: int = 0
    size: int = 1

    def assembled(self) -> Crew:
        """Waits for the others on a port of this machine."""
        if self.size > 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            distributed.init_process_group(
                "gloo", init_method=MEETING_POINT, rank=self.member, world_size=self.size
            )
        return self

    @torch.no_grad()
    def meet(self, run: Run) -> None:
        """Every member's network becomes the mean of all, where it is time for that."""
        if self.size > 1 and run.step % MEET_EVERY == 0:
            weights = nn.utils.parameters_to_vector(run.network.parameters())
            distributed.all_reduce(weights)
            nn.utils.vector_to_parameters(weights / self.size, run.network.parameters())


ALONE = Crew()


def begun(name: str, make: Callable[[], nn.Module], work: Path) -> Run:
    """A run from its checkpoint, or from the fixed seed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network, average = make().to(device), make().to(device)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    run = Run(name, network, average, optimiser, work)
    run.load()
    return run


def steps_of(run: Run, total: int) -> Iterator[int]:
    """The step numbers still to do; saves and logs while they are being done."""
    last_saved = last_logged = time.monotonic()
    used = time.process_time()
    while run.step < total:
        yield run.step
        run.seconds += time.process_time() - used
        used, now = time.process_time(), time.monotonic()
        if run.step % 50 == 0:
            pace = round((now - last_logged) / 50, 3)
            last_logged = now
            line = {
                "step": run.step,
                "of": total,
                "loss": round(run.loss or 0.0, 4),
                "wall_per_step": pace,
            }
            print(json.dumps({**line, "cpu_seconds": round(run.seconds)}), flush=True)
        if now - last_saved > SAVE_EVERY:
            run.save()
            last_saved = now
    run.save()


def train_painter(work: Path, crew: Crew = ALONE) -> None:
    """U-Net and text encoder, through all stages."""
    words, basis, bars = Words(), basis_at(work), alphas_bar()
    run = begun("painter", lambda: Painter(len(words.tokens)), work)
    assert isinstance(run.network, Painter)
    run.saves = crew.member == 0
    crew.assembled()
    for step in steps_of(run, sum(stage.steps for stage in STAGES)):
        stage, rate = stage_at(step, STAGES)
        number = step * crew.size + crew.member
        pixels, captions = drawn(number, stage.batch, stage.mix, stage.side)
        ids = heard(captions, words, np.random.default_rng(number))
        device = next(run.network.parameters()).device
        latents = basis.latents(pixels).to(device)
        loss = noise_loss(run.network, latents, ids.to(device), bars, number)
        run.learn(loss, rate)
        crew.meet(run)


def train_autoencoder(work: Path) -> None:
    """Encoder and decoder, on everything that can be drawn."""
    basis = basis_at(work)
    run = begun("autoencoder", lambda: VAE(AUTOENCODER), work)
    assert isinstance(run.network, VAE)
    for step in steps_of(run, sum(stretch.steps for stretch in READINGS)):
        pixels, _ = drawn(10**6 + step, 4, EVERYTHING, draw.SIZE)
        device = next(run.network.parameters()).device
        latents = basis.latents(pixels).to(device)
        loss = autoencoder_loss(run.network, pixels.to(device), latents, step)
        run.learn(loss, stage_at(step, READINGS)[1])


def train_all(work: Path) -> None:
    """Both parts in two processes, then the export, into the work folder."""
    basis_at(work)
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", "core.pocket.train", part, "--work", str(work)],
            stdout=(work / f"{part}.log").open("a"),
        )
        for part in ("painter", "autoencoder")
    ]
    codes = [part.wait() for part in parts]
    if any(codes):
        raise SystemExit(f"a part of the training failed; see the logs in {work}")
    command = [sys.executable, "-m", "core.pocket.export", "--work", str(work)]
    subprocess.run([*command, "--target", str(work / "pocket.safetensors")], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=("all", "painter", "autoencoder"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one part")
    parser.add_argument("--member", type=int, default=0, help="which of the painter's processes")
    parser.add_argument("--crew", type=int, default=1, help="how many train the painter together")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    if arguments.part == "painter":
        train_painter(arguments.work, Crew(arguments.member, arguments.crew))
    else:
        {"all": train_all, "autoencoder": train_autoencoder}[arguments.part](arguments.work)


if __name__ == "__main__":
    main()
