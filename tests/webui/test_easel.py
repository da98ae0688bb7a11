"""Beginning with a picture, in a browser: put in, masked by mouse and by touch, painted anew."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from core.engine.local import LocalEngine
from core.images.start import prepared
from core.registry import built_in
from core.settings import default_settings
from tests.webui.conftest import served
from tests.webui.test_page import BOX, Visitor

SIDE = 128
SAID = '[data-v="start-said"]'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    return LocalEngine(default_settings(tmp_path_factory.mktemp("easel")), built_in())


@pytest.fixture(scope="module")
def server(engine: LocalEngine) -> Iterator[str]:
    yield from served(engine, engine.settings.data_dir.parent)


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, has_touch=True)
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def visitor(page: Page, server: str) -> Iterator[Visitor]:
    visitor = Visitor(page, server)
    yield visitor
    assert not visitor.complaints


def board(page: Page) -> tuple[float, float, float]:
    """The middle of the board on the screen, and the screen's pixels for one of the picture."""
    box = page.locator('[data-v="board"]').bounding_box()
    sheet = page.locator('[data-v="sheet"]').bounding_box()
    assert box is not None and sheet is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, sheet["width"] / SIDE


def drawn_by_mouse(page: Page, points: list[tuple[float, float]]) -> None:
    """A stroke through places of the picture, counted from its middle."""
    x, y, scale = board(page)
    first, *rest = [(x + dx * scale, y + dy * scale) for dx, dy in points]
    page.mouse.move(*first)
    page.mouse.down()
    for point in rest:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def drawn_by_touch(page: Page, points: list[tuple[float, float]]) -> None:
    x, y, scale = board(page)
    fingers = page.context.new_cdp_session(page)
    places = [{"x": x + dx * scale, "y": y + dy * scale} for dx, dy in points]
    for kind, place in zip(("touchStart", *["touchMove"] * len(places[1:])), places, strict=True):
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    fingers.detach()


def photo(folder: Path) -> Path:
    levels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = folder / "photo.png"
    Image.fromarray(levels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return path


def test_only_what_is_painted_over_is_painted_anew(
    visitor: Visitor, engine: LocalEngine, tmp_path: Path
) -> None:
    page = visitor.page
    page.get_by_text("Inpaint", exact=True).click()
    page.fill(BOX, "a red apple on a blue background")
    page.fill("#txt2img_steps input[type=number]", "6")
    page.keyboard.press("Tab")
    page.click("#txt2img_generate")
    visitor.says("Choose a picture to begin from first")

    with page.expect_file_chooser() as chooser:
        page.locator('.v-invite [data-v="start-choose"]').click()
    source = photo(tmp_path)
    chooser.value.set_files(source)
    expect(page.locator(SAID)).to_have_text("128 × 128, painted at this size")
    page.click("#txt2img_generate")
    visitor.says("Paint over what is to change first")

    drawn_by_mouse(page, [(-20, -20), (10, -16), (20, -20)])
    drawn_by_touch(page, [(-16, 18), (0, 20), (16, 18)])
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    page.click("#txt2img_generate")
    visitor.says("Done in")

    (job,) = engine.jobs()
    start = job.request.start
    assert start is not None and start.mask is not None
    painted = np.asarray(engine.inputs.open(start.mask).convert("L"))
    middle = SIDE // 2
    assert painted[middle - 18, middle] == 255, "what the mouse drew"
    assert painted[middle + 19, middle] == 255, "what the finger drew"
    assert painted[middle, middle] == 0 and painted[5, 5] == 0

    acting = prepared(start, engine.inputs, SIDE, SIDE).whole_mask
    assert acting is not None
    kept = np.asarray(acting) == 0
    (saved,) = (engine.settings.outputs_dir).rglob("*.png")
    before, after = (np.asarray(Image.open(path, formats=("PNG",))) for path in (source, saved))
    assert 0.2 < kept.mean() < 0.95
    assert np.array_equal(before[kept], after[kept])
    assert np.abs(before[~kept].astype(int) - after[~kept]).mean() > 10

    # What acted, and what was there before, can be laid over the result.
    page.get_by_role("button", name="Mask", exact=True).click()
    expect(page.locator(".v-used")).to_be_visible()
    page.get_by_role("button", name="Before and after").click()
    expect(page.get_by_label("How much of the picture before is shown")).to_be_visible()


def test_picture_and_mask_survive_a_reload_and_a_change_of_mode(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_text("Text", exact=True).click()
    expect(page.locator(SAID)).to_have_count(0)
    page.reload()
    page.wait_for_function("() => document.querySelector('.v-chip')")
    page.get_by_text("Inpaint", exact=True).click()
    expect(page.locator(SAID)).to_have_text("128 × 128, painted at this size")
    page.wait_for_function(PAINTED, arg=[64, 46])
    page.get_by_role("button", name="Invert").click()
    page.wait_for_function(f"(at) => !({PAINTED})(at)", arg=[64, 46])


PAINTED = """([x, y]) => document.querySelector(".v-sheet canvas.v-mask")
    .getContext("2d").getImageData(x, y, 1, 1).data[3] > 0"""


def test_keys_alone_can_paint_a_mask(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("button", name="Clear").click()
    page.locator('[data-v="board"]').focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("[")
    page.keyboard.press("Space")
    page.wait_for_function(PAINTED, arg=[65, 64])
    page.keyboard.press("e")
    page.keyboard.press("Space")
    page.wait_for_function(f"(at) => !({PAINTED})(at)", arg=[65, 64])


def test_a_picture_that_is_dropped_can_be_begun_with(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    Image.new("RGB", (40, 24), "teal").save(tmp_path / "teal.png")
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "teal.png", { type: "image/png" }));
            const half = document.querySelector('[data-drop="start"]');
            for (const type of ["dragenter", "dragover", "drop"]) half.dispatchEvent(
                new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: carried }));
        }""",
        base64.b64encode((tmp_path / "teal.png").read_bytes()).decode(),
    )
    expect(page.locator(SAID)).to_have_text("40 × 24, painted at 128 × 128")
    page.get_by_role("button", name="Its shape").click()
    expect(page.locator("#txt2img_width input")).to_have_value("168")
    expect(page.locator("#txt2img_height input")).to_have_value("96")


def test_another_page_hands_over_a_picture_and_a_request(visitor: Visitor) -> None:
    page = visitor.page
    page.evaluate(
        """() => document.dispatchEvent(new CustomEvent("vitrine-send", { detail: { to: "image",
            url: document.querySelector(".v-image img").src.replace("/thumbnail.jpg", ".png"),
            request: { prompt: "a penguin", seed: "9007199254740993", steps: 9 } } }))"""
    )
    expect(page.locator(BOX)).to_have_value("a penguin")
    expect(page.locator("#txt2img_seed input")).to_have_value("9007199254740993")
    expect(page.locator("#v-mode input[value=image]")).to_be_checked()
    visitor.says("The picture is in")
    expect(page.locator('[data-v="axis-said"]')).to_contain_text("7 of 9 steps")


def test_several_pictures_are_painted_one_after_another(
    visitor: Visitor, engine: LocalEngine, tmp_path: Path
) -> None:
    page = visitor.page
    page.fill("#txt2img_steps input[type=number]", "2")
    page.keyboard.press("Tab")
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (SIDE, SIDE), path.stem).save(path)
    before = len(engine.jobs())
    page.locator('[data-v="side-easel"]').click()
    with page.expect_file_chooser() as chooser:
        page.locator('.v-start [data-v="start-choose"]').click()
    chooser.value.set_files(paths)
    visitor.says("3 pictures are in")
    expect(page.locator(SAID)).to_contain_text("Picture 1 of 3")
    page.click("#txt2img_generate")
    page.wait_for_function(
        "(count) => document.querySelectorAll('.v-image').length === count", arg=before + 3
    )
    visitor.says("Done in")
    begun = [job.request.start for job in engine.jobs()[before:]]
    colours = [
        engine.inputs.open(start.picture).getpixel((0, 0)) for start in begun if start is not None
    ]
    assert colours == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def test_generating_again_and_again_ends_with_stop(visitor: Visitor, engine: LocalEngine) -> None:
    page = visitor.page
    page.fill("#txt2img_steps input[type=number]", "60")
    page.keyboard.press("Tab")
    before = len(engine.jobs())
    page.locator('[data-v="forever"]').click()
    page.click("#txt2img_generate")
    page.wait_for_function(
        "(count) => document.querySelectorAll('.v-image').length >= count", arg=before + 2
    )
    visitor.reaches(2)  # of the third
    page.click("#txt2img_interrupt")
    visitor.says("Stopped in")
    expect(page.locator('[data-v="forever"]')).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(400)
    expect(page.locator("#txt2img_generate")).to_be_visible()
