"""The reference client runs end to end against a server with a tiny model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw

from core.images.capsule import read_picture
from core.registry import built_in
from tests.webui.sdapi.conftest import Served


def plain(colour: str = "#808080", size: int = 64) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def test_txt2img_gives_pictures_and_says_how_they_were_made(api: Any) -> None:
    made = api.txt2img(prompt="an apple", seed=7, width=64, height=64, batch_size=2, cfg_scale=5)
    assert [image.size for image in made.images] == [(64, 64)] * 2
    assert made.info["all_seeds"] == [7, 8]
    assert made.info["sampler_name"] == "Euler a" and made.info["steps"] == 3
    assert "Seed: 7" in made.info["infotexts"][0]
    assert made.images[0].info["parameters"] == made.info["infotexts"][0]
    assert made.parameters["prompt"] == "an apple"
    again = api.txt2img(prompt="an apple", seed=8, width=64, height=64, cfg_scale=5)
    assert again.image.tobytes() == made.images[1].tobytes()


def test_img2img_keeps_what_the_mask_keeps(api: Any) -> None:
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill=255)
    made = api.img2img(
        images=[plain()],
        mask_image=mask,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        denoising_strength=0.9,
        prompt="an apple",
        seed=3,
        width=64,
        height=64,
    )
    changed = ImageChops.difference(made.image.convert("RGB"), plain()).getbbox()
    assert changed is not None and changed[2] <= 32
    assert made.parameters["init_images"] is None
    assert made.info["denoising_strength"] == 0.9


def test_several_pictures_make_a_batch(api: Any) -> None:
    pictures = [plain("#202020"), plain("#e0e0e0")]
    made = api.img2img(images=pictures, seed=5, width=64, height=64, denoising_strength=0.3)
    assert made.info["all_seeds"] == [5, 6]
    alone = api.img2img(images=[pictures[1]], seed=6, width=64, height=64, denoising_strength=0.3)
    assert alone.image.tobytes() == made.images[1].tobytes()


def test_a_second_pass_is_larger(api: Any) -> None:
    made = api.txt2img(
        enable_hr=True,
        hr_scale="1.5",
        hr_upscaler="Latent",
        width=64,
        height=64,
        seed=1,
        denoising_strength=0.5,
    )
    assert made.image.size == (96, 96)
    assert "Hires upscale: 1.5" in made.info["infotexts"][0]


def test_extras_enlarge(api: Any) -> None:
    assert api.extra_single_image(plain(), upscaler_1="Lanczos").image.size == (128, 128)
    wanted = {"resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 60}
    both = api.extra_batch_images([plain(), plain()], upscaler_1="nearest", **wanted)
    assert [image.size for image in both.images] == [(100, 60)] * 2
    unchanged = api.extra_single_image(plain("#102030"))
    assert unchanged.image.convert("RGB").tobytes() == plain("#102030").tobytes()


def test_png_info_reads_back_what_was_written(api: Any) -> None:
    made = api.txt2img(prompt="a cat", negative_prompt="a dog", seed=9, width=64, height=64)
    told = api.png_info(made.image).info
    assert told == made.info["infotexts"][0]


def test_idle_is_exactly_nothing(api: Any) -> None:
    progress = api.get_progress()
    assert progress["progress"] == 0 and progress["state"]["job_count"] == 0
    assert api.interrupt() == {}
    assert api.skip() is None
    api.util_wait_for_ready(0.01)


def test_options_are_the_callers_own_and_hold(api: Any, served: Served) -> None:
    titles = api.util_get_model_names()
    assert any("other one.safetensors" in title for title in titles)
    (title,) = [title for title in titles if title.startswith("tiny")]
    api.util_set_model(title, find_closest=False)
    assert api.util_get_current_model().startswith("tiny.safetensors")
    made = api.txt2img(width=64, height=64, seed=1)
    assert made.info["sd_model_name"] == "tiny"
    with served.client() as stranger:
        theirs = stranger.get("/sdapi/v1/options").json()
        assert "other one" in theirs["sd_model_checkpoint"]
    whole = api.get_options()
    whole["sd_model_checkpoint"] = "OTHER"
    assert api.set_options(whole) is None  # as Open WebUI does it
    assert api.txt2img(width=64, height=64).info["sd_model_name"] == "anime/other one"


def test_lists_name_what_there_is(api: Any) -> None:
    names = {sampler["name"] for sampler in api.get_samplers()}
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= names
    assert {"automatic", "karras"} <= {s["name"] for s in api.get_schedulers()}
    assert api.get_upscalers()[0]["name"] == "None"
    assert "Latent" in {mode["name"] for mode in api.get_latent_upscale_modes()}
    assert api.get_prompt_styles() == [
        {"name": "oil", "prompt": "{prompt}, oil", "negative_prompt": "photo"}
    ]
    assert [lora["name"] for lora in api.get_loras()] == ["cyanotype"]
    assert api.get_hypernetworks() == [] and api.get_sd_vae() == []
    embeddings = api.get_embeddings()
    assert {*embeddings["loaded"], *embeddings["skipped"]} == {"tangerine"}
    assert api.get_scripts() == {"txt2img": ["controlnet"], "img2img": ["controlnet"]}
    assert api.get_memory()["ram"]["total"] > 2**20
    assert api.get_cmd_flags()["api"] is True
    assert api.get_face_restorers() == [] and api.get_realesrgan_models() == []
    assert api.refresh_checkpoints() is None


def test_styles_are_put_round_the_prompt(api: Any) -> None:
    made = api.txt2img(prompt="a cat", styles=["oil"], width=64, height=64)
    assert made.info["prompt"] == "a cat, oil" and made.info["negative_prompt"] == "photo"


@pytest.mark.parametrize("title", [s.title for s in built_in().samplers.values()])
def test_every_sampler_can_be_asked_by_its_title_with_the_clients_extras(
    title: str, served: Served
) -> None:
    """webuiapi sends eta, s_churn and the like with every call."""
    from webui.sdapi.given import Given
    from webui.sdapi.names import Names
    from webui.sdapi.options import SETTABLE
    from webui.sdapi.translate import Translator

    sent = {"sampler_name": title, "eta": 1.0, "s_churn": 0, "s_tmax": 0, "s_noise": 1}
    names = Names(served.engine, served.settings)
    options = {name: option.default for name, option in SETTABLE.items()}
    asked = Translator(names, served.engine.inputs, served.settings.data_dir).txt2img(
        Given(sent), options
    )
    (request,) = asked.requests
    from core.resolve import resolve

    assert resolve(request, served.engine.catalog, served.engine.registry)


def test_what_is_missing_is_said(api: Any) -> None:
    with pytest.raises(RuntimeError) as told:
        api.interrogate(plain())
    status, text = told.value.args
    assert status == 501 and "captioner" in json.loads(text)["detail"]


def test_a_picture_that_is_not_to_be_saved_is_not(api: Any, served: Served) -> None:
    before = set(served.settings.outputs_dir.rglob("*.png"))
    unsaved = api.txt2img(width=64, height=64, seed=4)
    assert set(served.settings.outputs_dir.rglob("*.png")) == before
    saved = api.txt2img(width=64, height=64, seed=4, save_images=True)
    (path,) = set(served.settings.outputs_dir.rglob("*.png")) - before
    assert saved.image.tobytes() == unsaved.image.tobytes()
    assert read_picture(path).parameters == saved.info["infotexts"][0]
