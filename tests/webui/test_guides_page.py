"""Guides in a browser: chosen, previewed, drawn on, and followed by a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from core.engine.local import LocalEngine
from core.models.catalog import POCKET
from core.models.family import read_card, unet_config
from core.models.layouts import read_model_header
from core.nn.controlnet import ControlNet
from core.registry import built_in
from core.settings import default_settings
from tests.tiny import seeded
from tests.webui.conftest import served
from tests.webui.test_page import PROMPT, Visitor

PREVIEW = '.v-guide img[alt="What the network will see"]'
WHITE = """(image) => {
    if (!image.naturalWidth) return NaN;  // it is being drawn anew
    const canvas = Object.assign(document.createElement("canvas"),
        { width: image.naturalWidth, height: image.naturalHeight });
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
    let white = 0;
    for (let i = 0; i < data.length; i += 4) white += data[i] > 128;
    return white;
}"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    root = tmp_path_factory.mktemp("guides")
    header = read_model_header(POCKET)
    config = unet_config(header, None, read_card(header))
    net = seeded(ControlNet(config, hint_widths=(8, 8, 8, 8)), 3, 0.5)
    folder = root / "models/ControlNet"
    folder.mkdir(parents=True)
    tensors = {"control_model." + n: t.contiguous() for n, t in net.state_dict().items()}
    save_file(tensors, folder / "edges.safetensors")
    return LocalEngine(default_settings(root), built_in())


@pytest.fixture(scope="module")
def server(engine: LocalEngine) -> Iterator[str]:
    yield from served(engine, engine.settings.data_dir.parent)


@pytest.fixture(scope="module")
def visitor(browser: Any, server: str) -> Iterator[Visitor]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(60_000)  # of a busy machine
    visitor = Visitor(context.new_page(), server)
    yield visitor
    assert not visitor.complaints
    context.close()


@pytest.fixture(scope="module")
def page(visitor: Visitor) -> Page:
    return visitor.page


def uses(page: Page) -> list[dict[str, Any]]:
    """What the form holds."""
    text = page.evaluate(
        "() => document.querySelector('#v-controls textarea, #v-controls input').value"
    )
    return json.loads(text or "[]")


def white(page: Page) -> int:
    """White pixels of the preview, once there is one."""
    page.wait_for_function("(q) => document.querySelector(q)?.naturalWidth > 0", arg=PREVIEW)
    return page.eval_on_selector(PREVIEW, WHITE)


def test_a_guide_is_added_and_its_picture_previewed(page: Page, tmp_path: Path) -> None:
    drawing = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(drawing).ellipse((30, 30, 100, 100), outline="black", width=5)
    drawing.save(tmp_path / "ring.png")
    page.click("#v-guides-fold > button")
    page.click('[data-v="guides-add"]')
    expect(page.locator(".v-guide")).to_have_count(1)
    expect(page.locator(".v-guide [role=alert]")).to_contain_text("needs a picture")
    page.locator(".v-guide select").nth(0).select_option("edges")  # not the one that ships
    page.locator(".v-guide select").nth(1).select_option("none")
    with page.expect_file_chooser() as chooser:
        page.click(".v-guide >> text=Choose a picture")
    chooser.value.set_files(tmp_path / "ring.png")
    page.wait_for_function("(q) => document.querySelector(q)?.naturalWidth > 0", arg=PREVIEW)
    plain = white(page)
    page.locator(".v-guide select").nth(1).select_option("canny")
    page.wait_for_function(
        f"(q) => ({WHITE})(document.querySelector(q)) < {plain // 4}", arg=PREVIEW
    )
    assert 100 < white(page) < 1000  # two thin rings
    (use,) = uses(page)
    assert (use["model"], use["preprocessor"]) == ("edges", "canny")


def test_what_is_drawn_on_it_is_in_the_guide(page: Page) -> None:
    before, (first,) = white(page), uses(page)
    page.click(".v-guide >> text=Draw it")
    board = page.locator(".v-guide-easel .v-board")
    expect(board).to_be_visible()
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    assert box is not None
    across, down = (lambda f: box["x"] + box["width"] * f), (lambda f: box["y"] + box["height"] * f)
    page.mouse.move(across(0.4), down(0.3))
    page.mouse.down()
    page.mouse.move(across(0.6), down(0.7), steps=8)
    page.mouse.up()
    page.wait_for_function(f"(q) => ({WHITE})(document.querySelector(q)) > {before}", arg=PREVIEW)
    (second,) = uses(page)
    assert second["picture"] != first["picture"]
    page.click(".v-guide >> text=Draw it")
    expect(board).to_be_hidden()


def test_a_run_follows_it_and_keeps_it_in_its_request(
    visitor: Visitor, engine: LocalEngine
) -> None:
    visitor.page.fill("#txt2img_steps input[type=number]", "6")
    visitor.generate(PROMPT)
    visitor.says("Done")
    (job,) = engine.jobs()
    (use,) = job.request.controls
    assert [use.picture] == [one["picture"] for one in uses(visitor.page)]
    assert use.settings == {"low": 100, "high": 200}


SEEN = """(selector) => {
    const canvas = document.querySelectorAll(selector);
    return [...canvas].map((one) => one.toDataURL());
}"""


def test_in_the_timeline_a_step_is_seen_with_its_guides_and_without(page: Page) -> None:
    page.click("text=Guides off")
    page.locator('[data-v="scrub"]').evaluate(
        "(range) => { range.value = 3; range.dispatchEvent(new Event('input')); }"
    )
    captions = page.locator('[data-v="panes"] figcaption')
    expect(captions.nth(0)).to_have_text("With the guides")
    expect(captions.nth(1)).to_have_text("Without the guides")
    with_them, without = page.evaluate(SEEN, '[data-v="panes"] canvas')
    assert with_them != without
    page.click(".v-views >> text=Both")
    expect(captions.nth(1)).to_have_text("What the model expects")


def test_the_explain_page_leaves_them_out_and_draws_what_they_change(page: Page) -> None:
    page.click("text=Look inside this step")
    effect = page.locator("figure", has_text="What the guides change")
    expect(effect).to_be_visible()
    expect(effect.locator("span")).to_contain_text("pale: by")
    guided = ".v-ex-guidance figure.is-main canvas"
    main = page.locator("figure.is-main span")
    expect(main).to_have_text("through the VAE")
    (before,) = page.evaluate(SEEN, guided)
    page.click(".v-ex-choice >> text=Guides off")
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).toDataURL() !== before",
        arg=[guided, before],
    )
    expect(main).to_have_text("through the VAE")
    page.click(".v-ex-choice >> text=Guides on")
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).toDataURL() === before",
        arg=[guided, before],
    )
    page.go_back()
    expect(page.locator(".v-guide")).to_be_visible()


def test_a_guide_that_is_removed_is_gone(page: Page) -> None:
    page.click(".v-guide >> text=Remove guide")
    expect(page.locator(".v-guide")).to_have_count(0)
    page.wait_for_function(
        "() => !document.querySelector('#v-controls textarea, #v-controls input').value"
    )
