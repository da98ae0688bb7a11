"""What clients send, as they send it; and what A1111 answers to what is wrong."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.webui.sdapi.conftest import Served

RECORDED = json.loads((Path(__file__).parent / "clients.json").read_text(encoding="utf-8"))
LOOKED = json.loads((Path(__file__).parent / "clients_look.json").read_text(encoding="utf-8"))
KEYS = {
    "options": {"sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "samples_format"},
    "progress": {"progress", "eta_relative", "state", "current_image", "textinfo"},
    "samplers": {"name", "aliases", "options"},
    "schedulers": {"name", "label", "aliases", "default_rho", "need_inner_model"},
    "upscalers": {"name", "model_name", "model_path", "model_url", "scale"},
    "latent-upscale-modes": {"name"},
    "sd-models": {"title", "model_name", "hash", "sha256", "filename", "config"},
    "sd-vae": {"model_name", "filename"},
    "loras": {"name", "alias", "path", "metadata"},
    "hypernetworks": {"name", "path"},
    "face-restorers": {"name", "cmd_dir"},
    "realesrgan-models": {"name", "path", "scale"},
    "prompt-styles": {"name", "prompt", "negative_prompt"},
    "embeddings": {"loaded", "skipped"},
    "scripts": {"txt2img", "img2img"},
    "memory": {"ram", "cuda"},
    "/app_id": {"app_id"},
    "/controlnet/version": {"version"},
    "/controlnet/model_list": {"model_list"},
    "/controlnet/module_list": {"module_list"},
    "/controlnet/control_types": {"control_types"},
}
"""What each answer, or each of its rows, is read for."""
SMALL = {"width": 64, "height": 64, "steps": 2, "prompt": "an apple"}
API = "/sdapi/v1"


def picture(colour: str = "#806040") -> str:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def sent(call: dict[str, Any], client: httpx.Client) -> dict[str, Any]:
    body = dict(call["body"])
    if call.get("whole"):
        body = {**client.get(API + call["path"]).json(), **body}
    if name := call.get("with_picture"):
        body[name] = [picture()] if name == "init_images" else "data:image/png;base64," + picture()
    if call.get("with_mask"):
        body["mask"] = picture("white")
    return body


@pytest.mark.parametrize("call", RECORDED, ids=[f"{c['client']} {c['path']}" for c in RECORDED])
def test_recorded_calls_are_answered(call: dict[str, Any], served: Served) -> None:
    with served.client() as client:
        path = call["path"] if call.get("outside") else API + call["path"]
        answer = client.post(path, json=sent(call, client), headers=call.get("headers"))
    assert answer.status_code == call.get("status", 200), answer.text
    told = answer.json()
    if "says" in call:
        assert call["says"] in told["detail"]
    if "equals" in call:
        assert told == call["equals"]
    if "keys" in call:
        assert sorted(told) == sorted(call["keys"])
    if "infotext" in call:
        assert answer.headers["x-job-id"] and answer.headers["x-vitrine-version"]
        assert len(told["images"]) == call.get("pictures", 1)
        assert not told["images"][0].startswith("data:")
        info = json.loads(told["info"])
        for piece in call["infotext"]:
            assert piece in info["infotexts"][0]


@pytest.mark.parametrize("name", LOOKED)
def test_what_clients_look_at_is_there_in_the_shape_they_read(name: str, served: Served) -> None:
    with served.client() as client:
        for path in LOOKED[name]:
            answer = client.get(path if path.startswith("/") else f"{API}/{path}")
            assert answer.status_code == 200, path
            told = answer.json()
            keys = KEYS.get(path.partition("?")[0], set())
            rows = told if isinstance(told, list) else [told]
            assert all(keys <= set(row) for row in rows if keys), path


def test_every_client_that_is_listed_is_recorded() -> None:
    assert {call["client"] for call in RECORDED} == {*LOOKED, "LibreChat"}


@pytest.mark.parametrize(
    ("path", "body", "status", "piece"),
    [
        ("/txt2img", {**SMALL, "sampler_name": "nonesuch"}, 400, "nonesuch"),
        ("/txt2img", {**SMALL, "scheduler": "nonesuch"}, 400, "nonesuch"),
        ("/img2img", SMALL, 404, "Init image not found"),
        ("/txt2img", {**SMALL, "alwayson_scripts": {"x": {"args": [True]}}}, 422, "always on"),
        ("/txt2img", {**SMALL, "script_name": "X/Y/Z plot"}, 422, "Script 'X/Y/Z plot' not found"),
        ("/txt2img", {**SMALL, "restore_faces": True}, 422, "faces"),
        ("/txt2img", {**SMALL, "steps": "many"}, 422, "steps"),
        ("/txt2img", {**SMALL, "steps": 1e308}, 422, "steps"),
        ("/txt2img", {**SMALL, "seed": 2**63}, 422, "seed"),
        ("/txt2img", {**SMALL, "cfg_scale": -1}, 422, "cfg scale"),
        ("/txt2img", {**SMALL, "batch_size": 0}, 422, "batch_size"),
        ("/txt2img", {**SMALL, "prompt": "a" * 100_000}, 422, "letters"),
        ("/txt2img", {**SMALL, "override_settings": {"outdir_samples": "/etc"}}, 422, "outdir"),
        ("/txt2img", {**SMALL, "override_settings": {"nonesuch": 1}}, 422, "nonesuch"),
        ("/txt2img", {**SMALL, "override_settings": 5}, 422, "override_settings"),
        ("/txt2img", {**SMALL, "styles": ["nonesuch"]}, 422, "nonesuch"),
        ("/options", {"sd_model_checkpoint": "nonesuch"}, 422, "nonesuch"),
        ("/options", {"outdir_samples": "/etc"}, 422, "can't be changed"),
        ("/img2img", {**SMALL, "init_images": ["https://example.com/a.png"]}, 422, "not fetched"),
        ("/img2img", {**SMALL, "init_images": ["AAAA"]}, 500, "PNG"),
        ("/img2img", {**SMALL, "init_images": [7]}, 422, "base64"),
        ("/extra-single-image", {"image": "x", "gfpgan_visibility": 1}, 422, "faces"),
        ("/interrogate", {}, 404, "Image not found"),
        ("/train/embedding", {}, 404, "trained"),
        ("/nonesuch", {}, 404, "nonesuch"),
    ],
)
def test_what_can_not_be_done_is_said_in_a1111s_shape(
    served: Served, path: str, body: Any, status: int, piece: str
) -> None:
    with served.client() as client:
        answer = client.post(API + path, json=body)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"error", "detail", "body", "errors"}
    assert piece in told["detail"] and "Traceback" not in answer.text


@pytest.mark.parametrize("body", [b"[]", b"{", b"[" * 100_000, b'"x"', b"\xff"])
def test_what_is_no_object_is_refused(served: Served, body: bytes) -> None:
    with served.client() as client:
        assert client.post(API + "/txt2img", content=body).status_code == 422


def started(client: httpx.Client, body: dict[str, Any]) -> tuple[threading.Thread, list[Any]]:
    """A blocked call on a thread of its own, begun; and where its answer will be."""
    answers: list[Any] = []

    def call() -> None:
        answers.append(client.post(API + "/txt2img", json=body))

    thread = threading.Thread(target=call)
    thread.start()
    return thread, answers


def in_work(client: httpx.Client) -> dict[str, Any]:
    for _ in range(500):
        told = client.get(API + "/progress?skip_current_image=true").json()
        if told["state"]["sampling_step"] > 0:
            return told
        time.sleep(0.02)
    raise AssertionError("the job does not begin")


def test_interrupting_is_the_callers_own_and_answers_the_blocked_call(served: Served) -> None:
    with served.client() as mine, served.client() as theirs, served.client() as second:
        second.cookies = mine.cookies  # the same caller on another connection
        body = {**SMALL, "steps": 400, "n_iter": 3}
        thread, answers = started(mine, body)
        told = in_work(second)
        assert 0 < told["progress"] < 1 and told["state"]["job_count"] == 3
        assert told["current_image"] is None
        idle = theirs.get(API + "/progress").json()
        assert idle["progress"] == 0 and idle["state"]["job_count"] == 0
        assert theirs.post(API + "/interrupt").json() == {}
        assert theirs.get(f"{API}/progress?job={told['current_task']}").status_code == 404
        assert second.get(API + "/progress").json()["progress"] > 0  # it goes on
        assert second.post(API + "/interrupt").json() == {}
        thread.join(30)
        (answer,) = answers
        assert answer.status_code == 200
        assert len(answer.json()["images"]) == 1
        assert "Unfinished" in json.loads(answer.json()["info"])["infotexts"][0]
        assert second.get(API + "/progress").json()["progress"] == 0


def test_a_waiting_call_that_is_called_off_is_answered_with_nothing(served: Served) -> None:
    with served.client() as first, served.client() as waiting, served.client() as control:
        other = served.client()
        other.cookies = first.cookies
        long, _ = started(first, {**SMALL, "steps": 400})
        in_work(other)
        thread, answers = started(waiting, SMALL)
        control.cookies = waiting.cookies
        while not control.get("/internal/pending-tasks").json()["size"]:
            time.sleep(0.02)
        assert control.get(API + "/progress").json()["textinfo"] == "Waiting: 1 before this one"
        control.post(API + "/interrupt")
        thread.join(30)
        assert answers[0].status_code == 200 and answers[0].json()["images"] == []
        other.post(API + "/interrupt")
        long.join(30)
        other.close()


def test_a_named_task_can_be_followed(served: Served) -> None:
    with served.client() as client:
        body = {**SMALL, "force_task_id": "task(me)"}
        assert client.post(API + "/txt2img", json=body).status_code == 200
        told = client.post("/internal/progress", json={"id_task": "task(me)"}).json()
        assert told["completed"] and not told["active"] and not told["queued"]
        strange = client.post("/internal/progress", json={"id_task": "other"}).json()
        assert not strange["completed"] and not strange["active"]


def test_an_infotext_fills_what_the_request_leaves_open(served: Served) -> None:
    fields = "Steps: 2, Sampler: DDIM, CFG scale: 3, Seed: 77, Size: 64x64"
    text = f"a pear\nNegative prompt: blue\n{fields}"
    with served.client() as client:
        answer = client.post(API + "/txt2img", json={"infotext": text, "cfg_scale": 6})
        info = json.loads(answer.json()["info"])
    assert (info["prompt"], info["seed"], info["sampler_name"]) == ("a pear", 77, "DDIM")
    assert info["cfg_scale"] == 6 and info["steps"] == 2 and info["negative_prompt"] == "blue"


@pytest.mark.parametrize(("kind", "format"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_pictures_come_in_the_format_that_was_set(served: Served, kind: str, format: str) -> None:
    with served.client() as client:
        body = {**SMALL, "override_settings": {"samples_format": kind}}
        answer = client.post(API + "/txt2img", json=body).json()
        data = base64.b64decode(answer["images"][0])
        assert Image.open(io.BytesIO(data), formats=(format,)).size == (64, 64)
        told = client.post(API + "/png-info", json={"image": answer["images"][0]}).json()
        assert told["info"] == json.loads(answer["info"])["infotexts"][0]
        assert told["parameters"]["Size-1"] == "64"


def test_a_field_that_means_nothing_here_is_named(served: Served) -> None:
    with served.client() as client:
        answer = client.post(API + "/txt2img", json={**SMALL, "mystery": 1})
    assert answer.headers["x-vitrine-ignored"] == "mystery"


def test_progress_never_falls_back_over_two_passes_and_two_images() -> None:
    """Told from a job's own events, one after the other."""
    from dataclasses import replace

    import torch

    from core.engine.job import Job
    from core.events import ImageDone, Step
    from core.request import Enlarge, GenerationRequest
    from core.sampling.state import State
    from webui.sdapi.progress import way_of

    request = GenerationRequest(prompt="", seed=1, width=64, height=64, steps=4, images=2)
    request = replace(request, enlarge=Enlarge(scale=2))
    job, shares = Job(request, "me"), [0.0]
    for image in range(2):
        for part in range(2):
            for index in range(5):
                state = State(index, torch.zeros(1))
                job.publish(Step((image,), part, (1.0,) * 5, 1.0, 1.0, state, 0.1))
                shares.append(way_of(job).share)
        job.publish(ImageDone(image, Image.new("RGB", (8, 8)), request))
        shares.append(way_of(job).share)
    assert shares == sorted(shares)
    assert shares[-1] == 1 and max(shares[:10]) < 0.51
    assert way_of(job).seconds_left == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "path",
    [
        *("progress", "options", "cmd-flags", "samplers", "schedulers", "upscalers", "memory"),
        *("latent-upscale-modes", "sd-models", "sd-vae", "sd-modules", "hypernetworks", "scripts"),
        *("face-restorers", "realesrgan-models", "prompt-styles", "embeddings", "script-info"),
        *("extensions", "loras", "version"),
    ],
)
def test_every_list_is_there(path: str, served: Served) -> None:
    with served.client() as client:
        answer = client.get(f"{API}/{path}")
    assert answer.status_code == 200 and answer.headers["x-vitrine-version"]
    assert isinstance(answer.json(), list | dict)


@pytest.mark.parametrize(
    "path",
    ["refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings", "skip"],
)
def test_what_needs_no_doing_is_done(path: str, served: Served) -> None:
    with served.client() as client:
        answer = client.post(f"{API}/{path}")
    assert answer.status_code == 200 and answer.json() is None


def test_models_and_samplers_have_the_shapes_that_clients_read(served: Served) -> None:
    with served.client() as client:
        models = client.get(API + "/sd-models").json()
        for key in ("title", "model_name", "hash", "sha256", "filename", "config"):
            assert all(key in model for model in models)
        assert {"name", "aliases", "options"} == set(client.get(API + "/samplers").json()[0])
        upscaler = client.get(API + "/upscalers").json()[0]
        assert set(upscaler) == {"name", "model_name", "model_path", "model_url", "scale"}
        options = client.get(API + "/options").json()
        for key in ("sd_model_checkpoint", "sd_checkpoint_hash", "sd_vae", "outdir_samples"):
            assert key in options
        assert options["CLIP_stop_at_last_layers"] == 1 and options["samples_format"] == "png"


@pytest.mark.parametrize("asked", ["tiny", "tiny.safetensors", "TINY.safetensors", "tin"])
def test_a_checkpoint_is_known_by_many_names(asked: str, served: Served) -> None:
    with served.client() as client:
        (whole,) = [
            model
            for model in client.get(API + "/sd-models").json()
            if model["model_name"] == "tiny"
        ]
        names = [
            asked,
            whole["title"],
            *([whole["hash"], whole["sha256"]] if whole["hash"] else []),
        ]
        for name in names:
            client.post(API + "/options", json={"sd_model_checkpoint": name})
            told = client.get(API + "/options").json()["sd_model_checkpoint"]
            assert told.startswith("tiny.safetensors")
