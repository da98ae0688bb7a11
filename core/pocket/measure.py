"""Measures the shipped weights through the project's own core: `python -m core.pocket.measure`.

All seeds are fixed and nothing is picked: every held-out pair of concept and colour is painted
with each seed. Writes numbers (JSON) and contact sheets (PNG) into the work folder.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from core.events import ImageDone
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.models.store import Store
from core.pocket import draw, judge
from core.pocket.train import RICH
from core.registry import built_in
from core.request import GenerationRequest, Record
from core.settings import default_settings

CFG_SCALES: Final = (1.0, 3.0, 7.0)
BEYOND: Final = (
    "a penguin in the snow",
    "a fish under water",
    "a rocket in the night sky",
    "a sunflower in a meadow",
    "a cactus in the desert",
    "a balloon at sunset",
    "a house in the mountains",
    "a car on the beach",
    "a red circle on a white background",
    "a blue triangle on a yellow background",
    "a green square on a pink background",
    "an orange ring on a black background",
    "a star on a blue to purple gradient background",
    "a small heart on a white background",
    "a large pumpkin on a black background",
    "a ghost on the left on a purple background",
    "two apples on a white background",
    "three stars on a black background",
    "a cat and a fish on a cyan background",
    "a sun and a moon on a blue background",
    "a penguin",
    "ghost",
    "an emoji of a frog on a pink background",
    "a very nice strawberry on a cyan background",
)


def house(root: Path) -> House:
    """The project's own core with nothing but the shipped weights in its catalog."""
    settings = default_settings(root)
    catalog = Catalog(settings)
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


def asked(spec: draw.Spec) -> str:
    """The plainest prompt for one thing on one colour."""
    subject = draw.with_article(spec.subjects[0].name)
    return f"{subject} on {draw.with_article(spec.background)} background"


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size, row by row."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i % columns * width, i // columns * height))
    return whole


def share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 3)


def of_the_judge(model: Checkpoint) -> dict[str, Any]:
    """How often the judge is right on drawings of all pairs, and on their round trips."""
    specs = [draw.Spec((draw.Subject(n),), c) for n in draw.CONCEPTS for c in draw.COLOURS]
    drawings = [draw.paint(spec, np.random.default_rng(i)) for i, spec in enumerate(specs)]
    names = [spec.subjects[0].name for spec in specs]
    verdicts = [judge.judged(drawing) for drawing in drawings]
    again = [
        judge.concept_of(round_trip(model, drawing), spec.background) == spec.subjects[0].name
        for drawing, spec in list(zip(drawings, specs, strict=True))[::5]
    ]
    return {
        "drawings": len(specs),
        "concept": share([v[0] == name for v, name in zip(verdicts, names, strict=True)]),
        "background": share([v[1] == s.background for v, s in zip(verdicts, specs, strict=True)]),
        "round trips": len(again),
        "concept after a round trip": share(again),
    }


def of_held_out(rooms: House, seeds: Sequence[int], work: Path) -> dict[str, Any]:
    """Concept and background of every held-out pair, and what was taken for what."""
    pictures, concepts, backgrounds = [], [], []
    confused: Counter[str] = Counter()
    for spec in draw.held_out_specs():
        wanted = spec.subjects[0].name
        for picture in painted(rooms, asked(spec), seeds):
            # Against the background that was asked for, so that a wrong one is counted once.
            concept = judge.concept_of(picture, spec.background)
            pictures.append(picture)
            concepts.append(concept == wanted)
            backgrounds.append(judge.background_of(picture) == spec.background)
            if concept != wanted:
                confused[f"{wanted} taken for {concept}"] += 1
    sheet(pictures, len(seeds) * 3).save(work / "held-out.png")
    return {
        "pictures": len(pictures),
        "concept": share(concepts),
        "background": share(backgrounds),
        "confused": dict(confused.most_common()),
    }


def of_all_concepts(rooms: House, seed: int, work: Path) -> dict[str, Any]:
    """Every concept once, on colours that go round; first seed, nothing picked."""
    colours = list(draw.COLOURS)
    pictures, hits, missed = [], [], []
    for number, name in enumerate(draw.CONCEPTS):
        spec = draw.Spec((draw.Subject(name),), colours[(number * 5 + 3) % len(colours)])
        (picture,) = painted(rooms, asked(spec), [seed])
        pictures.append(picture)
        hits.append(judge.concept_of(picture, spec.background) == name)
        if not hits[-1]:
            missed.append(name)
    sheet(pictures, 8).save(work / "concepts.png")
    return {"pictures": len(hits), "concept": share(hits), "missed": missed}


def of_guidance(rooms: House, seed: int, work: Path) -> dict[str, Any]:
    """Held-out pairs at other CFG scales: hits, and the mean pixel distance to CFG 5 (0 to 255)."""
    specs = draw.held_out_specs()
    usual = [painted(rooms, asked(spec), [seed])[0] for spec in specs]
    found: dict[str, Any] = {}
    rows = list(usual)
    for scale in CFG_SCALES:
        pictures = [painted(rooms, asked(spec), [seed], cfg_scale=scale)[0] for spec in specs]
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
    for seed, name in enumerate(draw.CONCEPTS):
        prompt = draw.with_article(name)
        (plain,) = painted(rooms, prompt, [seed])
        background = judge.background_of(plain)
        negative = f"on {draw.with_article(background)} background"
        (other,) = painted(rooms, prompt, [seed], negative_prompt=negative)
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
        decibels = []
        for seed in range(10**12, 10**12 + 48):
            picture = draw.example(seed, mix)[0]
            back = round_trip(model, picture)
            decibels.append(psnr(picture, back))
            if len(decibels) <= 8:
                rows += [picture, back]
        found[f"{label}, mean dB"] = round(float(np.mean(decibels)), 2)
        found[f"{label}, lowest dB"] = round(min(decibels), 2)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"))
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each held-out pair")
    parser.add_argument("--quick", action="store_true", help="held-out pairs and sheets only")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        rooms = house(Path(root))
        model = loaded(rooms)
        found: dict[str, Any] = {"judge": of_the_judge(model)}
        found["round trip"] = of_round_trip(model, work)
        found["all concepts"] = of_all_concepts(rooms, 0, work)
        found["held out"] = of_held_out(rooms, range(arguments.seeds), work)
        if not arguments.quick:
            found["guidance"] = of_guidance(rooms, 0, work)
            found["negative prompt"] = of_negative_prompt(rooms, work)
        beyond = [painted(rooms, prompt, [0])[0] for prompt in BEYOND]
        sheet(beyond, 8).save(work / "beyond.png")
    found["seconds"] = round(time.monotonic() - began)
    text = json.dumps(found, indent=1)
    (work / "measured.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
