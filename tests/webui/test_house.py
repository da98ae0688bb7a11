"""Named links, who is here, rates; and the queue as its owners may change it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from core.engine.local import LocalEngine
from core.errors import FileError, RequestError, VitrineError
from core.registry import built_in
from core.settings import default_settings
from tests.tiny import write_sd1
from tests.webui.loops import run_apart
from tests.webui.test_gate import called, greets
from webui import gate as gate_module
from webui import house, schema, stream, waiting
from webui.gate import LOOPBACK, Gate, Rules
from webui.guests import Links, Presence, Rates

TOKEN = "a-token-that-nobody-knows"
HOME = "http://127.0.0.1:7860"
FAR = ("10.0.0.7", 5000)


@pytest.fixture
def links(tmp_path: Path) -> Links:
    return Links(tmp_path / "links.json")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("house")
    write_sd1(folder / "models/Stable-diffusion/tiny.safetensors")
    engine = LocalEngine(default_settings(folder), built_in())
    yield engine
    engine.close()


@pytest.fixture
def app(engine: LocalEngine, links: Links) -> FastAPI:
    app, presence, stage = FastAPI(), Presence(), stream.Stage(engine)
    app.include_router(stream.routes(stage))
    rules = Rules(port=7860, token=TOKEN, hosts=LOOPBACK | {"10.0.0.1", "box.local"})
    app.include_router(house.routes(links, presence, rules))
    app.include_router(waiting.routes(stage))
    app.include_router(schema.routes())

    @app.exception_handler(VitrineError)
    async def sentence(request: Any, error: VitrineError) -> JSONResponse:
        return stream.sentences(error)

    app.add_middleware(Gate, rules=rules, links=links, presence=presence)
    return app


def client(app: Any, address: tuple[str, int] = ("127.0.0.1", 1), token: str = "") -> TestClient:
    found = TestClient(app, base_url=HOME, follow_redirects=False, client=address)
    if token:
        assert found.get(f"/?token={token}").status_code == 303
    return found


def test_the_machines_own_user_hands_out_links_and_nobody_else(app: FastAPI) -> None:
    mine, far = client(app, token=TOKEN), client(app, FAR, TOKEN)
    assert far.get("/api/session").status_code == 200
    assert far.post("/api/links", json={"name": "me"}).status_code == 403
    assert far.get("/api/links").status_code == 403
    made = mine.post("/api/links", json={"name": "Ada"}).json()
    assert [link["name"] for link in mine.get("/api/links").json()["links"]] == ["Ada"]
    assert made["token"] not in mine.get("/api/links").text
    assert made["urls"] == [f"http://10.0.0.1:7860/?token={made['token']}"]
    ada = client(app, FAR, made["token"])
    assert ada.get("/api/session").status_code == 200
    assert ada.post("/api/links", json={"name": "me"}).status_code == 403
    # Even at the machine itself, who comes by a link is a guest.
    guest = client(app, token=made["token"])
    assert guest.post("/api/links", json={"name": "me"}).status_code == 403


def test_a_revoked_link_opens_nothing_from_then_on(app: FastAPI) -> None:
    mine = client(app, token=TOKEN)
    made = mine.post("/api/links", json={"name": "Ada"}).json()
    ada = client(app, FAR, made["token"])
    bearer = {"authorization": f"Bearer {made['token']}"}
    assert client(app, FAR).get("/api/session", headers=bearer).status_code == 200
    assert mine.delete(f"/api/links/{made['id']}").status_code == 200
    assert ada.get("/api/session").status_code == 401
    assert client(app, FAR).get("/api/session", headers=bearer).status_code == 401
    assert mine.delete(f"/api/links/{made['id']}").status_code == 422


def test_links_outlast_the_process_and_the_file_opens_no_door(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    link, token = Links(path).add("Ada", "guest")
    assert token not in path.read_text() and path.stat().st_mode & 0o077 == 0
    again = Links(path)
    assert again.of_token(token) == link
    stored = json.loads(path.read_text())[0]["proof"]
    assert again.of_cookie(stored) is None and again.of_token(stored) is None
    with pytest.raises(RequestError, match="already"):
        again.add("Ada", "viewer")
    path.write_text("{")
    with pytest.raises(FileError, match="can't be read"):
        Links(path)


def test_a_viewer_sees_what_the_teacher_sees_and_changes_nothing(app: FastAPI) -> None:
    mine = client(app, token=TOKEN)
    made = mine.post("/api/links", json={"name": "class", "role": "viewer"}).json()
    job = mine.post("/api/jobs", json={"prompt": "an apple", "steps": 2, "seed": 1}).json()["id"]
    viewer = client(app, FAR, made["token"])
    assert viewer.get(f"/api/jobs/{job}").status_code == 200
    with viewer.websocket_connect(f"ws://127.0.0.1:7860/api/jobs/{job}/events") as socket:
        assert json.loads(socket.receive_text())[0]["type"] == "hello"
        while socket.receive()["type"] != "websocket.close":
            pass
    for method, path in (
        ("POST", "/api/jobs"),
        ("POST", f"/api/jobs/{job}/cancel"),
        ("DELETE", f"/api/jobs/{job}"),
        ("POST", "/api/queue/pause"),
    ):
        answer = viewer.request(method, path, json={"prompt": "x"})
        assert answer.status_code == 403 and "watching" in answer.json()["error"]


def test_a_viewer_has_one_page_and_no_way_into_the_house(app: FastAPI) -> None:
    mine = client(app, token=TOKEN)
    made = mine.post("/api/links", json={"name": "class", "role": "viewer"}).json()
    viewer = client(app, FAR, made["token"])
    page = {"accept": "text/html"}
    for path in ("/", "/?tab=settings", "/gallery/1/picture", "/config"):
        answer = viewer.get(path, headers=page)
        assert (answer.status_code, answer.headers["location"]) == (303, "/watch")
    for path in ("/config", "/api/settings", "/api/gallery", "/sdapi/v1/options", "/ext/a/b"):
        answer = viewer.get(path)
        assert answer.status_code == 403 and "watching" in answer.json()["error"]
    assert viewer.get("/api/queue").status_code == 200


def test_with_a_link_its_open_connections_end(app: FastAPI) -> None:
    mine = client(app, token=TOKEN)
    made = mine.post("/api/links", json={"name": "class", "role": "viewer"}).json()
    viewer = client(app, FAR, made["token"])
    with viewer.websocket_connect("ws://127.0.0.1:7860/api/queue/events") as socket:
        assert json.loads(socket.receive_text())["jobs"] == []
        assert "class" in [one["name"] for one in mine.get("/api/people").json()]
        mine.delete(f"/api/links/{made['id']}")
        assert socket.receive()["type"] == "websocket.close"
    assert "class" not in [one["name"] for one in mine.get("/api/people").json()]


def test_a_class_does_not_use_up_the_teachers_watchers(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WATCHERS", 1)
    mine = client(app, token=TOKEN)
    made = mine.post("/api/links", json={"name": "class", "role": "viewer"}).json()
    job = mine.post("/api/jobs", json={"prompt": "x", "steps": 300}).json()["id"]
    url = f"ws://127.0.0.1:7860/api/jobs/{job}/events"
    pupils = [client(app, (f"10.0.0.{n}", 1), made["token"]) for n in (7, 8)]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(one.websocket_connect(url)) for one in (*pupils, mine)]
        assert all(json.loads(s.receive_text())[0]["type"] == "hello" for s in sockets)
        mine.delete(f"/api/jobs/{job}")
        for socket in sockets:
            while socket.receive()["type"] != "websocket.close":
                pass


def test_who_is_here_is_told_and_addresses_to_the_house_alone(app: FastAPI) -> None:
    mine = client(app, token=TOKEN)
    made = mine.post("/api/links", json={"name": "Ada"}).json()
    ada = client(app, FAR, made["token"])
    ada.get("/api/session")
    told = mine.get("/api/people").json()
    (hers,) = [one for one in told if one["name"] == "Ada"]
    assert hers["address"] == FAR[0] and not hers["you"]
    seen = ada.get("/api/people").json()
    assert any(one["you"] for one in seen) and "address" not in seen[0]


def test_presence_is_bounded_and_forgets() -> None:
    now = 0.0
    presence = Presence(clock=lambda: now)
    presence.heard("a", "", "guest", "x", sockets=1)
    for n in range(3000):
        presence.heard(f"b{n}", "", "guest", "x")
    assert len(presence.here()) == 1000
    presence.heard("c", "", "guest", "x", sockets=1)
    now = 100.0
    assert [caller.owner for caller in presence.here()] == ["c"]  # its socket is open


def test_a_bucket_fills_again() -> None:
    now = 0.0
    rates = Rates(3, 1.0, clock=lambda: now)
    assert [rates.wait("a") for _ in range(4)] == [0, 0, 0, 1]
    assert rates.wait("b") == 0
    now = 1.0
    assert rates.wait("a") == 0 and rates.wait("a") == 1
    assert rates.wait("c", 1000) == 0  # once, where the bucket is full
    assert rates.wait("c") > 0


def test_who_asks_too_much_has_to_wait_and_this_machine_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate_module, "CALLS_AT_ONCE", 5)
    gate = Gate(greets, Rules(port=1))

    async def story() -> None:
        far = [(await called(gate))[0] for _ in range(7)]
        assert far == [200] * 5 + [429] * 2
        near = [(await called(gate, client=("127.0.0.1", 1)))[0] for _ in range(20)]
        assert set(near) == {200}

    run_apart(story())


def test_one_caller_holds_only_so_many_sockets(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "SOCKETS", 1)
    mine = client(app, token=TOKEN)
    job = mine.post("/api/jobs", json={"prompt": "x", "steps": 300}).json()["id"]
    url = f"ws://127.0.0.1:7860/api/jobs/{job}/events"
    with mine.websocket_connect(url) as socket:
        second = mine.websocket_connect(url)
        with pytest.raises(WebSocketDisconnect), second:
            pass
        mine.delete(f"/api/jobs/{job}")
        while socket.receive()["type"] != "websocket.close":
            pass


def test_a_named_origin_may_call_and_brings_its_own_credentials() -> None:
    site = "https://other.example"
    gate = Gate(greets, Rules(port=1, token=TOKEN, origins=frozenset({site})))
    asking = {"origin": site, "access-control-request-method": "POST"}
    status, headers, _ = run_apart(called(gate, method="OPTIONS", headers=asking))
    assert status == 204 and headers["access-control-allow-origin"] == site
    assert "access-control-allow-credentials" not in headers
    assert run_apart(called(gate, method="POST", headers={"origin": site}))[0] == 401
    shown = {"origin": site, "authorization": f"Bearer {TOKEN}"}
    assert run_apart(called(gate, method="POST", headers=shown))[0] == 200
    asking["origin"] = "https://strange.example"
    status, headers, _ = run_apart(called(gate, method="OPTIONS", headers=asking))
    assert status == 403 and "access-control-allow-origin" not in headers


def test_own_jobs_can_be_arranged_paused_and_discarded(app: FastAPI) -> None:
    mine = client(app, token=TOKEN)
    paused = mine.post("/api/queue/pause", json={"paused": True}).json()
    assert paused["paused"] and not paused["everybody_paused"]
    body = {"prompt": "an apple", "steps": 2}
    first, second = (mine.post("/api/jobs", json=body).json()["id"] for _ in range(2))
    told = mine.post("/api/queue/order", json={"jobs": [second, first]}).json()
    assert [job["id"] for job in told["jobs"]] == [second, first]
    assert {job["id"] for job in mine.get("/api/jobs").json()} >= {first, second}
    stranger = client(app, FAR, TOKEN)
    assert stranger.post("/api/queue/order", json={"jobs": [first]}).status_code == 422
    everybody = {"paused": True, "everybody": True}
    assert stranger.post("/api/queue/pause", json=everybody).status_code == 403
    assert mine.post("/api/queue/order", json={"jobs": [3]}).status_code == 422
    assert mine.post("/api/queue/order", json=[]).status_code == 422
    assert mine.delete(f"/api/jobs/{first}").json()["state"] == "cancelled"
    assert stranger.delete(f"/api/jobs/{second}").status_code == 404
    mine.delete(f"/api/jobs/{second}")
    assert mine.post("/api/queue/pause", json={"paused": False}).json()["paused"] is False


def test_a_program_is_one_caller_by_the_name_it_shows() -> None:
    """Without a token, too, and without cookies."""
    owners: list[str] = []

    async def notes(scope: Any, receive: Any, send: Any) -> None:
        owners.append(scope["vitrine.owner"])
        await greets(scope, receive, send)

    gate = Gate(notes, Rules(port=1))
    for shown in ("Bearer one", "Bearer one", "Bearer two"):
        run_apart(called(gate, headers={"authorization": shown}))
    assert owners[0] == owners[1] != owners[2]


def test_the_schema_is_that_of_the_request(app: FastAPI) -> None:
    told = client(app, token=TOKEN).get("/api/openapi.json").json()
    fields = told["components"]["schemas"]["GenerationRequest"]["properties"]
    from dataclasses import fields as fields_of

    from core.request import GenerationRequest

    assert set(fields) == {field.name for field in fields_of(GenerationRequest)}
    assert fields["steps"]["maximum"] == 500
