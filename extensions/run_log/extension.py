"""A line in a table for every picture: when, what, how long."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

from core.events import Event, ImageDone
from core.extend import Place, Reader, hookimpl

COLUMNS = (
    "time",
    "checkpoint",
    "seed",
    "steps",
    "cfg_scale",
    "sampler",
    "width",
    "height",
    "prompt",
    "file",
)


def logging_to(path: Path) -> Callable[[Event], None]:
    """A reader that adds a line to the table at `path` for every picture."""

    def read(event: Event) -> None:
        if not isinstance(event, ImageDone):
            return
        request = event.request
        values = [getattr(request, name) for name in COLUMNS[1:-1]]
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            if is_new:
                table.writerow(COLUMNS)
            made = time.strftime("%Y-%m-%d %H:%M:%S")
            table.writerow([made, *values, "" if event.path is None else event.path.name])

    return read


@hookimpl
def readers(place: Place) -> list[Reader]:
    return [Reader("run_log", logging_to(place.data / "pictures.csv"))]
