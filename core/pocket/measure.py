"""Measures the shipped weights through the project's own core: `python -m core.pocket.measure`.

All seeds are fixed and nothing is picked: `trials` says what is asked for, all of it held out from
training. Writes numbers (JSON) and contact sheets (PNG) into the work folder.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from core.events import ImageDone
from core.generate import House, generate
from core.models.catalog import POCKET, Catalog
from core.models.checkpoint import Checkpoint
from core.models.store import Store
from core.pocket import draw, judge
from core.pocket.train import RICH
from core.pocket.trials import Trial, Verdict, prompt, trials
from core.registry import built_in
from core.request import GenerationRequest, Record
from core.settings import default_settings

CFG_SCALES: Final = (1.0, 3.0, 7.0)
SAMPLES: Final = (
    "a red apple on a blue background",
    "a panda on a green background",
    "a rocket in the night sky",
    "a burger on a yellow background",
    "a cat and a fish on a cyan background",
    "three stars on a black background",
    "a boat on the sea",
    "a unicorn on a purple background",
    "a ghost on a black background",
    "a lion on an orange to red gradient background",
    "a snowman in the snow",
    "two penguins on a pink background",
    "a gift on a white background",
    "an owl at sunset",
    "a panda and a heart on a yellow background",
    "a blue circle on a white background",
    "a small turtle on a cyan background",
    "a whale under water",
    "a clock on a red background",
    "a bus on a gray background",
    "a lemon on the left on a blue background",
    "four tulips on a green background",
    "a house in a meadow",
    "an elephant on a pink background",
)
"""Prompts of the sheet that ships, each with its number as the seed."""


def house(root: Path, file: Path) -> House:
    """The project's own core with nothing but these weights in its catalog."""
    settings = default_settings(root)
    catalog = Catalog(settings, file)
    return House(built_in(), catalog, Store(settings, catalog))


def painted(rooms: House, prompt: str, seeds: Sequence[int], **fields: Any) -> list[Image.Image]:
    """One picture for each seed, with 20 steps of Euler at CFG 5 unless told otherwise."""
    told = {"cfg_scale": 5.0, "steps": 20, "sampler": "euler", "record": Record.NOTHING, **fields}
    pictures = []
    for seed in seeds:
        request = GenerationRequest(prompt=prompt, seed=seed, **told)
        done = [event for event in generate(request, rooms) if isinstance(event, ImageDone)]
        pictures.append(done[0].image)
    return pictures


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size, row by row."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i % columns * width, i // columns * height))
    return whole


def share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 3)


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """How many of the verdicts are right, for each thing that they are about."""
    return {
        name: share([verdict.right[name] for verdict in verdicts]) for name in verdicts[0].right
    }


def of_the_judge(model: Checkpoint) -> dict[str, Any]:
    """The verdicts on real drawings of all that is asked for, and on every third's round trip."""
    found = {}
    for name, trial in trials(1).items():
        drawings = [
            (draw.paint(spec, np.random.default_rng(seed)), spec)
            for seed, spec in enumerate(trial.specs)
        ]
        found[name] = {
            "drawings": shares([trial.verdict(drawing, spec) for drawing, spec in drawings]),
            "round trips": shares(
                [trial.verdict(round_trip(model, d), spec) for d, spec in drawings[::3]]
            ),
        }
    return found


def of_trial(rooms: House, name: str, trial: Trial, work: Path) -> dict[str, Any]:
    """One kind of picture: what is right of all that was painted, and what was taken for what.

    With one seed for each prompt the seeds are the prompts' numbers, else 0 and up for each.
    """
    pictures, verdicts = [], []
    mistaken: Counter[str] = Counter()
    for number, spec in enumerate(trial.specs):
        seeds = range(trial.seeds) if trial.seeds > 1 else [number]
        for picture in painted(rooms, prompt(spec), seeds):
            verdict = trial.verdict(picture, spec)
            pictures.append(picture)
            verdicts.append(verdict)
            if not next(iter(verdict.right.values())):
                mistaken[f"{prompt(spec)}: {verdict.seen}"] += 1
    sheet(pictures, 12).save(work / f"{name.replace(' ', '-')}.png")
    return {
        "pictures": len(pictures),
        **shares(verdicts),
        "frame": round(float(np.mean([frame(picture) for picture in pictures])), 2),
        "mistaken": dict(mistaken.most_common()),
    }


def frame(picture: Image.Image) -> float:
    """How far the outermost pixels are from those four further in (mean, 0 to 255)."""
    values = np.asarray(picture, dtype=np.float32)
    outer = (values[0], values[-1], values[:, 0], values[:, -1])
    inner = (values[4], values[-5], values[:, 4], values[:, -5])
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(outer, inner, strict=True)]))


def of_all_concepts(rooms: House, seed: int, work: Path) -> dict[str, Any]:
    """Every concept once, on colours that go round; first seed, nothing picked."""
    colours = list(draw.COLOURS)
    pictures, hits, missed = [], [], []
    for number, name in enumerate(draw.CONCEPTS):
        spec = draw.Spec((draw.Subject(name),), colours[(number * 5 + 3) % len(colours)])
        (picture,) = painted(rooms, prompt(spec), [seed])
        pictures.append(picture)
        hits.append(judge.concept_of(picture, spec.background) == name)
        if not hits[-1]:
            missed.append(name)
    sheet(pictures, 8).save(work / "concepts.png")
    return {"pictures": len(hits), "concept": share(hits), "missed": missed}


def of_guidance(rooms: House, seed: int, work: Path) -> dict[str, Any]:
    """Every third held-out pair at other CFG scales: hits, and distance to CFG 5 (0 to 255)."""
    specs = draw.held_out_specs()[::3]
    usual = [painted(rooms, prompt(spec), [seed])[0] for spec in specs]
    found: dict[str, Any] = {}
    rows = list(usual)
    for scale in CFG_SCALES:
        pictures = [painted(rooms, prompt(spec), [seed], cfg_scale=scale)[0] for spec in specs]
        shown = list(zip(pictures, specs, usual, strict=True))
        concepts = [judge.concept_of(p, s.background) == s.subjects[0].name for p, s, _ in shown]
        backgrounds = [judge.background_of(p) == s.background for p, s, _ in shown]
        distance = float(np.mean([difference(p, other) for p, _, other in shown]))
        found[f"cfg {scale:g}"] = {
            "concept": share(concepts),
            "background": share(backgrounds),
            "distance": round(distance, 1),
        }
        rows += pictures
    sheet(rows, len(specs)).save(work / "guidance.png")
    return found


def of_negative_prompt(rooms: House, work: Path) -> dict[str, Any]:
    """ "a <concept>" alone, then with its own background as negative prompt: is that one gone?"""
    kept, pairs = [], []
    for seed, name in enumerate(list(draw.CONCEPTS)[::2]):
        words = draw.with_article(name)
        (plain,) = painted(rooms, words, [seed])
        background = judge.background_of(plain)
        negative = f"on {draw.with_article(background)} background"
        (other,) = painted(rooms, words, [seed], negative_prompt=negative)
        kept.append(judge.background_of(other) == background)
        pairs += [plain, other]
    sheet(pairs, 12).save(work / "negative.png")
    return {"pictures": len(kept), "background kept": share(kept)}


def difference(first: Image.Image, second: Image.Image) -> float:
    """Mean distance of two pictures' values, 0 to 255."""
    values = [np.asarray(picture, dtype=np.float32) for picture in (first, second)]
    return float(np.abs(values[0] - values[1]).mean())


@torch.inference_mode()
def round_trip(model: Checkpoint, picture: Image.Image) -> Image.Image:
    """The picture encoded and decoded again."""
    pixels = rearrange(torch.from_numpy(draw.pixels(picture)), "h w c -> 1 c h w")
    mean, _ = model.vae.encode(pixels.to(model.device, model.dtype))
    back = model.vae.decode(mean).float().cpu().clamp(-1, 1)
    values = ((rearrange(back, "1 c h w -> h w c") + 1) * 127.5).round().byte()
    return Image.fromarray(values.numpy())


def of_round_trip(model: Checkpoint, work: Path) -> dict[str, float]:
    """Encoder, then decoder, on drawings outside the training seeds: PSNR in dB."""
    found = {}
    rows: list[Image.Image] = []
    for label, mix in (("one thing on a colour", draw.Mix()), ("everything", RICH)):
        decibels, frames = [], []
        for seed in range(10**12, 10**12 + 48):
            picture = draw.example(seed, mix)[0]
            back = round_trip(model, picture)
            decibels.append(psnr(picture, back))
            frames.append(frame(back) - frame(picture))
            if len(decibels) <= 8:
                rows += [picture, back]
        found[f"{label}, mean dB"] = round(float(np.mean(decibels)), 2)
        found[f"{label}, lowest dB"] = round(min(decibels), 2)
        found[f"{label}, frame"] = round(float(np.mean(frames)), 2)
    sheet(rows, 8).save(work / "round-trip.png")
    return found


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal to noise of 8-bit pictures, dB."""
    values = [np.asarray(picture, dtype=np.float32) for picture in (first, second)]
    return 10 * math.log10(255**2 / float(np.square(values[0] - values[1]).mean()))


def loaded(rooms: House) -> Checkpoint:
    """The shipped checkpoint."""
    loading = rooms.store.loaded(rooms.catalog.checkpoint(None).name)
    while True:
        try:
            next(loading)
        except StopIteration as stop:
            model: Checkpoint = stop.value
            return model


def parts(
    rooms: House, seeds: int, quick: bool, work: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of the report, by name, as it is done."""
    model = loaded(rooms)
    yield "round trip", of_round_trip(model, work)
    for name, trial in trials(seeds).items():
        yield name, of_trial(rooms, name, trial, work)
    yield "all concepts", of_all_concepts(rooms, 0, work)
    samples = [painted(rooms, words, [seed])[0] for seed, words in enumerate(SAMPLES)]
    sheet(samples, 8).save(work / "samples.png")
    yield "samples", {"pictures": len(samples)}
    if not quick:
        yield "judge", of_the_judge(model)
        yield "guidance", of_guidance(rooms, 0, work)
        yield "negative prompt", of_negative_prompt(rooms, work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"))
    parser.add_argument("--file", type=Path, default=POCKET, help="the weights to measure")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of one thing on a colour")
    parser.add_argument("--quick", action="store_true", help="what is asked for, and no more")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        rooms = house(Path(root), arguments.file)
        for name, part in parts(rooms, arguments.seeds, arguments.quick, work):
            found[name] = part
            print(json.dumps({name: part}), flush=True)
    found["seconds"] = round(time.monotonic() - began)
    (work / "measured.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
