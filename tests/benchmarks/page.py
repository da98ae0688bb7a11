"""The page's weight, its time to first interaction, and a click until the picture is there.

Chromium looks at the real server, warm: torch is in and the shipped model loaded. The first visit
has an empty cache, the second one what the first left. Needs playwright and a Chromium.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Asked, Row
from tests.benchmarks.starting import answers, launched

READY = """() => {
    const button = document.querySelector("#txt2img_generate");
    const status = document.querySelector('[data-v="status"]');
    return button?.offsetParent && !button.disabled && status?.textContent.includes("Ready.");
}"""
WEIGHED = """() => {
    const [page] = performance.getEntriesByType("navigation");
    const files = performance.getEntriesByType("resource");
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    return {
        bytes: [page, ...files].reduce((sum, one) => sum + one.transferSize, 0),
        requests: 1 + files.length,
        paint: paint ? paint.startTime / 1000 : null,
        now: performance.now() / 1000,
    };
}"""
DONE = """() => document.querySelector('[data-v="status"]')?.textContent.includes("Done in")"""
PROMPT = "#txt2img_prompt textarea"


def rows(asked: Asked) -> Iterator[Row]:
    if importlib.util.find_spec("playwright") is None or chromium() is None:
        print("the page was left out: it needs playwright and Chromium (launch.py test)")
        return
    visits = [visited(clicks=asked.rounds if number == 0 else 0) for number in range(2)]
    for name, cache in (("first", "empty cache"), ("second", "the page seen before")):
        weighed = [visit[name] for visit in visits]
        for key, what, unit, scale in (
            ("bytes", "bytes transferred", "kB", 1e-3),
            ("requests", "requests", "", 1),
            ("paint", "first contentful paint", "s", 1),
            ("now", "ready for the first interaction", "s", 1),
        ):
            yield Row(f"page, {cache}: {what}", [scale * w[key] for w in weighed], unit=unit)
    clicks = visits[0]["clicks"]
    note = f"{statistics.median(v['shown'] for v in clicks):.2f} s by the page's own clock"
    yield Row(
        "click to picture in the browser, warm, the shipped model",
        [click["wall"] for click in clicks],
        threads=None,
        most=5.0,
        note=note,
    )


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def visited(clicks: int) -> dict[str, Any]:
    """Two visits with one cache, then so many clicks after one that warms up."""
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as folder,
        launched(Path(folder)) as (_, address, began),
        sync_playwright() as playwright,
    ):
        while not json.loads(answers(address + "/api/session", began))["engine"]["ready"]:
            time.sleep(0.1)
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_context().new_page()
        found = {}
        for name in ("first", "second"):
            page.goto(address)
            page.wait_for_function(READY, timeout=120_000)
            found[name] = page.evaluate(WEIGHED)
        page.fill(PROMPT, "a red apple on a blue background")
        found["clicks"] = [_clicked(page) for _ in range(clicks + 1)][1:] if clicks else []
        browser.close()
    return found


def _clicked(page: Any) -> dict[str, float]:
    """Seconds from the click until the page says that the picture is done."""
    began = time.perf_counter()
    page.click("#txt2img_generate")
    page.wait_for_function(f"() => !({DONE})()", timeout=60_000)
    page.wait_for_function(DONE, timeout=120_000)
    wall = time.perf_counter() - began
    status = page.locator('[data-v="status"]').inner_text()
    said = [float(word) for word in status.split() if word.replace(".", "", 1).isdigit()]
    return {"wall": wall, "shown": said[0] if said else float("nan")}
