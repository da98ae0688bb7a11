"""The gate: who may call what, for every route there is."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from core.settings import default_settings
from tests.webui.fake_engine import FakeEngine
from tests.webui.loops import run_apart
from webui.app import create_app
from webui.gate import Failures, Gate, Rules

HOME = "http://127.0.0.1:7860"
WS = "ws://127.0.0.1:7860"
TOKEN = "a-token-that-nobody-knows"


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine(0)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def app(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("data")
    return create_app(engine, default_settings(folder), Rules(port=7860))


@pytest.fixture(scope="module")
def locked(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("data")
    return create_app(engine, default_settings(folder), Rules(port=7860, token=TOKEN))


def client(app: Any, **headers: str) -> TestClient:
    return TestClient(app, base_url=HOME, headers=headers, follow_redirects=False)


def every_route(routes: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, gradio's and our own, WebSockets as "WS"."""
    for route in routes:
        if isinstance(route, Mount):
            yield from every_route(route.routes or [], before + route.path)
            yield "GET", before + route.path + "/anything"
        elif isinstance(route, WebSocketRoute):
            yield "WS", before + route.path
        elif isinstance(route, Route):
            for method in route.methods or ():
                yield method, before + route.path
        elif hasattr(route, "original_router"):  # an included router
            yield from every_route(route.original_router.routes, before)


def test_every_route_is_found(app: Any) -> None:
    found = set(every_route(app.routes))
    assert ("POST", "/api/jobs") in found
    assert ("WS", "/api/jobs/{id}/events") in found
    assert any("gradio_api" in path for _, path in found)
    assert len(found) > 40


def refused(app: Any, method: str, path: str, status: int, **headers: str) -> None:
    path = path.replace("{", "").replace("}", "").replace(":path", "")
    caller = client(app, **headers)
    if method == "WS":
        with pytest.raises(WebSocketDisconnect) as closed, caller.websocket_connect(WS + path):
            pass
        assert closed.value.code == 1008, path
        return
    answer = caller.request(method, path)
    assert answer.status_code == status, (method, path, answer.text[:100])


def test_no_route_answers_to_a_foreign_host(app: Any) -> None:
    for method, path in every_route(app.routes):
        refused(app, method, path, 421, host="evil.example:7860")


def test_no_route_answers_without_the_token(locked: Any) -> None:
    for method, path in every_route(locked.routes):
        refused(locked, method, path, 401)


def test_no_route_that_changes_anything_answers_to_a_foreign_origin(app: Any) -> None:
    for method, path in every_route(app.routes):
        if method not in ("GET", "HEAD"):
            refused(app, method, path, 403, origin="http://evil.example")
            refused(app, method, path, 403, origin="null")
            # Another server on this very machine is another origin.
            refused(app, method, path, 403, origin="http://127.0.0.1:8888")


def test_no_route_answers_to_another_sites_script(app: Any) -> None:
    for method, path in every_route(app.routes):
        refused(app, method, path, 403, **{"sec-fetch-site": "cross-site"})


def test_a_link_from_another_site_may_be_followed(app: Any) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client(app, **headers).get("/api/session").status_code == 200


def test_the_own_origin_may_post(app: Any) -> None:
    answer = client(app, origin=HOME).post("/api/jobs", json={"prompt": "a cat"})
    assert answer.status_code == 200
    assert len(answer.json()["id"]) > 10


@pytest.mark.parametrize("host", ["", "127.0.0.1:7860:1", "[::1", "127.0.0.1@evil.example", " "])
def test_a_host_that_is_none_is_refused(app: Any, host: str) -> None:
    assert client(app, host=host).get("/api/session").status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "[::1]:7860", "localhost."])
def test_this_machines_own_names_are_answered_to(app: Any, host: str) -> None:
    assert client(app, host=host).get("/api/session").status_code == 200


def test_the_token_becomes_a_cookie_and_leaves_the_address(locked: Any) -> None:
    browser = client(locked)
    answer = browser.get(f"/?token={TOKEN}&page=2")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?page=2"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("vitrine_token_7860=") and TOKEN not in cookie
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert browser.get("/api/session").status_code == 200


def test_the_entrance_never_leads_to_another_host(locked: Any) -> None:
    answer = client(locked).get(f"//evil.example/x?token={TOKEN}")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/")
    assert not answer.headers["location"].startswith("//")


def test_programs_show_the_token_as_bearer_or_basic(locked: Any) -> None:
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for value in (f"Bearer {TOKEN}", f"Basic {basic}"):
        caller = client(locked, authorization=value)
        job = caller.post("/api/jobs", json={"prompt": "a cat"}).json()["id"]
        caller.cookies.clear()
        # It keeps no cookies and is still the same one.
        assert caller.get(f"/api/jobs/{job}").status_code == 200
    assert client(locked, authorization="Basic !!").get("/api/session").status_code == 401


def test_a_browser_without_the_token_is_told_where_to_find_it(locked: Any) -> None:
    answer = client(locked, accept="text/html").get("/")
    assert answer.status_code == 401
    assert "token" in answer.text and "<form>" in answer.text
    assert TOKEN not in answer.text


async def called(gate: Gate, **extra: Any) -> tuple[int, dict[str, str], bytes]:
    """One request through a gate, by hand; returns status, headers, body."""
    sent: list[Any] = []
    body = extra.pop("body", b"")
    headers = {"host": "localhost", **extra.pop("headers", {})}
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "client": ("10.0.0.7", 1),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        **extra,
    }
    chunks = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]

    async def receive() -> Any:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    await gate(scope, receive, send)
    start = sent[0]
    answered = {k.decode(): v.decode() for k, v in start["headers"]}
    return start["status"], answered, b"".join(m.get("body", b"") for m in sent[1:])


async def greets(scope: Any, receive: Any, send: Any) -> None:
    """An app that reads everything and says hello, leaving its door open to other origins."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("the caller went away")
        more = message.get("more_body", False)
    headers = [(b"access-control-allow-origin", b"*"), (b"x-frame-options", b"DENY")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def breaks(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a secret path /home/me")


def test_wrong_tokens_make_an_address_wait() -> None:
    now = 0.0
    failures = Failures(clock=lambda: now)
    gate = Gate(greets, Rules(port=1, token=TOKEN), failures)

    async def tries(token: str, address: str = "10.0.0.7") -> int:
        headers = {"authorization": f"Bearer {token}"}
        return (await called(gate, headers=headers, client=(address, 1)))[0]

    async def story() -> None:
        nonlocal now
        assert [await tries("wrong") for _ in range(5)] == [401, 401, 401, 429, 429]
        # Even the right one has to wait, or waiting would tell which one is right.
        assert await tries(TOKEN) == 429
        assert await tries(TOKEN, "10.0.0.8") == 200
        now = 1.5
        assert await tries(TOKEN) == 200
        assert await tries("wrong") == 401  # forgiven, counted anew

    run_apart(story())


def test_waiting_is_bounded_and_so_is_the_memory_of_it() -> None:
    failures = Failures(clock=lambda: 0.0, addresses=10)
    for _ in range(100):
        failures.failed("10.0.0.1")
    assert failures.wait("10.0.0.1") == 60
    for n in range(10):
        failures.failed(f"10.1.0.{n}")
    assert failures.wait("10.0.0.1") == 0


def test_bodies_are_bounded_whatever_length_they_announce() -> None:
    gate = Gate(greets, Rules(port=1, body_limit=5000))
    post = {"method": "POST"}
    assert run_apart(called(gate, **post, body=b"x" * 5000))[0] == 200
    assert run_apart(called(gate, **post, body=b"x" * 5001))[0] == 413
    lies = {"content-length": "10"}
    assert run_apart(called(gate, **post, headers=lies, body=b"x" * 9000))[0] == 413
    announced = {"content-length": "9000"}
    assert run_apart(called(gate, **post, headers=announced))[0] == 413


def test_the_app_behind_answers_413_and_nothing_else(app: Any) -> None:
    answer = client(app).post("/api/jobs", content=b"x" * (65 * 2**20))
    assert answer.status_code == 413
    assert "64 MB" in answer.json()["error"]


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webui.gate.BODY_SECONDS", 0.01)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"10")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    run_apart(Gate(greets, Rules(port=1))(scope, receive, send))
    assert sent[0]["status"] == 408


def test_every_answer_carries_the_houses_headers() -> None:
    status, headers, body = run_apart(called(Gate(greets, Rules(port=1))))
    assert (status, body) == (200, b"hello")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control-") for name in headers)
    status, headers, _ = run_apart(
        called(Gate(greets, Rules(port=1)), headers={"host": "evil.example"})
    )
    assert status == 421 and headers["x-content-type-options"] == "nosniff"


def test_an_unforeseen_error_is_a_sentence_with_an_id(caplog: pytest.LogCaptureFixture) -> None:
    status, _, body = run_apart(called(Gate(breaks, Rules(port=1))))
    assert status == 500
    assert b"secret" not in body and b"Something went wrong (id " in body
    problem = body.decode().split("(id ")[1][:6]
    assert problem in caplog.text and "a secret path" in caplog.text


def test_a_session_is_given_once_and_kept(app: Any) -> None:
    browser = client(app)
    first = browser.get("/api/session")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith("vitrine_session_7860=") and "HttpOnly" in cookie
    assert "set-cookie" not in browser.get("/api/session").headers


def test_a_job_is_there_for_its_owner_only(app: Any) -> None:
    mine, theirs = client(app), client(app)
    mine.get("/api/session")
    theirs.get("/api/session")
    job = mine.post("/api/jobs", json={"prompt": "a cat", "steps": 3}).json()["id"]
    assert mine.get(f"/api/jobs/{job}").status_code == 200
    paths = [
        ("GET", f"/api/jobs/{job}"),
        ("POST", f"/api/jobs/{job}/interrupt"),
        ("POST", f"/api/jobs/{job}/skip"),
        ("POST", f"/api/jobs/{job}/cancel"),
        ("GET", f"/frames/{job}/0/latents/0.jpg"),
        ("GET", f"/images/{job}/0.png"),
        ("GET", f"/images/{job}/0/thumbnail.jpg"),
    ]
    for method, path in paths:
        answer = theirs.request(method, path)
        assert answer.status_code == 404, path
        missing = theirs.request(method, path.replace(job, "nothing"))
        assert answer.json() == missing.json()
    with (
        pytest.raises(WebSocketDisconnect) as closed,
        theirs.websocket_connect(f"{WS}/api/jobs/{job}/events"),
    ):
        pass
    assert closed.value.code == 4404
    assert job not in theirs.get("/api/session").text
    assert job in mine.get("/api/session").text
