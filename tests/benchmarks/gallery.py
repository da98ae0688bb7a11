"""How quick the gallery is with many pictures: pages, searches, adding, scanning.

    .venv/bin/python -m tests.benchmarks.gallery [rows] [files]

Rows are generated without files; the scan reads real ones. Prints the median of 20 runs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from core.gallery import Gallery
from core.images.capsule import encoded
from core.registry import built_in
from core.request import GenerationRequest
from tests.core.gallery.test_gallery import fill

TEXT = "an owl\nNegative prompt: day\nSteps: 9, Sampler: Euler, CFG scale: 7, Seed: 5, Model: other"


def median(work: Callable[[], object], runs: int = 20) -> float:
    """Milliseconds."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def show(what: str, milliseconds: float) -> None:
    print(f"{what:<34}{milliseconds:>9.2f} ms")


def main(rows: int, files: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gallery = Gallery(folder / "index")
        fill(folder / "index", rows)
        print(f"{rows:,} pictures, pages of 60")
        show("first page", median(lambda: gallery.page("me")))
        show("page in the middle", median(lambda: gallery.page("me", before=f"{rows / 2}_0")))
        show("everybody's first page", median(gallery.page))
        show("a common word", median(lambda: gallery.page("me", words="fox")))
        show("two words, one rare", median(lambda: gallery.page("me", words="fox snow77")))
        show("a word that nowhere stands", median(lambda: gallery.page("me", words="zebra")))
        show("a word without FTS5 (LIKE)", median(lambda: gallery.page("me", words="狐")))
        show("one model, starred", median(lambda: gallery.page("me", model="l-3", starred=True)))
        show("names of models", median(lambda: gallery.models("me")))
        show("count", median(lambda: gallery.count("me")))
        picture = folder / "outputs" / "0.png"
        picture.parent.mkdir()
        data = encoded(Image.effect_noise((512, 512), 60).convert("RGB"), "PNG", TEXT)
        picture.write_bytes(data)
        request = GenerationRequest(prompt="a fox")
        show("adding one", median(lambda: gallery.add(picture, request, (512, 512))))
        show("thumbnail, new (512 x 512)", median(lambda: gallery._thumbs.of(picture, 256), 1))
        show("thumbnail, kept", median(lambda: gallery._thumbs.of(picture, 256)))
        for number in range(1, files):
            (picture.parent / f"{number}.png").write_bytes(data)
        registry = built_in()
        outputs = picture.parent
        show(f"scan of {files:,} new files", median(lambda: gallery.scan(outputs, registry), 1))
        show("scan with nothing new", median(lambda: gallery.scan(outputs, registry), 3))
        gallery.close()


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:3]]
    main(*given, *(10_000, 500)[len(given) :])
