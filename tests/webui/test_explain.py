"""The Explain page through the real engine and a tiny model; and one look in a browser."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, expect
from starlette.testclient import TestClient

from core.engine.local import LocalEngine
from core.events import Step
from core.registry import built_in
from core.settings import Settings, default_settings
from tests.core.test_controls import control_net, save
from tests.tiny import write_sd1
from tests.webui.conftest import served
from webui.app import create_app
from webui.gate import Rules

HOST = "http://127.0.0.1:7860"
ASKED = {"prompt": "a (red:1.3) apple", "checkpoint": "tiny", "seed": 3, "steps": 4}
Numbers = dict[str, np.ndarray]


def settings_in(folder: Path) -> Settings:
    write_sd1(folder / "models/Stable-diffusion/tiny.safetensors")
    net = control_net().state_dict()
    tensors = {"control_model." + name: tensor for name, tensor in net.items()}
    save(folder / "models/ControlNet/net.safetensors", tensors)
    return default_settings(folder)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    engine = LocalEngine(settings_in(tmp_path_factory.mktemp("engine")), built_in())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(engine: LocalEngine) -> TestClient:
    client = TestClient(create_app(engine, engine.settings, Rules(port=7860)), HOST)
    client.get("/api/session")
    return client


def painted(client: TestClient, **more: Any) -> str:
    answer = client.post("/api/jobs", json={**ASKED, **more})
    assert answer.status_code == 200, answer.text
    job = str(answer.json()["id"])
    deadline = time.monotonic() + 60
    while (told := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told["state"] == "finished", told
    return job


@pytest.fixture(scope="module")
def job(client: TestClient) -> str:
    return painted(client, images=2)


def numbers(client: TestClient, url: str) -> tuple[dict[str, Any], Numbers]:
    """Reads an answer as the browser does; see webui/packing.py."""
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    data = answer.content
    (length,) = struct.unpack_from("<I", data)
    assert length % 4 == 0
    head = json.loads(data[4 : 4 + length])
    arrays = {}
    for name, told in head["arrays"].items():
        count = int(np.prod(told["shape"]))
        kind = {"f2": "<f2", "f4": "<f4"}[told["type"]]
        found = np.frombuffer(data, kind, count, 4 + length + told["at"])
        arrays[name] = found.reshape(told["shape"]).astype(np.float32)
    return head, arrays


def test_a_run_is_told_step_by_step(client: TestClient, job: str) -> None:
    told = client.get(f"/api/explain/run/{job}/1").json()
    assert [step["at"] for step in told["steps"]] == [0, 1, 2, 3, 4]
    assert [step["last"] for step in told["steps"]] == [False] * 4 + [True]
    assert told["steps"][0]["change"] is None and told["steps"][1]["change"] > 0
    assert told["request"]["seed"] == "3"
    assert told["pictures"] == [0, 1]
    assert not any(step["remembers"] for step in told["steps"])


def test_a_step_says_whether_its_sampler_remembers_earlier_ones(client: TestClient) -> None:
    told = client.get(f"/api/explain/run/{painted(client, sampler='dpmpp_2m')}/0").json()
    assert [step["remembers"] for step in told["steps"]] == [False, True, True, True, True]
    plans = {one["name"] for one in told["samplers"] if one["plans"]}
    assert plans == {"dpm_fast", "dpm_adaptive"}


def test_what_the_browser_mixes_is_what_the_run_recorded(
    client: TestClient, engine: LocalEngine, job: str
) -> None:
    """uncond + s · (cond − uncond), from the half precision numbers that the page is given."""
    head, arrays = numbers(client, f"/api/explain/inside/{job}/1/0/2")
    mixed = arrays["uncond"] + head["cfg_scale"] * (arrays["cond0"] - arrays["uncond"])
    step = next(
        e
        for e in engine.job(job).events()
        if isinstance(e, Step) and e.images == (1,) and e.state.index == 3
    )
    recorded = step.estimates[0][0].numpy()
    assert np.abs(mixed - recorded).max() < 0.02 * np.abs(recorded).max()
    assert head["weights"] == [1.0]


def test_a_scale_is_decoded_by_the_vae(client: TestClient, job: str) -> None:
    url = f"/api/explain/inside/{job}/0/0/2.jpg?cfg_scale="
    low, high = (client.get(url + scale) for scale in ("0", "9"))
    assert low.status_code == high.status_code == 200
    assert low.content != high.content
    assert Image.open(io.BytesIO(low.content), formats=("JPEG",)).size == (64, 64)
    assert client.get(url + "nan").status_code == 422
    assert client.get(url + "1e9").status_code == 422


def test_a_step_is_told_without_its_guides(
    client: TestClient, engine: LocalEngine, job: str
) -> None:
    picture = engine.inputs.add(Image.new("RGB", (64, 64), "white"))
    use = {"model": "net", "picture": picture, "preprocessor": "none"}
    url = f"/api/explain/inside/{painted(client, controls=[use])}/0/0/0"
    own, bare = (numbers(client, url + more)[1] for more in ("", "?without_guides=true"))
    _, plain = numbers(client, f"/api/explain/inside/{job}/0/0/0")
    assert np.abs(own["cond0"] - bare["cond0"]).max() > 1e-3
    np.testing.assert_array_equal(bare["cond0"], plain["cond0"])  # of the same seed
    seen, without = (client.get(url + ".jpg" + more) for more in ("", "?without_guides=true"))
    assert seen.status_code == without.status_code == 200
    assert seen.content != without.content


def test_the_words_of_a_place_share_all_of_its_attention(client: TestClient, job: str) -> None:
    head, arrays = numbers(client, f"/api/explain/where/{job}/0/0/1")
    for prompt in head["prompts"]:
        for group in prompt["groups"]:
            seen = arrays[group["array"]]
            assert seen.shape[0] == len(prompt["words"])
            np.testing.assert_allclose(seen.sum(0), 1, atol=0.01)
    words = [word["text"] for word in head["prompts"][0]["words"]]
    assert words == ["start", "a", "red", "apple", "end", "filler × 72"]


def test_the_network_is_gone_through_block_by_block(client: TestClient, job: str) -> None:
    head, arrays = numbers(client, f"/api/explain/through/{job}/0/0/1")
    parts = [block["part"] for block in head["blocks"]]
    assert parts == sorted(parts, key=["input", "middle", "output"].index)
    assert head["context"] == [77, 32] and all(head["vae"])
    assert head["network"] > head["encoder"] / 100
    assert arrays[head["blocks"][0]["array"]].shape == (8, 8)


def test_every_steps_latents_are_there_without_the_engine(
    client: TestClient, engine: LocalEngine, job: str
) -> None:
    head, arrays = numbers(client, f"/api/explain/latents/{job}/0")
    steps = [e for e in engine.job(job).events() if isinstance(e, Step) and e.images == (0,)]
    assert [told["at"] for told in head["steps"]] == [step.state.index for step in steps]
    for step in steps:
        x = step.state.latents[0].numpy() / (1 + step.sigma**2) ** 0.5
        np.testing.assert_allclose(arrays[f"x{step.state.index}"], x, rtol=1e-3, atol=1e-3)


def test_what_was_read_is_told_with_its_likenesses(client: TestClient) -> None:
    head, arrays = numbers(
        client, f"/api/explain/words/{painted(client, prompt='[a cat:a dog:0.5]')}"
    )
    stretches = head["positive"]
    assert [(one["first"], one["last"]) for one in stretches] == [(0, 3), (3, 4)]
    square = arrays[stretches[0]["parts"][0]["likeness"]]
    np.testing.assert_allclose(np.diagonal(square), 1, atol=0.01)


def test_a_picture_is_noised_guessed_and_sent_through_the_vae(client: TestClient) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (90, 90), "teal").save(stream, "PNG")
    name = client.post("/api/pictures", content=stream.getvalue()).json()["name"]
    head, arrays = numbers(client, f"/api/explain/encoded/{name}?checkpoint=tiny")
    assert head["size"] == [64, 64]
    assert arrays["latents"].shape == arrays["noise"].shape == (4, 8, 8)
    assert arrays["sigmas"].shape == (1000,)
    _, guess = numbers(client, f"/api/explain/guess/{name}?timestep=500&prompt=a+cat")
    assert guess["cond"].shape == (4, 8, 8) and (guess["cond"] != guess["uncond"]).any()
    lost = client.get(f"/api/explain/vae/{name}").json()
    assert lost["pixels"] / lost["latents"] == 48
    plain = client.get(f"/api/explain/vae/{name}/behind.png").content
    nudged = client.get(f"/api/explain/vae/{name}/behind.png?nudge=9&row=4&column=4").content
    assert plain != nudged
    wrong = client.get(f"/api/explain/vae/{name}/behind.png?nudge=9&row=8")
    assert wrong.status_code == 422 and "8 × 8" in wrong.json()["error"]


def test_schedules_are_those_of_the_shelf(client: TestClient) -> None:
    head, arrays = numbers(client, "/api/explain/schedules?steps=10&checkpoint=tiny")
    assert {one["name"] for one in head["schedules"]} == set(built_in().schedules)
    assert len(arrays["karras"]) == 11
    assert client.get("/api/explain/schedules?steps=0").status_code == 422


def test_a_drawn_schedule_is_walked_and_kept(client: TestClient, engine: LocalEngine) -> None:
    levels = [10.0, 4.0, 1.5, 0.4, 0.0]
    job = painted(client, schedule=levels, sampler="euler")
    steps = client.get(f"/api/explain/run/{job}/0").json()["steps"]
    assert [step["sigma"] for step in steps] == pytest.approx(levels)
    assert engine.job(job).request.schedule == tuple(levels)


def test_an_unchanged_branch_ends_in_the_same_pixels_with_the_calls_of_the_rest(
    client: TestClient, job: str
) -> None:
    """As the page asks for it: of the second image, by that image's own seed."""
    branch = {"job": job, "image": 1, "index": 2, "pass_index": 0}
    again = painted(client, seed=4, branch=branch)
    same, first = (
        Image.open(io.BytesIO(client.get(url).content), formats=("PNG",)).tobytes()
        for url in (f"/images/{again}/0.png", f"/images/{job}/1.png")
    )
    assert same == first
    steps = client.get(f"/api/explain/run/{again}/0").json()["steps"]
    assert [step["at"] for step in steps] == [2, 3, 4]
    numbers(client, f"/api/explain/inside/{again}/0/0/3")


def test_lanes_of_a_race_share_their_noise_and_have_exact_call_counts(
    client: TestClient, engine: LocalEngine
) -> None:
    """Euler asks once a step, Heun twice but for the last; from itself a run is no distance."""
    names = ("euler", "heun", "dpmpp_2m")
    lanes = [painted(client, sampler=name, schedule="karras") for name in names]
    begun = [
        next(e for e in engine.job(lane).events() if isinstance(e, Step)).state.latents
        for lane in lanes
    ]
    assert all(torch.equal(one, begun[0]) for one in begun)
    told = client.get(f"/api/explain/race?jobs={','.join(lanes)}&reference={lanes[1]}").json()
    assert [lane["calls"] for lane in told["lanes"]] == [4, 7, 4]
    assert told["lanes"][1]["distance"] == 0 < told["lanes"][0]["distance"]
    alone = painted(client, sampler="heun", schedule="karras")
    first, again = (client.get(f"/images/{job}/0.png").content for job in (lanes[1], alone))
    same = [Image.open(io.BytesIO(data), formats=("PNG",)).tobytes() for data in (first, again)]
    assert same[0] == same[1]


@pytest.mark.parametrize(("view", "frames"), [("latents", 5), ("denoised", 5 - 1), ("noise", 3)])
def test_a_timeline_can_be_taken_along(
    client: TestClient, job: str, view: str, frames: int
) -> None:
    """Noise first; behind the last estimate the picture; noise is predicted from step 1 to 3."""
    for kind in ("gif", "webp", "png"):
        answer = client.get(f"/api/explain/timeline/{job}/0/{view}.{kind}")
        assert answer.status_code == 200, answer.text
        found = Image.open(io.BytesIO(answer.content), formats=(kind.upper(),))
        if kind != "png":
            assert getattr(found, "n_frames", 1) == frames
            assert found.size == (192, 192)
    assert client.get(f"/api/explain/timeline/{job}/0/{view}.mp4").status_code == 404


def test_nobody_looks_into_anybody_elses_run(engine: LocalEngine, job: str) -> None:
    stranger = TestClient(create_app(engine, engine.settings, Rules(port=7860)), HOST)
    stranger.get("/api/session")
    for path in (
        f"run/{job}/0",
        f"latents/{job}/0",
        f"words/{job}",
        f"inside/{job}/0/0/1",
        f"inside/{job}/0/0/1.jpg?cfg_scale=1",
        f"where/{job}/0/0/1",
        f"through/{job}/0/0/1",
        f"timeline/{job}/0/latents.gif",
        f"race?jobs={job}",
    ):
        answer = stranger.get(f"/api/explain/{path}")
        assert answer.status_code == 404 and answer.json()["error"] == "there is no such job"


def test_what_is_not_there_is_a_sentence(client: TestClient, job: str) -> None:
    assert "behind the last" in client.get(f"/api/explain/inside/{job}/0/0/4").json()["error"]
    assert client.get(f"/api/explain/inside/{job}/0/0/99").status_code in (409, 422)
    assert client.get(f"/api/explain/run/{job}/7").status_code == 404
    assert client.get(f"/api/explain/encoded/{'0' * 64}").status_code == 422


def test_in_a_browser_dragging_asks_nobody_and_pointing_ranks_words(
    browser: Browser, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path)
    server = served(LocalEngine(settings, built_in()), tmp_path)
    url = next(server)
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(url)
        page.wait_for_selector('[data-v="status"]')
        job = page.evaluate(
            "async (asked) => (await (await fetch('/api/jobs', {method: 'POST', headers:"
            " {'content-type': 'application/json'}, body: JSON.stringify(asked)})).json()).id",
            ASKED,
        )
        state = "async (id) => (await (await fetch(`/api/jobs/${id}`)).json()).state"
        while page.evaluate(state, job) != "finished":
            page.wait_for_timeout(50)
        page.goto(f"{url}?tab=explain&view=guidance&job={job}&image=0&step=2")
        expect(page.locator(".v-ex-panes .is-main span")).to_have_text("through the VAE")
        took = page.evaluate(
            """() => {
                const { fetch } = window;
                let asked = 0;
                window.fetch = (...all) => (asked++, fetch(...all));
                const input = document.querySelector('.v-ex-scale input');
                const canvas = document.querySelector('.v-ex-panes .is-main canvas');
                const pixels = () => canvas.getContext('2d').getImageData(0, 0, 64, 64).data.join();
                const seen = new Set();
                for (const scale of [0, 1, 3, 9, 20]) {
                    input.value = scale;
                    input.dispatchEvent(new Event('input'));
                    seen.add(pixels());
                }
                window.fetch = fetch;
                return {seen: seen.size, asked};
            }"""
        )
        assert took == {"seen": 5, "asked": 0}
        expect(page.locator(".v-ex-formula")).to_contain_text("20 × (prompt alone")

        page.click('[data-view="attention"]')
        page.locator(".v-ex-tokens button", has_text="apple").hover()
        expect(page.locator(".v-ex-attention .v-ex-note")).to_contain_text("“apple” gets")
        page.locator(".v-ex-over").click(position={"x": 60, "y": 60})
        expect(page.locator(".v-ex-ranks li")).to_have_count(6)
        assert "view=attention" in page.url and f"job={job}" in page.url
        assert not complaints
    finally:
        page.close()
        server.close()  # type: ignore[attr-defined]
