"""Measures the two guides that ship through our own core: `python -m core.pocket.guides_measure`.

Everything is asked for with a guide and without, at the same seeds, all of it held out from
training and nothing picked. Writes numbers (JSON) and contact sheets (PNG) into the work folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from core.generate import House
from core.images.inputs import Inputs
from core.models.catalog import POCKET
from core.pocket import draw, judge
from core.pocket.guides_draw import Drawing, Part, drawn, made, patches, scattered
from core.pocket.guides_train import FOLDER, NAMES, PREPROCESSORS
from core.pocket.measure import house, painted, share, sheet
from core.pocket.trials import prompt
from core.request import ControlUse

LINE: Final = 3  # pixels, of an outline
OUTLINE, PALETTE = NAMES["edges"], NAMES["colour"]


def guided_house(root: Path, file: Path, guides: Path) -> House:
    """The project's own core with these weights and these guides."""
    folder = root / "models" / "ControlNet"
    folder.mkdir(parents=True)
    for guide in guides.glob("*.safetensors"):
        shutil.copy(guide, folder)
    return replace(house(root, file), inputs=Inputs(root / "inputs"))


def use(rooms: House, model: str, guide: Image.Image, preprocessor: str = "none") -> ControlUse:
    """A guide as a request takes it."""
    assert rooms.inputs is not None
    return ControlUse(model=model, picture=rooms.inputs.add(guide), preprocessor=preprocessor)


def held_out(every: int, anywhere: bool) -> list[Drawing]:
    """Drawings of things on colours they never stood on: in the middle, or anywhere and smaller."""
    found = []
    for number, spec in enumerate(draw.held_out_specs()[::every]):
        rng = np.random.default_rng(10**9 + number)
        found.append(scattered(spec, rng) if anywhere else drawn(spec, rng))
    return found


def rims(drawing: Drawing) -> Image.Image:
    """The outline alone, as a person would draw it: white on black."""
    return thick(made("canny", drawing.things.convert("RGB"), low=20, high=60))


def lines(drawing: Drawing) -> Image.Image:
    """All edges of the picture."""
    return thick(made("canny", drawing.picture, low=60, high=120))


def thick(guide: Image.Image) -> Image.Image:
    return guide.filter(ImageFilter.MaxFilter(LINE))


def overlap(picture: Image.Image, drawing: Drawing) -> float:
    """What is painted and what was drawn: their common area as a share of both together."""
    seen = judge.differing(picture, drawing.spec.background)
    wanted = np.asarray(drawing.things) > 0
    return float((seen & wanted).sum() / max((seen | wanted).sum(), 1))


def of_outlines(rooms: House, drawings: Sequence[Drawing], path: Path) -> dict[str, Any]:
    """Overlap with the drawing, and whether thing and background are right."""
    kinds = {
        "no guide": lambda drawing: (),
        "its rim": lambda drawing: (use(rooms, OUTLINE, rims(drawing)),),
        "all its edges": lambda drawing: (use(rooms, OUTLINE, lines(drawing)),),
    }
    rows: list[list[Image.Image]] = [[rims(drawing) for drawing in drawings]]
    found: dict[str, Any] = {"pictures": len(drawings)}
    for name, guides in kinds.items():
        pictures = [
            painted(rooms, prompt(drawing.spec), [seed], controls=guides(drawing))[0]
            for seed, drawing in enumerate(drawings)
        ]
        pairs = list(zip(pictures, drawings, strict=True))
        found[name] = {
            "overlap": round(float(np.mean([overlap(p, d) for p, d in pairs])), 3),
            "thing": share([is_thing(p, d) for p, d in pairs]),
            "background": share([judge.background_of(p) == d.spec.background for p, d in pairs]),
        }
        rows.append(pictures)
    interleaved(rows).save(path)
    return found


def is_thing(picture: Image.Image, drawing: Drawing) -> bool:
    (subject,) = drawing.spec.subjects
    return judge.concept_of(picture, drawing.spec.background) == subject.name


def of_colours(rooms: House, drawings: Sequence[Drawing], path: Path) -> dict[str, Any]:
    """How far the colours of the guide's regions are from what is painted there, and the thing.

    The guide is a patch of one colour on another; the words name the thing and no background.
    """
    guides = [patches(d, np.random.default_rng(seed)) for seed, d in enumerate(drawings)]
    rows: list[list[Image.Image]] = [guides]
    found: dict[str, Any] = {"pictures": len(drawings)}
    for name in ("no guide", "colours"):
        pictures = []
        for seed, (drawing, guide) in enumerate(zip(drawings, guides, strict=True)):
            uses = () if name == "no guide" else (use(rooms, PALETTE, guide),)
            words = draw.with_article(drawing.spec.subjects[0].name)
            pictures.append(painted(rooms, words, [seed], controls=uses)[0])
        pairs = list(zip(pictures, drawings, guides, strict=True))
        found[name] = {
            "distance": round(float(np.mean([off_colour(p, g) for p, _, g in pairs])), 1),
            "thing": share([is_thing(p, d) for p, d, _ in pairs]),
            "background": share([judge.background_of(p) == d.spec.background for p, d, _ in pairs]),
        }
        rows.append(pictures)
    interleaved(rows).save(path)
    return found


def off_colour(picture: Image.Image, guide: Image.Image) -> float:
    """Mean distance in RGB (0 to 255) of the guide's flat regions from the means painted there."""
    flat = np.asarray(made("segments", guide, colours=4), dtype=np.float32)
    values = np.asarray(picture, dtype=np.float32)
    distances = []
    for colour in np.unique(flat.reshape(-1, 3), axis=0):
        region = (flat == colour).all(axis=-1)
        distances.append((np.linalg.norm(values[region].mean(axis=0) - colour), region.sum()))
    lengths, areas = np.array(distances).T
    return float((lengths * areas).sum() / areas.sum())


def interleaved(rows: Sequence[Sequence[Image.Image]], columns: int = 4) -> Image.Image:
    """A sheet where what belongs together stands side by side."""
    return sheet([one for group in zip(*rows, strict=True) for one in group], columns * len(rows))


def sketches() -> dict[str, Image.Image]:
    """Outlines drawn with a few strokes on white paper, 512 × 512, and a few dabs of colour."""
    return {name: sketch(strokes) for name, strokes in STROKES.items()} | {"dabs": dabs()}


def sketch(strokes: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Image.Image:
    """Black lines on white; points are shares of the side."""
    paper = Image.new("RGB", (512, 512), "white")
    pen = ImageDraw.Draw(paper)
    for kind, points in strokes:
        places = [(512 * x, 512 * y) for x, y in points]
        if kind == "round":
            pen.ellipse((*places[0], *places[1]), outline="black", width=12)
        else:
            pen.line(places, fill="black", width=12, joint="curve")
    return paper


def dabs() -> Image.Image:
    """A yellow dab on blue, off the middle."""
    paper = Image.new("RGB", (512, 512), draw.COLOURS["blue"])
    ImageDraw.Draw(paper).ellipse((60, 180, 300, 440), fill=(235, 195, 60))
    return paper


STROKES: Final[dict[str, Sequence[tuple[str, Sequence[tuple[float, float]]]]]] = {
    "circle": [("round", [(0.15, 0.15), (0.85, 0.85)])],
    "small circle, top left": [("round", [(0.08, 0.08), (0.48, 0.48)])],
    "house": [
        ("line", [(0.22, 0.5), (0.22, 0.88), (0.78, 0.88), (0.78, 0.5)]),
        ("line", [(0.1, 0.52), (0.5, 0.14), (0.9, 0.52), (0.1, 0.52)]),
        ("line", [(0.43, 0.88), (0.43, 0.66), (0.57, 0.66), (0.57, 0.88)]),
    ],
    "heart": [
        (
            "line",
            [
                (0.5, 0.88), (0.16, 0.52), (0.12, 0.34), (0.22, 0.2), (0.36, 0.18), (0.5, 0.32),
                (0.64, 0.18), (0.78, 0.2), (0.88, 0.34), (0.84, 0.52), (0.5, 0.88),
            ],
        )
    ],
    "head with ears": [
        ("round", [(0.15, 0.28), (0.85, 0.9)]),
        ("line", [(0.2, 0.42), (0.18, 0.1), (0.42, 0.29)]),
        ("line", [(0.58, 0.29), (0.82, 0.1), (0.8, 0.42)]),
    ],
    "star": [
        (
            "line",
            [
                (0.5, 0.1), (0.61, 0.38), (0.9, 0.4), (0.67, 0.58), (0.76, 0.88), (0.5, 0.71),
                (0.24, 0.88), (0.33, 0.58), (0.1, 0.4), (0.39, 0.38), (0.5, 0.1),
            ],
        )
    ],
}  # fmt: skip
ASKED: Final[Sequence[tuple[str, str]]] = (
    ("circle", "a donut on a pink background"),
    ("circle", "a ball on a green background"),
    ("circle", "a lion on a blue background"),
    ("small circle, top left", "a sun on a blue background"),
    ("small circle, top left", "a panda in a meadow"),
    ("house", "a house in a meadow"),
    ("house", "a house on a yellow background"),
    ("heart", "a red heart on a white background"),
    ("heart", "a strawberry on a cyan background"),
    ("head with ears", "a cat on a purple background"),
    ("head with ears", "a dog on a green background"),
    ("star", "a star in the night sky"),
    ("dabs", "a chick"),
    ("dabs", "a lemon"),
)
"""Sketches and what they are to become, seeds 0 to 2 each."""


def of_sketches(rooms: House, path: Path) -> dict[str, Any]:
    """What becomes of drawings by hand, with the page's own preprocessors: a sheet to look at."""
    there, pictures = sketches(), []
    for name, words in ASKED:
        part: Part = "colour" if name == "dabs" else "edges"
        guide = use(rooms, NAMES[part], there[name], PREPROCESSORS[part])
        pictures.append(there[name].resize((draw.SIZE, draw.SIZE), Image.Resampling.LANCZOS))
        pictures += painted(rooms, words, range(3), controls=(guide,))
    sheet(pictures, 8).save(path)
    return {"pictures": len(ASKED) * 3}


def parts(rooms: House, every: int, work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of the report, by name, as it is done."""
    yield "sketches", of_sketches(rooms, work / "guides-sketches.png")
    for name, anywhere in (("in the middle", False), ("anywhere", True)):
        drawings = held_out(every, anywhere)
        path = work / f"guides-{name.replace(' ', '-')}.png"
        yield f"outlines, {name}", of_outlines(rooms, drawings, path)
    yield "colours, anywhere", of_colours(rooms, drawings, work / "guides-colours.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"))
    parser.add_argument("--file", type=Path, default=POCKET, help="the weights that are guided")
    parser.add_argument("--guides", type=Path, default=FOLDER, help="the folder of the guides")
    parser.add_argument("--every", type=int, default=1, help="1: every held-out drawing")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        rooms = guided_house(Path(root), arguments.file, arguments.guides)
        for name, part in parts(rooms, arguments.every, work):
            found[name] = part
            print(json.dumps({name: part}), flush=True)
    found["CPU-seconds"] = round(time.process_time() - began)
    (work / "guides-measured.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
