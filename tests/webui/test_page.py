"""The page in a browser: from a prompt to a picture, and back and forth through its steps."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from core.images.capsule import Capsule, encoded
from core.request import GenerationRequest
from tests.webui.conftest import served
from tests.webui.fake_engine import FakeEngine

PROMPT = "a red apple on a blue background"
SLOW = "two ghosts in the snow, slowly"
BOX = "#txt2img_prompt textarea"
STATUS = '[data-v="status"]'
SCRUB = '[data-v="scrub"]'

COUNT_FRAMES = """() => {
    window.seen = new Set();
    const canvas = document.querySelector('[data-v="picture"]');
    const look = () => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let sum = 0;
        for (let i = 0; i < data.length; i += 97) sum = (sum * 31 + data[i]) | 0;
        window.seen.add(sum);
        window.looking = requestAnimationFrame(look);
    };
    look();
}"""


class Visitor:
    """One tab on the page, which notes whatever should not happen."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        self.open()

    def open(self) -> None:
        self.page.goto(self.url)
        expect(self.page.locator(STATUS)).to_have_text("Ready.")
        self.page.wait_for_function("() => document.querySelector('.v-chip')")

    def _heard(self, message: Any) -> None:
        # Looking at every frame's pixels is this test's own doing.
        if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
            self.complaints.append(message.text)

    def _asked(self, url: str) -> None:
        if url.startswith(("data:", "blob:")):
            return
        self.requests.append(url)
        if not url.replace("ws:", "http:").startswith(self.url):
            self.complaints.append(f"left the host: {url}")

    def generate(self, prompt: str = PROMPT) -> None:
        self.page.fill(BOX, prompt)
        self.page.click("#txt2img_generate")

    def says(self, text: str) -> None:
        """Waits for words in the status line, looking at every frame: they may be gone soon."""
        self.page.wait_for_function(
            "([query, text]) => document.querySelector(query)?.textContent.includes(text)",
            arg=[STATUS, text],
        )

    def reaches(self, step: int) -> None:
        self.page.wait_for_function(
            "([query, k]) => Number(/tep (\\d+) of/.exec("
            "document.querySelector(query)?.textContent)?.[1]) >= k",
            arg=[STATUS, step],
        )

    def rests(self) -> None:
        """Waits until nothing has been asked of the server for a while."""
        asked = -1
        while asked != len(self.requests):
            asked = len(self.requests)
            self.page.wait_for_timeout(600)

    def scrub(self, index: int) -> None:
        self.page.evaluate(
            "([query, k]) => { const s = document.querySelector(query); s.value = k;"
            " s.dispatchEvent(new Event('input')); }",
            [SCRUB, index],
        )

    def picture(self) -> str:
        """The pixels on the stage, as text to compare."""
        return str(
            self.page.evaluate("() => document.querySelector('[data-v=\"picture\"]').toDataURL()")
        )

    def at(self) -> str:
        return self.page.locator('[data-v="at"]').inner_text()


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[BrowserContext]:
    """One for all tests, so the browser loads gradio once; what it remembers is wiped each time."""
    context = browser.new_context()
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def visitor(
    context: BrowserContext, fake_server: str, fake_engine: FakeEngine
) -> Iterator[Visitor]:
    visitor = Visitor(context.new_page(), fake_server)
    yield visitor
    for job in fake_engine.jobs():
        job.cancel()
    # Away from the page, which might write down once more what it held.
    visitor.page.unroute_all(behavior="ignoreErrors")
    visitor.page.goto(visitor.url + "api/models")
    visitor.page.evaluate("localStorage.clear()")
    visitor.page.close()  # before its session is gone, or it would ask for what is not there
    context.clear_cookies()
    assert not visitor.complaints


def test_the_tokens_of_a_prompt_are_counted_and_shown_while_it_is_typed(visitor: Visitor) -> None:
    page = visitor.page
    count = page.locator('[data-v="token-count"]')
    page.locator(BOX).fill("a (red:1.5) apple")
    expect(count).to_have_text("3 of 75 tokens")
    page.locator(".v-tokens summary").click()
    words = page.locator('[data-v="token-list"] li')
    expect(words).to_have_count(3)
    expect(words.nth(1)).to_contain_text("red")
    expect(words.nth(1)).to_contain_text("×1.5")
    page.locator(BOX).fill("word " * 80)
    expect(count).to_have_text("80 of 150 tokens in 2 chunks")


def test_what_is_set_while_the_page_is_loading_is_not_lost(
    context: BrowserContext, fake_server: str
) -> None:
    """The old values come back from the server's answer, and must not sweep away new ones."""
    page = context.new_page()

    def slowly(route: Any) -> None:
        page.wait_for_timeout(700)
        route.continue_()

    page.route("**/api/models", slowly)
    page.goto(fake_server)
    page.locator(BOX).fill("typed early")
    page.locator("#v-mode label").filter(has_text="Inpaint").click()
    page.get_by_role("button", name="Enlarge").click()
    page.locator("#txt2img_enable_hr input").check()
    page.locator("#txt2img_steps input[type=number]").fill("7")
    page.wait_for_timeout(2500)
    expect(page.locator(BOX)).to_have_value("typed early")
    expect(page.locator("#v-mode input[value=inpaint]")).to_be_checked()
    expect(page.locator("#txt2img_enable_hr input")).to_be_checked()
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("7")
    page.goto(fake_server + "api/models")
    page.evaluate("localStorage.clear()")
    page.close()


def test_what_a_hand_has_set_is_put_back_if_gradio_forgets_it(visitor: Visitor) -> None:
    page = visitor.page
    steps = page.locator("#txt2img_steps input[type=number]")
    steps.fill("7")
    page.keyboard.press("Tab")
    page.wait_for_function("() => JSON.parse(localStorage['vitrine.form'] ?? '{}').steps === 7")
    # As gradio does now and then while it draws the page: the widget is back at what it began with.
    page.evaluate(
        """async () => {
            const kept = JSON.parse(localStorage['vitrine.form']);
            const number = document.querySelector('#txt2img_steps input[type=number]');
            const { set } = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value');
            set.call(number, '20');
            const main = performance.getEntriesByType('resource')
                .find((one) => /main\\.js/.test(one.name));
            const { page } = await import(main.name);
            const { filled } = page;
            let values = [];
            page.filled = (names) => (values = filled(names));
            page.changed(Object.keys(kept), Object.values({ ...kept, steps: 20 }));
            for (let i = 0; i < 100 && !values.length; i++) {
                await new Promise((resolve) => setTimeout(resolve, 20));
            }
            page.filled = filled;
            window.back = values.filter((one) => one.__type__ !== 'update');
        }"""
    )
    assert page.evaluate("window.back") == [7]
    steps.fill("9")
    page.keyboard.press("Tab")
    page.wait_for_function("() => JSON.parse(localStorage['vitrine.form']).steps === 9")
    expect(steps).to_have_value("9")


def test_a_newcomer_watches_a_picture_develop_and_scrubs_through_it(visitor: Visitor) -> None:
    page = visitor.page
    assert page.title() == "Vitrine"
    expect(page.locator(BOX)).to_be_focused()
    page.evaluate(COUNT_FRAMES)
    visitor.generate()
    expect(page.locator("#txt2img_interrupt")).to_be_visible()
    expect(page.locator("#txt2img_generate")).to_be_hidden()
    visitor.says("Step ")
    visitor.says("Done in")
    expect(page.locator("#txt2img_generate")).to_be_visible()
    assert page.evaluate("window.seen.size") >= 2  # the empty stage, and one frame at least
    assert visitor.at() == "20 / 20"

    visitor.rests()  # the full decodes have come in
    asked = len(visitor.requests)
    pictures = set()
    for index in (0, 5, 10, 15, 20):
        visitor.scrub(index)
        assert visitor.at() == f"{index} / 20"
        pictures.add(visitor.picture())
    assert len(pictures) == 5
    assert len(visitor.requests) == asked, visitor.requests[asked:]


def test_the_timeline_answers_to_keys_and_pointer(visitor: Visitor) -> None:
    page = visitor.page
    visitor.generate()
    visitor.says("Done in")
    page.focus(SCRUB)
    for key, place in (("Home", "0"), ("ArrowRight", "1"), ("ArrowRight", "2"), ("End", "20")):
        page.keyboard.press(key)
        assert visitor.at() == f"{place} / 20"
    box = page.locator('[data-v="strip"]').bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert visitor.at() == "10 / 20"
    noisy = visitor.picture()
    page.get_by_text("Estimate", exact=True).click()
    assert visitor.picture() != noisy
    page.get_by_text("Both", exact=True).click()
    expect(page.locator('[data-v="picture-estimate"]')).to_be_visible()
    page.focus(SCRUB)
    page.keyboard.press("Space")
    expect(page.locator('[data-v="play"]')).to_have_text("Pause")
    page.keyboard.press("Space")
    expect(page.locator('[data-v="play"]')).to_have_text("Play")


def test_a_run_can_be_scrubbed_while_it_grows(visitor: Visitor) -> None:
    visitor.generate(SLOW)
    visitor.reaches(6)
    visitor.scrub(3)
    still = visitor.picture()
    visitor.reaches(9)
    assert visitor.at() == "3 / 20" and visitor.picture() == still
    visitor.page.keyboard.press("Escape")
    visitor.says("Stopped in")


def test_stop_keeps_the_estimate_so_far(visitor: Visitor) -> None:
    visitor.generate(SLOW)
    visitor.reaches(5)
    visitor.page.click("#txt2img_interrupt")
    visitor.says("Stopped in")
    expect(visitor.page.locator(".v-image").first).to_have_attribute(
        "title", SLOW + " (seed " + seed_of(visitor) + ", unfinished)"
    )
    expect(visitor.page.locator('[data-v="end"]')).to_contain_text("Stopped at")


def seed_of(visitor: Visitor) -> str:
    text = visitor.page.locator('[data-v="last-seed"]').inner_text()
    return text.rpartition(" ")[2]


def test_discard_leaves_nothing(visitor: Visitor) -> None:
    visitor.generate(SLOW)
    visitor.reaches(3)
    visitor.page.click("#txt2img_discard")
    visitor.says("Discarded.")
    assert visitor.page.locator(".v-image").count() == 0
    expect(visitor.page.locator("#txt2img_generate")).to_be_visible()


def test_a_field_is_taken_back_to_what_it_was(visitor: Visitor) -> None:
    page = visitor.page
    size = page.locator("#txt2img_width input, #txt2img_width textarea").first
    visitor.says("Ready.")
    reset = page.locator("#txt2img_width .v-reset")
    expect(reset).to_have_count(0)
    size.fill("256")
    expect(reset).to_be_visible()
    reset.click()
    expect(size).to_have_value("")
    expect(reset).to_be_hidden()


def test_a_reload_comes_back_to_the_running_job(visitor: Visitor) -> None:
    page = visitor.page
    visitor.generate(f"{SLOW}, slowly")
    visitor.reaches(2)
    page.reload()
    visitor.says("of 20")
    expect(page.locator("#txt2img_interrupt")).to_be_visible()
    expect(page.locator(BOX)).to_have_value(f"{SLOW}, slowly")
    visitor.scrub(1)  # a step from before the reload
    assert visitor.at() == "1 / 20"
    page.click("#txt2img_interrupt")
    visitor.says("Stopped in")
    page.reload()
    expect(page.locator(".v-image")).to_have_count(1)  # and the picture stays
    expect(page.locator(SCRUB)).to_be_enabled()


def test_a_dropped_picture_fills_the_form(visitor: Visitor) -> None:
    request = GenerationRequest(
        prompt="a penguin, on ice", negative_prompt="fish", checkpoint="pocket",
        seed=2**62 + 1, width=128, height=64, steps=33, cfg_scale=6.5, sampler="euler_ancestral",
        schedule="karras",
    )  # fmt: skip
    capsule = Capsule(
        request=request, checkpoint="pocket", fingerprint="0", family="sd1",
        device="cpu", dtype="float32",
    )  # fmt: skip
    drop(visitor, blank_png(capsule), "penguin.png")
    visitor.says("penguin.png are in the form")
    page = visitor.page
    expect(page.locator(BOX)).to_have_value("a penguin, on ice")
    expect(page.locator("#txt2img_neg_prompt textarea")).to_have_value("fish")
    expect(page.locator("#txt2img_seed input")).to_have_value(str(2**62 + 1))
    expect(page.locator("#txt2img_height input")).to_have_value("64")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("33")
    page.click("#txt2img_generate")
    visitor.reaches(3)
    expect(page.locator('[data-v="caption"]')).to_contain_text(str(2**62 + 1))


def test_a_picture_of_a1111_says_what_cannot_be_honoured(visitor: Visitor) -> None:
    text = "a fox\nSteps: 12, Sampler: Euler a, CFG scale: 5, Seed: 7, Size: 64x64, Model: gone"
    drop(visitor, blank_png(None, text), "fox.png")
    visitor.says("are in the form")
    visitor.says("gone")
    expect(visitor.page.locator("#txt2img_seed input")).to_have_value("7")


def test_a_picture_without_a_word_is_said(visitor: Visitor) -> None:
    drop(visitor, b"nothing", "nothing.png")
    visitor.says("is not a PNG")
    expect(visitor.page.locator(STATUS)).to_have_attribute("data-kind", "problem")
    # The browser itself notes that an answer was no success.
    visitor.complaints = [c for c in visitor.complaints if "status of 4" not in c]


def test_what_the_page_says_early_is_not_swept_away_when_it_has_loaded(
    context: BrowserContext, fake_server: str
) -> None:
    page = context.new_page()

    def slowly(route: Any) -> None:
        page.wait_for_timeout(1500)
        route.continue_()

    page.route("**/api/session", slowly)
    visitor = Visitor(page, fake_server)
    drop(visitor, b"nothing", "nothing.png")
    visitor.says("is not a PNG")
    page.wait_for_timeout(2500)
    expect(page.locator(STATUS)).to_contain_text("is not a PNG")
    page.close()


def blank_png(capsule: Capsule | None, text: str = "") -> bytes:
    from PIL import Image

    return encoded(Image.new("RGB", (64, 64)), "PNG", text, capsule)


def drop(visitor: Visitor, data: bytes, name: str) -> None:
    visitor.page.evaluate(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, { type: "image/png" }));
            const box = document.querySelector("#txt2img_prompt textarea");
            for (const type of ["dragenter", "dragover", "drop"]) {
                const event = new DragEvent(type, { bubbles: true, cancelable: true,
                    dataTransfer: carried });
                box.dispatchEvent(event);
            }
        }""",
        [base64.b64encode(data).decode(), name],
    )


def test_what_is_wrong_is_said_beside_the_picture(visitor: Visitor) -> None:
    page = visitor.page
    visitor.generate("")
    visitor.says("Say what you'd like to see first.")
    expect(page.locator(BOX)).to_have_attribute("aria-invalid", "true")
    page.fill("#txt2img_width input", "100")
    visitor.generate()
    visitor.says("multiple of 8")
    page.fill("#txt2img_width input", "")
    visitor.generate("fail")
    visitor.says("The network answered with NaN at step 3 of 20.")
    visitor.generate("crash")
    visitor.says("Something went wrong (id ")
    expect(page.locator("#txt2img_generate")).to_be_visible()


def test_a_server_that_does_not_answer_is_said(visitor: Visitor) -> None:
    for path in ("gradio_api", "api"):
        visitor.page.route(f"**/{path}/**", lambda route: route.abort())
    visitor.generate()
    visitor.says("Is it still running?")
    expect(visitor.page.locator("#txt2img_generate")).to_be_visible()
    visitor.complaints.clear()


def test_whoever_waits_is_told_for_how_many(visitor: Visitor, fake_engine: FakeEngine) -> None:
    first = fake_engine.submit(GenerationRequest(prompt="somebody else's, slowly"), "another")
    visitor.generate()
    visitor.says("Waiting: 1 before this one")
    first.cancel()
    expect(visitor.page.locator(STATUS)).to_contain_text("Done in")


def test_markup_in_a_prompt_stays_text(visitor: Visitor) -> None:
    visitor.generate('<img src=x onerror="document.title=1">')
    visitor.says("Done in")
    expect(visitor.page.locator('[data-v="caption"]')).to_contain_text("<img src=x")
    assert visitor.page.title() == "Vitrine"


def test_several_images_can_be_looked_at_one_by_one(visitor: Visitor) -> None:
    page = visitor.page
    page.fill("#txt2img_steps input[type=number]", "8")
    page.fill("#txt2img_batch_count input[type=number]", "3")
    page.keyboard.press("Tab")
    visitor.generate()
    visitor.says("Image 2 of 3")
    expect(page.locator("#txt2img_skip")).to_be_visible()
    visitor.says("Done in")
    expect(page.locator(".v-image")).to_have_count(3)
    last = visitor.picture()
    page.locator(".v-image").last.click()  # the first image, for the newest comes first
    page.wait_for_timeout(300)
    assert visitor.picture() != last
    visitor.scrub(2)
    assert visitor.at() == "2 / 8"


def test_choosing_a_model_sets_its_own_favourites(visitor: Visitor) -> None:
    page = visitor.page
    page.click("#setting_sd_model_checkpoint input")
    page.get_by_role("option", name="Another").click()
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("12")
    expect(page.locator("#txt2img_width input")).to_have_attribute("placeholder", "512 (its own)")


def test_keys_weigh_the_selected_words(visitor: Visitor) -> None:
    page = visitor.page
    page.fill(BOX, "a red apple")
    page.evaluate(
        "() => document.querySelector('#txt2img_prompt textarea').setSelectionRange(2, 5)"
    )
    for expected in ("a (red:1.1) apple", "a (red:1.2) apple"):
        page.keyboard.press("Control+ArrowUp")
        expect(page.locator(BOX)).to_have_value(expected)
    for expected in ("a (red:1.1) apple", "a red apple"):
        page.keyboard.press("Control+ArrowDown")
        expect(page.locator(BOX)).to_have_value(expected)
    page.keyboard.press("Control+Enter")
    visitor.says("Step ")


def test_the_chosen_light_is_remembered(visitor: Visitor) -> None:
    page = visitor.page
    assert not page.evaluate("document.body.classList.contains('dark')")
    page.get_by_role("button", name="Dark").click()
    page.reload()
    page.wait_for_function("() => document.body.classList.contains('dark')")


def test_the_page_needs_no_heartbeat_and_has_a_heading(visitor: Visitor) -> None:
    page = visitor.page
    page.wait_for_timeout(300)
    assert not [url for url in visitor.requests if "heartbeat" in url]
    expect(page.locator("h1")).to_have_text("Vitrine")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, a")]
            .filter((e) => e.checkVisibility() && !e.labels?.length && !e.textContent.trim()
                && !e.getAttribute("aria-label") && !e.title)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []


@pytest.fixture
def phone(browser: Any, fake_server: str) -> Iterator[Visitor]:
    context: BrowserContext = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, device_scale_factor=2
    )
    visitor = Visitor(context.new_page(), fake_server)
    yield visitor
    assert not visitor.complaints
    context.close()


def test_a_phone_has_everything_within_reach(phone: Visitor) -> None:
    page = phone.page
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 390
    phone.generate()
    phone.says("Done in")
    assert page.evaluate(width) <= 390
    strip = page.locator('[data-v="strip"]').bounding_box()
    assert strip is not None
    page.touchscreen.tap(strip["x"] + strip["width"] / 2, strip["y"] + 20)
    assert phone.at() == "10 / 20"
    page.click('[data-v="fold"]')
    expect(page.locator("#txt2img_steps input[type=number]")).to_be_visible()
    page.locator("#v-more button").first.click()
    expect(page.locator("#txt2img_eta input")).to_be_visible()
    expect(page.locator("#txt2img_s_churn input")).to_be_hidden()  # Euler a takes none
    assert page.evaluate(width) <= 390
    page.evaluate("window.scrollTo(0, 10000)")
    expect(page.locator("#txt2img_generate")).to_be_in_viewport()
    small = page.evaluate(
        """() => [...document.querySelectorAll("#v-stage button, #v-stage a, #v-stage .v-views"
                + ", #v-dock button, [data-v=strip], [data-v=fold], [data-v=theme], .v-chip")]
            .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44)
            .map((e) => [e.outerHTML.slice(0, 90), e.getBoundingClientRect().height])"""
    )
    assert small == []


def test_the_real_engine_with_the_model_that_ships(context: BrowserContext, tmp_path: Path) -> None:
    from core.engine.local import LocalEngine
    from core.registry import built_in
    from core.settings import default_settings

    broken = tmp_path / "models/Stable-diffusion/broken.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_text("<html>")
    servers = served(LocalEngine(default_settings(tmp_path), built_in()), tmp_path)
    page = context.new_page()
    visitor = Visitor(page, next(servers))
    unreadable = page.locator('[data-v="unreadable"]')
    expect(unreadable.locator("summary")).to_have_text("1 file in the models folder can't be used")
    expect(unreadable.locator("li")).to_contain_text("broken.safetensors is not a safetensors file")
    page.evaluate(COUNT_FRAMES)
    visitor.generate()
    expect(page.locator(STATUS)).to_contain_text("Done in", timeout=60_000)
    assert page.evaluate("window.seen.size") >= 2
    assert page.evaluate("document.querySelector('[data-v=picture]').width") == 128
    assert list((tmp_path / "outputs").rglob("*.png"))
    assert not visitor.complaints
    page.close()
    next(servers, None)
