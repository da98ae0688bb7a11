"""Several people in one house, each in a browser of their own: links, watching, sharing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from core.gallery import Gallery
from core.request import GenerationRequest
from core.settings import default_settings
from tests.webui.conftest import served
from tests.webui.fake_engine import FakeEngine

TOKEN = "a-token-that-nobody-knows"
STATUS = '[data-v="status"]'


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a token, with one picture that somebody made."""
    folder = tmp_path_factory.mktemp("guests")
    Image.new("RGB", (64, 64), "#b5482d").save(folder / "a.png")
    gallery = Gallery(default_settings(folder).data_dir / "gallery.sqlite3")
    request = GenerationRequest(prompt="an apple", seed=1)
    gallery.add(folder / "a.png", request, (64, 64), owner="ada")
    yield from served(FakeEngine(0.05), folder, TOKEN)


class People:
    """Browsers, each with cookies of its own; what goes wrong in them is noted."""

    def __init__(self, browser: Browser, width: int) -> None:
        self.browser, self.width = browser, width
        self.wrong: list[str] = []

    def page(self, url: str) -> Page:
        context = self.browser.new_context(viewport={"width": self.width, "height": 844})
        page = context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else 0)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(url)
        return page


def invited(house: Page, name: str, role: str) -> str:
    """The address that the machine's own user is shown for a new link."""
    house.fill('[data-v="invite"] input[name="name"]', name)
    house.select_option('[data-v="invite"] select', role)
    house.click('[data-v="invite"] button')
    expect(house.locator('[data-v="token"]')).to_contain_text(f"For {name}")
    code = house.locator('[data-v="token"] img')
    assert code.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    return house.input_value('[data-v="token"] input')


@pytest.mark.parametrize("width", [1440, 390])
def test_links_are_handed_out_used_and_taken_back(
    browser: Browser, locked: str, width: int
) -> None:
    people = People(browser, width)
    house = people.page(f"{locked}?token={TOKEN}&tab=settings")
    guest = people.page(invited(house, "Ben", "guest"))
    guest.wait_for_selector(".v-chip")
    viewer = people.page(invited(house, "the class", "viewer"))
    expect(viewer.locator(STATUS)).to_have_text("Nothing is being made right now.")
    assert viewer.url == f"{locked}watch"
    expect(house.locator('[data-v="people"]')).to_contain_text("the class")

    house.click('.v-tabs a[data-tab="create"]')
    house.fill("#txt2img_prompt textarea", "a red apple")
    house.click("#txt2img_generate")
    expect(viewer.locator(STATUS)).to_contain_text("of 20")
    expect(viewer.locator('[data-v="caption"] q')).to_have_text("a red apple")
    expect(viewer.locator(STATUS)).to_contain_text("Done")
    expect(viewer.locator(".v-image")).to_have_count(1)
    expect(guest.locator(".v-image")).to_have_count(0)
    seen = viewer.locator("button:visible, a:visible").all_inner_texts()
    assert {text for text in seen if text} <= {"Dark", "Full screen", "Play", "Save picture"}
    viewer.locator('[data-v="scrub"]').focus()
    viewer.keyboard.press("Home")
    expect(viewer.locator('[data-v="at"]')).to_have_text("0 / 20")
    assert viewer.evaluate("document.documentElement.scrollWidth") <= width
    viewer.goto(f"{locked}?tab=gallery")
    assert viewer.url == f"{locked}watch"
    assert not people.wrong

    house.click('.v-tabs a[data-tab="settings"]')
    for name in ("Ben", "the class"):
        house.get_by_role("button", name=f"Revoke the link for {name}").click()
        expect(house.locator('[data-v="said"]')).to_contain_text(f"The link for {name} opens")
    expect(house.locator('[data-v="people"]')).not_to_contain_text("Ben")
    expect(viewer.locator(STATUS)).to_contain_text("taken back")
    expect(guest.locator(STATUS)).to_contain_text("no longer let in")
    assert guest.goto(locked).status == 401  # type: ignore[union-attr]


def test_what_is_shared_is_seen_by_others_until_it_is_not(browser: Browser, locked: str) -> None:
    people = People(browser, 1440)
    house = people.page(f"{locked}?token={TOKEN}&tab=settings")
    guest = people.page(invited(house, "Eve", "guest"))
    guest.click('.v-tabs a[data-tab="gallery"]')
    expect(guest.locator('[data-v="empty"]')).to_contain_text("Nothing here yet")
    guest.click('[data-v="shared"]')
    expect(guest.locator('[data-v="empty"]')).to_contain_text("Nobody shares")

    house.click('.v-tabs a[data-tab="gallery"]')
    house.locator(".v-open").last.click()
    house.locator(".v-view").get_by_role("button", name="Share", exact=True).click()
    expect(house.locator('.v-view [data-v="seen"]')).to_contain_text("Everybody")
    guest.click('[data-v="shared"]')
    guest.click('[data-v="shared"]')
    guest.locator(".v-open").first.click()
    view = guest.locator(".v-view")
    expect(view.locator('[data-v="prompt"]')).to_have_text("an apple")
    expect(view.locator('[data-v="picture"]')).to_have_js_property("naturalWidth", 64)
    for name in ("star", "bin", "share", "timeline"):
        expect(view.locator(f'[data-v="{name}"]')).to_be_hidden()
    at = guest.url
    fresh = people.page(at)  # not let in
    expect(fresh.locator("body")).to_contain_text("asks for its token")
    people.wrong.clear()  # which a browser writes down

    again = guest.context.new_page()
    again.goto(at)  # by its link, where the wall does not have it
    expect(again.locator('.v-view [data-v="prompt"]')).to_have_text("an apple")
    house.locator(".v-view").get_by_role("button", name="Stop sharing").click()
    expect(house.locator('.v-view [data-v="seen"]')).to_contain_text("Only you")
    again.reload()
    expect(again.locator(".v-toast")).to_contain_text("no picture")
    assert guest.request.get(f"{locked}api/shared/1/picture").status == 404
