"""The queue: told, live, arranged, paused and discarded; by routes, and on the page."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from playwright.sync_api import BrowserContext, Page, expect
from starlette.testclient import TestClient

from core.errors import VitrineError
from tests.webui.conftest import served
from tests.webui.fake_engine import FakeEngine
from webui import stream, waiting
from webui.gate import Gate, Rules

HOME = "http://127.0.0.1:7860"
FAR = ("10.0.0.7", 5000)
TOKEN = "a-token-that-nobody-knows"


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine(0.02)
    yield engine
    engine.close()


@pytest.fixture
def app(engine: FakeEngine) -> FastAPI:
    app, stage = FastAPI(), stream.Stage(engine)
    app.include_router(stream.routes(stage))
    app.include_router(waiting.routes(stage))

    @app.exception_handler(VitrineError)
    async def sentence(request: Any, error: VitrineError) -> JSONResponse:
        return stream.sentences(error)

    app.add_middleware(Gate, rules=Rules(port=7860))
    return app


def client(app: FastAPI, address: tuple[str, int] = ("127.0.0.1", 1)) -> TestClient:
    return TestClient(app, base_url=HOME, client=address)


def ask(by: TestClient, prompt: str = "an apple") -> str:
    return str(by.post("/api/jobs", json={"prompt": prompt, "seed": 1}).json()["id"])


def post(by: TestClient, what: str, body: Any) -> Any:
    return by.post(f"/api/queue/{what}", json=body)


def test_own_jobs_are_told_and_of_others_there_is_a_number(app: FastAPI) -> None:
    mine, theirs = client(app), client(app, FAR)
    post(mine, "pause", {"paused": True, "everybody": True})
    ids = [ask(mine, "one"), ask(theirs, "a secret"), ask(mine, "two " * 100)]
    told = mine.get("/api/queue").json()
    assert [job["id"] for job in told["jobs"]] == [ids[0], ids[2]]
    assert (told["waiting"], told["running"], told["everybody_paused"]) == (3, 0, True)
    assert [job["place"] for job in told["jobs"]] == [0, 2]
    assert told["jobs"][0]["prompt"] == "one" and len(told["jobs"][1]["prompt"]) == 120
    assert "a secret" not in json.dumps(told)


def test_the_machines_own_user_sees_and_stops_everybodys(app: FastAPI) -> None:
    mine, theirs = client(app), client(app, FAR)
    post(mine, "pause", {"paused": True, "everybody": True})
    own, other = ask(mine), ask(theirs, "far away")
    assert theirs.get("/api/queue?everybody=true").status_code == 403
    assert post(theirs, "cancel", {"everybody": True}).status_code == 403
    told = mine.get("/api/queue?everybody=true").json()["jobs"]
    assert [(job["id"], job["mine"]) for job in told] == [(own, True), (other, False)]
    assert post(mine, "cancel", {"jobs": [other]}).status_code == 422
    assert post(mine, "cancel", {"jobs": [other], "everybody": True}).status_code == 200
    assert theirs.get(f"/api/jobs/{other}").json()["state"] == "cancelled"
    assert mine.get("/api/queue").json()["waiting"] == 1


def test_all_own_that_wait_are_discarded_and_nobody_elses(app: FastAPI) -> None:
    mine, theirs = client(app), client(app, FAR)
    running = ask(mine, "slowly")
    while mine.get("/api/queue").json()["running"] == 0:
        pass
    waits, other = ask(mine), ask(theirs)
    assert post(mine, "cancel", {"jobs": [waits, other]}).status_code == 422
    told = post(mine, "cancel", {}).json()  # the refused call took nothing away
    assert [job["id"] for job in told["jobs"]] == [running] and told["waiting"] == 1
    assert post(mine, "cancel", {"running": True}).status_code == 200
    assert mine.get(f"/api/jobs/{running}").json()["state"] in ("cancelled", "running")
    assert theirs.get(f"/api/jobs/{other}").json()["state"] != "cancelled"
    for wrong in ({"jobs": 3}, {"running": "yes"}, {"everybody": 1}, []):
        assert post(mine, "cancel", wrong).status_code == 422


def test_every_change_is_told_at_once(app: FastAPI) -> None:
    mine = client(app)
    post(mine, "pause", {"paused": True})
    # The client of tests cancels the call whose socket it closes.
    with (
        contextlib.suppress(CancelledError),
        mine.websocket_connect("ws://127.0.0.1:7860/api/queue/events") as socket,
    ):
        assert json.loads(socket.receive_text())["jobs"] == []
        first, second = ask(mine, "one"), ask(mine, "two")
        while len(told := json.loads(socket.receive_text())["jobs"]) < 2:
            pass
        assert [job["id"] for job in told] == [first, second]
        post(mine, "order", {"jobs": [second, first]})
        assert [job["id"] for job in json.loads(socket.receive_text())["jobs"]] == [second, first]
        post(mine, "pause", {"paused": False})
        seen: list[list[str]] = []
        while not seen or seen[-1]:
            seen.append([job["state"] for job in json.loads(socket.receive_text())["jobs"]])
        assert ["running", "waiting"] in seen and ["running"] in seen


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from served(FakeEngine(0.1), tmp_path_factory.mktemp("waiting"))


def add(page: Page, prompt: str) -> None:
    """Another picture while one is made."""
    before = page.locator('[data-v="queue-open"]').text_content()
    page.fill("#txt2img_prompt textarea", prompt)
    page.click('[data-v="queue-add"]')
    expect(page.locator('[data-v="queue-open"]')).not_to_have_text(before or "")


@pytest.mark.parametrize("width", [1440, 390])
def test_a_queue_is_made_moved_paused_and_worked_off(
    context: BrowserContext, paced: str, width: int
) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 844})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(paced)
    page.wait_for_selector(".v-chip")
    expect(page.locator('[data-v="queue-open"]')).to_be_hidden()
    page.fill("#txt2img_prompt textarea", "first, slowly")
    page.click("#txt2img_generate")
    page.wait_for_selector("html.is-running")
    add(page, "second")
    add(page, "third")
    page.click('[data-v="queue-open"]')
    panel = page.locator(".v-queue-panel")
    words = panel.locator("li q")
    expect(words).to_have_text(["first, slowly", "second", "third"])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    panel.get_by_role("button", name="Up: third").click()
    expect(words).to_have_text(["first, slowly", "third", "second"])
    panel.get_by_role("button", name="Pause mine").click()
    expect(panel.locator("li b")).to_have_text(["Running", "Paused", "Paused"])
    panel.get_by_role("button", name="Discard: first, slowly").click()
    expect(words).to_have_text(["third", "second"])
    expect(page.locator('[data-v="status"]')).to_contain_text("Paused")
    panel.get_by_role("button", name="Discard: second").click()
    panel.get_by_role("button", name="Go on with mine").click()
    expect(panel.locator('[data-v="said"]')).to_contain_text("Nothing waits")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.locator('[data-v="status"]')).to_contain_text("Done")
    expect(page.locator('[data-v="caption"] q')).to_have_text("third")
    assert not wrong
