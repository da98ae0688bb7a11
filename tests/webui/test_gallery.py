"""The gallery's routes, and its wall in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import BrowserContext, expect
from starlette.testclient import TestClient

from core.errors import VitrineError
from core.gallery import Gallery
from core.images.capsule import Capsule, encoded
from core.request import GenerationRequest, StartImage
from core.settings import Settings, default_settings
from tests.webui.conftest import served
from tests.webui.fake_engine import FakeEngine
from webui.gallery import routes
from webui.gate import LOOPBACK, Gate, Rules, owner_of
from webui.sharing import Shared
from webui.stream import sentences

HOME = "http://127.0.0.1:7860"
MINE, OTHERS = "m" * 40, "o" * 40
RULES = Rules(port=7860, hosts=LOOPBACK | {"vitrine.example"})
LAN = "192.168.1.9"
"""The address of another machine, from where everybody sees their own pictures alone."""


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine(0)
    yield engine
    engine.close()


def house(engine: FakeEngine, settings: Settings) -> FastAPI:
    """The gallery's routes behind the gate, without the page."""
    app = FastAPI()
    gallery = Gallery(settings.data_dir / "gallery.sqlite3")
    app.include_router(
        routes(gallery, engine, settings, Shared(settings.data_dir / "shared.sqlite3"))
    )
    app.add_exception_handler(VitrineError, lambda request, error: sentences(error))  # type: ignore[arg-type]
    app.add_middleware(Gate, rules=RULES)
    return app


def client(app: FastAPI, session: str, address: str = LAN, url: str = HOME) -> TestClient:
    cookie = {"cookie": f"vitrine_session_7860={session}"}
    return TestClient(app, base_url=url, headers=cookie, client=(address, 50000))


def hung(settings: Settings, many: int, owner: str, **changes: Any) -> None:
    """Pictures of the gallery: `many` files, the last one the newest."""
    gallery = Gallery(settings.data_dir / "gallery.sqlite3")
    folder = settings.outputs_dir / "txt2img-images"
    folder.mkdir(parents=True, exist_ok=True)
    begun = len(list(folder.iterdir()))
    for k in range(begun, begun + many):
        request = GenerationRequest(
            prompt=f"a {'green' if k % 2 else 'red'} fox, number {k}",
            checkpoint="other" if k % 10 == 3 else "pocket", seed=k, width=16, height=16, **changes,
        )  # fmt: skip
        capsule = Capsule(
            request=request, checkpoint="pocket", fingerprint="0", family="sd1",
            device="cpu", dtype="float32",
        )  # fmt: skip
        path = folder / f"{k:05}.png"
        picture = Image.new("RGB", (16, 16), (k % 256, 90, 40))
        path.write_bytes(encoded(picture, "PNG", f"fox {k}\nSteps: 20", capsule))
        gallery.add(path, request, (16, 16), owner=owner, made=1_700_000_000 + k, job="j")
    gallery.close()


@pytest.fixture
def mine(engine: FakeEngine, settings: Settings) -> TestClient:
    hung(settings, 30, owner_of(MINE))
    return client(house(engine, settings), MINE)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [picture["id"] for picture in answer.json()["pictures"]]


def test_pages_follow_one_another_without_gap_or_repetition(mine: TestClient) -> None:
    whole = ids(mine.get("/api/gallery"))
    assert len(whole) == 30 and len(set(whole)) == 30
    seen, before = [], None
    while True:
        query = {"limit": 7} | ({"before": before} if before else {})
        answer = mine.get("/api/gallery", params=query)
        seen += ids(answer)
        before = answer.json()["next"]
        if before is None:
            break
    assert seen == whole
    names = [picture["name"] for picture in mine.get("/api/gallery?limit=2").json()["pictures"]]
    assert names == ["00029.png", "00028.png"]  # the newest first


def test_words_models_days_and_stars_are_filters(mine: TestClient) -> None:
    assert len(ids(mine.get("/api/gallery?words=GREEN fo"))) == 15
    assert len(ids(mine.get("/api/gallery?model=other"))) == 3
    assert len(ids(mine.get("/api/gallery?since=1700000010&until=1700000020"))) == 10
    assert mine.get("/api/gallery/models").json() == {"models": ["other", "pocket"]}
    chosen = ids(mine.get("/api/gallery"))[4]
    assert mine.post("/api/gallery/star", json={"ids": [chosen], "starred": True}).json() == {
        "changed": 1
    }
    assert ids(mine.get("/api/gallery?starred=1")) == [chosen]


def test_totals_are_told_where_they_are_known(mine: TestClient) -> None:
    assert mine.get("/api/gallery?limit=5").json()["total"] == 30
    assert mine.get("/api/gallery?limit=5&words=green").json()["total"] is None
    assert mine.get("/api/gallery?words=green").json()["total"] == 15


def test_the_bin_gives_back_what_it_took(mine: TestClient, settings: Settings) -> None:
    before = ids(mine.get("/api/gallery"))
    gone = before[3:6]
    assert mine.post("/api/gallery/bin", json={"ids": gone}).status_code == 200
    assert ids(mine.get("/api/gallery")) == before[:3] + before[6:]
    assert len(list(settings.outputs_dir.glob("*/*.png"))) == 27
    assert ids(mine.get("/api/gallery?binned=1")) == gone
    assert mine.get(f"/gallery/{gone[0]}/256.webp").status_code == 200  # it can still be looked at
    assert mine.post("/api/gallery/restore", json={"ids": gone}).status_code == 200
    assert ids(mine.get("/api/gallery")) == before
    assert len(list(settings.outputs_dir.glob("*/*.png"))) == 30


def test_an_emptied_bin_is_gone_and_nobody_elses(
    engine: FakeEngine, settings: Settings, mine: TestClient
) -> None:
    (id, *others) = ids(mine.get("/api/gallery"))
    mine.post("/api/gallery/bin", json={"ids": [id]})
    assert client(house(engine, settings), OTHERS).post("/api/gallery/empty").json() == {
        "deleted": 0
    }
    assert mine.post("/api/gallery/empty").json() == {"deleted": 1}
    assert ids(mine.get("/api/gallery?binned=1")) == []
    assert ids(mine.get("/api/gallery")) == others
    assert len(list(settings.outputs_dir.rglob("*.png"))) == 29


def test_nobody_else_sees_or_moves_a_picture(
    engine: FakeEngine, settings: Settings, mine: TestClient
) -> None:
    others = client(house(engine, settings), OTHERS)
    (id, *_) = ids(mine.get("/api/gallery"))
    assert ids(others.get("/api/gallery")) == []
    assert others.get("/api/gallery/models").json() == {"models": []}
    for path in (f"/api/gallery/{id}", f"/gallery/{id}/picture", f"/gallery/{id}/256.webp"):
        assert mine.get(path).status_code == 200
        assert others.get(path).status_code == 404
    assert others.post("/api/gallery/bin", json={"ids": [id]}).status_code == 422
    starring = {"ids": [id], "starred": True}
    assert others.post("/api/gallery/star", json=starring).json() == {"changed": 0}
    assert id in ids(mine.get("/api/gallery"))


def test_at_home_the_machines_own_user_sees_everything(
    engine: FakeEngine, settings: Settings
) -> None:
    """What a scan found has no session; neither have pictures of a browser that forgot its own."""
    hung(settings, 2, "local")
    hung(settings, 3, owner_of(OTHERS))
    app = house(engine, settings)
    assert len(ids(client(app, MINE, "127.0.0.1").get("/api/gallery"))) == 5
    assert ids(client(app, MINE).get("/api/gallery")) == []
    # The guests of a proxy on this machine come from its address, and by another name.
    guest = client(app, MINE, "127.0.0.1", "http://vitrine.example")
    assert ids(guest.get("/api/gallery")) == []


def test_pictures_may_be_kept_for_ever_and_say_what_they_are(mine: TestClient) -> None:
    (first, *_) = mine.get("/api/gallery").json()["pictures"]
    for address, kind in ((first["url"], "image/png"), (first["thumbnail"], "image/webp")):
        answer = mine.get(address)
        assert answer.headers["content-type"] == kind
        assert "immutable" in answer.headers["cache-control"]
    download = mine.get(first["url"] + "&download=1").headers["content-disposition"]
    assert download.startswith("attachment") and "00029.png" in download


def test_a_picture_tells_its_making(mine: TestClient) -> None:
    told = mine.get(f"/api/gallery/{ids(mine.get('/api/gallery'))[0]}").json()
    assert told["seed"] == "29" and told["job"] == "j"
    assert told["said"]["request"]["prompt"] == "a green fox, number 29"
    assert told["said"]["values"]["seed"] == "29"
    assert told["said"]["titles"]["sampler"] == "Euler a"
    assert told["start"] is None


def test_the_picture_it_began_from_is_beside_it(engine: FakeEngine, settings: Settings) -> None:
    from core.images.inputs import Inputs

    name = Inputs(settings.data_dir / "inputs").add(Image.new("RGB", (8, 8), "red"))
    hung(settings, 1, owner_of(MINE), start=StartImage(picture=name))
    caller = client(house(engine, settings), MINE)
    (id,) = ids(caller.get("/api/gallery"))
    start = caller.get(f"/api/gallery/{id}").json()["start"]
    assert caller.get(start).headers["content-type"] == "image/png"


@pytest.mark.parametrize("bad", ["", "x", "-1", "1e3", "9" * 30, "../../etc/passwd", "٣"])
def test_what_is_no_picture_is_a_sentence(mine: TestClient, bad: str) -> None:
    for action in ("star", "bin", "restore"):
        answer = mine.post(f"/api/gallery/{action}", json={"ids": [bad], "starred": True})
        assert answer.status_code == 422 and answer.json()["error"]
    assert mine.get(f"/api/gallery/{bad or '0'}").status_code in (404, 422)


def test_a_body_that_is_no_list_of_pictures_is_a_sentence(mine: TestClient) -> None:
    for body in ([], {}, {"ids": []}, {"ids": "1"}, {"ids": [1]}, {"ids": ["1"] * 2000}):
        assert mine.post("/api/gallery/bin", json=body).status_code == 422
    assert mine.post("/api/gallery/star", json={"ids": ["1"], "starred": 1}).status_code == 422
    for query in ("before=x", "limit=0", "limit=9999"):
        assert mine.get(f"/api/gallery?{query}").status_code == 422


def test_what_others_put_into_the_folder_is_taken_in(
    engine: FakeEngine, settings: Settings
) -> None:
    settings.outputs_dir.mkdir(parents=True)
    found = encoded(Image.new("RGB", (16, 16)), "PNG", "a cat\nSteps: 4, Sampler: Euler, Seed: 3")
    (settings.outputs_dir / "cat.png").write_bytes(found)
    caller = client(house(engine, settings), MINE, "127.0.0.1")
    assert caller.post("/api/gallery/scan").json() == {"added": 1, "dropped": 0}
    assert caller.get("/api/gallery").json()["pictures"][0]["prompt"] == "a cat"


def test_the_wall_scrolls_finds_stars_and_gives_back(
    browser: Any, engine: FakeEngine, tmp_path: Path
) -> None:
    """200 pictures, of which the document holds those that are seen."""
    hung(default_settings(tmp_path), 200, "local")
    servers = served(FakeEngine(0), tmp_path)
    context: BrowserContext = browser.new_context(viewport={"width": 900, "height": 700})
    context.set_default_timeout(15_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(next(servers) + "?tab=gallery")
    count = page.locator(".v-gal [data-v=count]")
    expect(count).to_have_text("200 pictures")
    expect(page.locator(".v-cell img.is-here").first).to_be_visible()
    assert page.locator(".v-cell").count() < 80
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    last = page.get_by_role("button", name="a red fox, number 0", exact=True)
    expect(last).to_be_visible()
    assert page.locator(".v-cell").count() < 80

    last.click()  # in full, with what it was made with
    facts = page.locator(".v-view-facts")
    expect(facts).to_contain_text("a red fox, number 0")
    expect(page.locator(".v-view-place")).to_have_text("200 of 200")
    page.keyboard.press("ArrowLeft")
    expect(facts).to_contain_text("a green fox, number 1")
    page.keyboard.press("s")
    expect(page.locator(".v-view [data-v=star]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".v-view")).to_be_hidden()
    page.wait_for_url(lambda url: "picture=" not in url)

    page.locator(".v-gal [data-v=starred]").click()
    expect(count).to_have_text("1 picture")
    page.locator(".v-gal [data-v=starred]").click()
    page.locator(".v-gal [data-v=words]").fill("number 12")
    expect(count).to_have_text("11 pictures")  # 12 and 120 to 129
    page.locator(".v-gal [data-v=words]").fill("")
    expect(count).to_have_text("200 pictures")

    page.evaluate("scrollTo(0, 0)")
    page.locator(".v-cell").first.hover()
    page.locator(".v-cell .v-pick input").first.check()
    page.locator(".v-cell .v-pick input").nth(2).click(modifiers=["Shift"])
    expect(page.locator("[data-v=chosen-count]")).to_have_text("3 selected")
    page.locator("[data-v=chosen-bin]").click()
    expect(count).to_have_text("197 pictures")
    page.get_by_role("button", name="Undo").click()
    expect(count).to_have_text("200 pictures")
    page.locator(".v-tabs a[data-tab=create]").click()
    expect(page.locator("#txt2img_prompt textarea")).to_be_visible()
    page.go_back()
    expect(count).to_be_visible()
    assert not problems
    context.close()
    next(servers, None)
