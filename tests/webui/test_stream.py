"""Our own routes: jobs, their events, their frames and images."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from core.errors import RequestError
from core.request import GenerationRequest
from core.settings import default_settings
from tests.webui.fake_engine import FakeEngine
from webui import stream
from webui.app import create_app
from webui.gate import Rules
from webui.show import FrameKey, Show, Shows

WS = "ws://127.0.0.1:7860"


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine(0.005)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    settings = default_settings(tmp_path_factory.mktemp("data"))
    client = TestClient(create_app(engine, settings, Rules(port=7860)), "http://127.0.0.1:7860")
    client.get("/api/session")
    return client


def submitted(client: TestClient, **request: Any) -> str:
    answer = client.post("/api/jobs", json={"prompt": "a cat", "steps": 6, **request})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def watched(client: TestClient, job: str, after: int = 0) -> tuple[list[Any], list[bytes]]:
    """Every message and every frame a watcher gets until the job is over."""
    messages, frames = [], []
    with client.websocket_connect(f"{WS}/api/jobs/{job}/events?after={after}") as socket:
        while True:
            packet = socket.receive()
            if packet["type"] == "websocket.close":
                return messages, frames
            if packet.get("text"):
                messages += [m for m in json.loads(packet["text"]) if "n" in m]
            elif packet.get("bytes"):
                frames.append(packet["bytes"])


def test_a_watcher_gets_every_message_once_and_in_order(client: TestClient) -> None:
    job = submitted(client)
    messages, _ = watched(client, job)
    assert [m["n"] for m in messages] == list(range(1, len(messages) + 1))
    steps = [m["index"] for m in messages if m["type"] == "step"]
    assert steps == list(range(7))
    assert messages[0]["type"] == "started" and messages[-1]["type"] == "finished"
    again, _ = watched(client, job, after=messages[4]["n"])
    assert again == messages[5:]


def test_frames_carry_their_place_and_are_jpegs(client: TestClient) -> None:
    _, frames = watched(client, submitted(client))
    assert frames
    for frame in frames:
        format, view, image, index = stream.FRAME_HEADER.unpack_from(frame)
        assert format == 1 and view in (0, 1) and image == 0 and 0 <= index <= 6
        picture = Image.open(io.BytesIO(frame[stream.FRAME_HEADER.size :]), formats=("JPEG",))
        assert picture.size == (128, 128)


def test_every_frame_can_be_fetched_and_kept_for_ever(client: TestClient) -> None:
    job = submitted(client, images=2)
    watched(client, job)
    for image in (0, 1):
        for index in range(7):
            answer = client.get(f"/frames/{job}/{image}/latents/{index}.jpg")
            assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
            assert "immutable" in answer.headers["cache-control"]
    assert client.get(f"/frames/{job}/0/denoised/0.jpg").status_code == 404  # none yet at step 0
    assert client.get(f"/frames/{job}/0/latents/7.jpg").status_code == 404
    assert client.get(f"/frames/{job}/0/other/1.jpg").status_code == 404


def test_a_full_frame_is_decoded_once(client: TestClient, engine: FakeEngine) -> None:
    job = submitted(client)
    watched(client, job)
    while engine.describe().running:
        time.sleep(0.01)
    url = f"/frames/{job}/0/denoised/4.jpg"
    full = client.get(url + "?full=1")
    assert full.status_code == 200 and full.content != client.get(url).content
    engine.inspect, kept = None, engine.inspect  # type: ignore[assignment, method-assign]
    try:
        assert client.get(url + "?full=1").content == full.content
    finally:
        engine.inspect = kept  # type: ignore[method-assign]


def test_full_frames_wait_for_jobs(client: TestClient, engine: FakeEngine) -> None:
    done = submitted(client)
    watched(client, done)
    running = submitted(client, steps=200)
    answer = client.get(f"/frames/{done}/0/denoised/4.jpg?full=1")
    assert answer.status_code == 202 and not answer.content
    client.post(f"/api/jobs/{running}/cancel")


def test_images_are_given_as_files_and_thumbnails(client: TestClient) -> None:
    job = submitted(client)
    watched(client, job)
    picture = Image.open(io.BytesIO(client.get(f"/images/{job}/0.png").content), formats=("PNG",))
    assert picture.size == (128, 128)
    assert client.get(f"/images/{job}/0/thumbnail.jpg").status_code == 200
    assert client.get(f"/images/{job}/1.png").status_code == 404


def test_a_stopped_job_keeps_what_there_is(client: TestClient) -> None:
    job = submitted(client, steps=200)
    while client.get(f"/api/jobs/{job}").json()["state"] == "waiting":
        time.sleep(0.01)
    time.sleep(0.2)
    assert client.post(f"/api/jobs/{job}/interrupt").status_code == 200
    messages, _ = watched(client, job)
    assert messages[-1]["type"] == "finished" and messages[-1]["interrupted"]
    (image,) = [m for m in messages if m["type"] == "image"]
    assert not image["finished"]


def test_a_cancelled_job_is_gone_and_a_waiting_one_can_be_stopped(client: TestClient) -> None:
    running, waiting = submitted(client, steps=300), submitted(client)
    assert client.get(f"/api/jobs/{waiting}").json()["place"] >= 1
    client.post(f"/api/jobs/{waiting}/interrupt")
    client.post(f"/api/jobs/{running}/cancel")
    assert watched(client, waiting)[0][-1]["type"] == "cancelled"
    assert watched(client, running)[0][-1]["type"] == "cancelled"


def test_a_failed_job_says_why_and_an_unforeseen_one_only_where_to_look(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    foreseen, _ = watched(client, submitted(client, prompt="fail"))
    assert foreseen[-1]["text"] == "The network answered with NaN at step 3 of 20"
    crashed, _ = watched(client, submitted(client, prompt="crash"))
    assert "secret" not in crashed[-1]["text"] and "(id " in crashed[-1]["text"]
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"prompt": 5}',
        b'{"prompt": "a", "steps": 1e308}',
        b'{"prompt": "a", "cfg_scale": NaN}',
        b'{"prompt": "a", "seed": "x"}',
        b'{"prompt": "a", "nonsense": 1}',
        b'{"prompt": "a", "width": true}',
        b'{"prompt": "' + b"a" * 2**21 + b'"}',
        b'{"prompt": ""}',
    ],
)
def test_what_is_no_request_is_a_sentence(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/jobs", content=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"] and "Traceback" not in answer.text


def test_a_session_can_have_only_so_many_jobs_waiting(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WAITING", 2)
    jobs = [submitted(client, steps=300) for _ in range(3)]
    while client.get(f"/api/jobs/{jobs[0]}").json()["state"] == "waiting":
        time.sleep(0.01)
    assert client.post("/api/jobs", json={"prompt": "one more"}).status_code == 429
    for job in jobs:
        client.post(f"/api/jobs/{job}/cancel")


def test_seeds_beyond_what_a_browser_can_count_keep_every_digit(client: TestClient) -> None:
    job = submitted(client, seed=2**62 + 1)
    assert client.get(f"/api/jobs/{job}").json()["request"]["seed"] == str(2**62 + 1)


def test_a_slow_watcher_gets_the_newest_frame_and_no_backlog(engine: FakeEngine) -> None:
    """However many steps pass between two looks, one frame a view is what there is to send."""
    job = engine.submit(GenerationRequest(prompt="a cat", steps=30), "me")
    show = Show(job)
    assert show.settle(10)
    latest = show.latest()
    assert set(latest) == {FrameKey(0, "latents", 30), FrameKey(0, "denoised", 30)}


def test_forgotten_shows_are_read_anew(engine: FakeEngine) -> None:
    shows = Shows(budget=1)
    first = engine.submit(GenerationRequest(prompt="a cat", steps=3), "me")
    frame = None
    for job in (first, engine.submit(GenerationRequest(prompt="a dog", steps=3), "me"), first):
        show = shows.of(job)
        assert show.settle(10)
        if job is first:
            assert frame in (None, show.frame(FrameKey(0, "latents", 2)))
            frame = show.frame(FrameKey(0, "latents", 2))
        assert len(shows._shows) <= 2
    assert frame


def test_one_thread_reads_a_job_however_many_watch(client: TestClient) -> None:
    job = submitted(client, steps=40)
    with (
        client.websocket_connect(f"{WS}/api/jobs/{job}/events") as one,
        client.websocket_connect(f"{WS}/api/jobs/{job}/events") as two,
    ):
        one.receive(), two.receive()
        names = [thread.name for thread in threading.enumerate()]
        assert names.count(f"show-{job}") <= 1
        client.post(f"/api/jobs/{job}/cancel")
        for socket in (one, two):
            while socket.receive()["type"] != "websocket.close":
                pass


def test_an_unknown_job_is_not_there(client: TestClient) -> None:
    assert client.get("/api/jobs/none").status_code == 404
    with pytest.raises(RequestError):
        FakeEngine(0).job("none")
