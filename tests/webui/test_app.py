"""The shell in a browser: tabs and addresses; a picture that tells its making and is repeated."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from core.images.capsule import Capsule, encoded
from core.images.difference import difference
from core.request import GenerationRequest
from core.settings import default_settings
from tests.webui.conftest import served
from webui.app import TABS
from webui.assets import read_assets
from webui.info import differences


def test_only_the_first_page_is_asked_for_ahead() -> None:
    """What other tabs need costs nothing until they are opened."""
    ahead = set(read_assets().reached("main.js", "shell.js"))
    assert {"main.js", "shell.js", "session.js", "dom.js"} <= ahead
    assert not {name for name in ahead if name.startswith(("gallery_", "models_", "info_"))}


def test_every_script_that_is_imported_is_there() -> None:
    files = read_assets()
    scripts = [name for name in files.files if name.endswith(".js")]
    assert set(files.reached(*scripts)) == set(scripts)
    assert len({tab.name for tab in TABS}) == len(TABS)


class Files:
    """A catalog in which there is nothing."""

    def file(self, kind: Any, name: str) -> Any:
        from core.errors import RequestError

        raise RequestError(f"no {kind} named {name}")


class Bare:
    catalog = Files()


def capsule(**changes: Any) -> Capsule:
    values: dict[str, Any] = {
        "request": GenerationRequest(prompt="a cat"), "checkpoint": "pocket",
        "fingerprint": "a" * 64, "family": "sd1", "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    return Capsule(**(values | changes))


def test_what_differs_from_where_it_was_made_is_said() -> None:
    from core.events import Loaded

    loaded = Loaded("pocket", "sd1", "b" * 64, "cuda", "float16", None)  # type: ignore[arg-type]
    made = capsule(versions={"torch": "1.0", "no such library": "3"}, hashes={"lora:ink": "c" * 64})
    said = " ".join(differences(made, loaded, Bare()))  # type: ignore[arg-type]
    for word in ("bbbbbbbbbb instead of aaaaaaaaaa", "was cpu, now it is cuda", "float16"):
        assert word in said
    assert "torch 1.0" in said and "The LoRA ink is not here" in said
    assert "no such library" not in said
    same = Loaded("pocket", "sd1", "a" * 64, "cpu", "float32", None)  # type: ignore[arg-type]
    assert list(differences(capsule(), same, Bare())) == []  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with the model that ships, and its folder."""
    from core.engine.local import LocalEngine
    from core.registry import built_in

    folder = tmp_path_factory.mktemp("real")
    yield from (
        (url, folder) for url in served(LocalEngine(default_settings(folder), built_in()), folder)
    )


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(20_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    assert not problems
    context.close()


def test_a_picture_is_made_seen_in_the_gallery_and_made_again_bit_for_bit(
    page: Page, real: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = real
    page.goto(url)
    expect(page.locator(".v-tabs a[aria-current]")).to_have_text("Create")
    page.fill("#txt2img_prompt textarea", "a red apple on a blue background")
    page.fill("#txt2img_steps input[type=number]", "6")
    page.keyboard.press("Tab")
    page.click("#txt2img_generate")
    expect(page.locator('[data-v="status"]')).to_contain_text("Done in", timeout=90_000)

    page.click(".v-tabs a[data-tab=gallery]")
    assert "tab=gallery" in page.url
    page.locator(".v-cell .v-open").first.click()
    expect(page.locator(".v-view-facts")).to_contain_text("a red apple on a blue background")
    page.locator(".v-view-facts").get_by_role("button", name="PNG info").click()

    page.wait_for_url(re.compile("tab=info"))
    expect(page.locator(".v-info [data-v=lead]")).to_have_text("Made with Vitrine.")
    expect(page.locator(".v-info dl")).to_contain_text("Euler a")
    page.locator("[data-v=reproduce]").click()
    verdict = page.locator("[data-v=verdict-line]")
    expect(verdict).to_have_text("Identical: every pixel is the same.", timeout=90_000)

    # One level in one pixel is seen, and said.
    (original, _) = sorted(folder.rglob("outputs/**/*.png"))
    with Image.open(original, formats=("PNG",)) as first:
        other = first.convert("RGB")
        red, green, blue = other.getpixel((5, 5))  # type: ignore[misc]
        other.putpixel((5, 5), (red, green, blue ^ 1))
        from PIL.PngImagePlugin import PngInfo

        words = PngInfo()
        for key, text in first.info.items():
            words.add_itxt(key, str(text))
        other.save(tmp_path / "other.png", pnginfo=words)
        assert difference(first, other).most == 1
    page.locator(".v-info [data-v=file]").set_input_files(tmp_path / "other.png")
    page.locator("[data-v=reproduce]").click()
    expect(verdict).to_contain_text(re.compile("differ by 1 of 255 at most"), timeout=90_000)

    page.locator("[data-v=fill]").first.click()
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("6")
    assert "tab=" not in page.url
    page.go_back()
    expect(verdict).to_be_visible()


def sent(url: str, data: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of what is posted."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method="POST")) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_picture_is_made_larger_and_hung_in_the_gallery(real: tuple[str, Path]) -> None:
    url, folder = real
    picture = Image.new("RGB", (24, 16), "red")
    picture.putpixel((3, 2), (0, 0, 255))
    text = "a red wall\nSteps: 4, Sampler: Euler, Seed: 3"
    data = encoded(picture, "PNG", text)
    status, told = sent(f"{url}api/extras?upscaler=Nearest&scale=2", data)
    assert (status, told["width"], told["height"]) == (200, 48, 32)
    (path,) = (folder / "outputs/extras-images").rglob("*.png")
    with Image.open(path, formats=("PNG",)) as larger:
        assert larger.info["parameters"] == text  # it keeps what it was made with
        assert list(larger.resize((24, 16), Image.Resampling.NEAREST).getdata()) == list(
            picture.getdata()
        )
        assert larger.size == (48, 32)
    with urllib.request.urlopen(f"{url}api/gallery/{told['id']}") as answer:
        assert json.load(answer)["prompt"] == "a red wall"


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("upscaler=Spoon&scale=2", 422, "Spoon"),
        ("upscaler=Nearest&scale=99", 422, "scale"),
        ("upscaler=Nearest&scale=nan", 422, ""),
        ("upscaler=Nearest", 422, ""),
    ],
)
def test_what_cannot_be_made_larger_is_a_sentence(
    real: tuple[str, Path], query: str, status: int, word: str
) -> None:
    data = encoded(Image.new("RGB", (8, 8)), "PNG", "")
    found, told = sent(f"{real[0]}api/extras?{query}", data)
    assert found == status and word in json.dumps(told)


def test_what_is_no_picture_is_not_made_larger(real: tuple[str, Path]) -> None:
    status, told = sent(f"{real[0]}api/extras?upscaler=Nearest&scale=2", b"nothing")
    assert status == 409 and "not a PNG" in told["error"]


def test_pictures_dropped_elsewhere_are_taken_to_where_they_can_speak(
    page: Page, real: tuple[str, Path], tmp_path: Path
) -> None:
    page.goto(real[0] + "?tab=models")
    expect(page.locator(".v-mod .v-card").first).to_contain_text("pocket")
    page.evaluate(
        """() => {
            const carried = new DataTransfer();
            carried.items.add(new File(["nothing"], "nothing.png", { type: "image/png" }));
            document.querySelector(".v-mod").dispatchEvent(
                new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: carried }));
        }"""
    )
    expect(page.locator(".v-info [data-v=lead]")).to_contain_text("is not a PNG")
    assert "tab=info" in page.url
