"""ComfyUI's graphs become requests; whatever stands in them, there is an answer."""

import contextlib
import io
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import RequestError
from core.images import comfy, invoke
from core.images.capsule import read_any, read_picture
from core.images.comfy import NOT_THE_SAME
from core.registry import built_in
from core.request import Emphasis, Enlarge, HypernetUse, LoraUse, NoiseKind, Refine

REGISTRY = built_in()
DOT = Image.new("RGB", (16, 8), "teal")


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def simple(**changes) -> dict:
    """ComfyUI's own first workflow, as it runs."""
    sampler = node(
        "KSampler",
        seed=156680208700286,
        steps=20,
        cfg=8,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=1,
        model=["4", 0],
        positive=["6", 0],
        negative=["7", 0],
        latent_image=["5", 0],
    )
    sampler["inputs"] |= changes
    return {
        "3": sampler,
        "4": node("CheckpointLoaderSimple", ckpt_name="sd\\v1-5-pruned-emaonly.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a glass bottle, (galaxy:1.2)", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }


def request_of(graph: dict, there=("v1-5-pruned-emaonly", "refiner", "other")):
    return comfy.request_from(comfy.read(json.dumps(graph), None), REGISTRY, there)


def test_the_first_workflow_is_understood():
    request, notes = request_of(simple())
    assert (request.prompt, request.negative_prompt) == (
        "a glass bottle, (galaxy:1.2)",
        "text, watermark",
    )
    assert (request.seed, request.steps, request.cfg_scale) == (156680208700286, 20, 8.0)
    assert (request.sampler, request.schedule) == ("dpmpp_2m", "karras")
    assert (request.width, request.height) == (512, 768)
    assert request.checkpoint == "v1-5-pruned-emaonly"
    assert (request.noise, request.emphasis) == (NoiseKind.CPU, Emphasis.COMFY)
    assert notes == [NOT_THE_SAME]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("euler", "euler"),
        ("euler_ancestral", "euler_ancestral"),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde"),
        ("dpmpp_3m_sde", "dpmpp_3m_sde"),
        ("uni_pc_bh2", "unipc"),
        ("lcm", "lcm"),
        ("ddim", "ddim"),
    ],
)
def test_samplers_have_their_names_here(theirs, ours):
    request, notes = request_of(simple(sampler_name=theirs, scheduler="sgm_uniform"))
    assert (request.sampler, request.schedule, notes) == (ours, "sgm_uniform", [NOT_THE_SAME])


def test_what_is_not_here_is_named():
    graph = simple(sampler_name="euler_cfg_pp", scheduler="nonesuch")
    request, notes = request_of(graph, there=["other"])
    assert request.checkpoint is None
    said = " ".join(notes)
    assert "euler_cfg_pp" in said and "nonesuch" in said and "v1-5-pruned-emaonly" in said


def test_loras_clip_skip_and_hypernetworks_are_on_the_wires():
    graph = simple(model=["12", 0])
    graph["10"] = node(
        "LoraLoader",
        lora_name="styles/ink.safetensors",
        strength_model=0.8,
        strength_clip=0.5,
        model=["4", 0],
        clip=["4", 1],
    )
    graph["11"] = node(
        "LoraLoaderModelOnly", lora_name="lcm.safetensors", strength_model=1, model=["10", 0]
    )
    graph["12"] = node(
        "HypernetworkLoader", hypernetwork_name="paint.pt", strength=0.4, model=["13", 0]
    )
    graph["13"] = node("FreeU", b1=1.1, model=["11", 0])
    graph["14"] = node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1])
    graph["6"]["inputs"]["clip"] = ["14", 0]
    request, notes = request_of(graph)
    assert request.loras == (
        LoraUse(name="ink", weight=0.8, text_weight=0.5),
        LoraUse(name="lcm", weight=1.0, text_weight=0.0),
    )
    assert request.hypernets == (HypernetUse(name="paint", weight=0.4),)
    assert request.clip_skip == 2 and request.checkpoint == "v1-5-pruned-emaonly"
    assert any(note.startswith("FreeU") for note in notes)


def test_a_stack_of_loras_holds_an_object_for_each():
    graph = simple(model=["10", 0])
    graph["10"] = node(
        "Power Lora Loader (rgthree)",
        lora_1={"on": True, "lora": "a.safetensors", "strength": 0.7},
        lora_2={"on": False, "lora": "b.safetensors", "strength": 1},
        model=["4", 0],
    )
    assert request_of(graph)[0].loras == (LoraUse(name="a", weight=0.7),)


def test_a_second_sampler_at_a_larger_size_is_a_second_pass():
    graph = simple()
    graph["20"] = node("LatentUpscaleBy", upscale_method="bislerp", scale_by=1.5, samples=["3", 0])
    graph["21"] = graph["3"] | {
        "inputs": graph["3"]["inputs"]
        | {"latent_image": ["20", 0], "denoise": 0.55, "steps": 12, "sampler_name": "euler"}
    }
    graph["8"]["inputs"]["samples"] = ["21", 0]
    request, notes = request_of(graph)
    assert (request.width, request.height, request.sampler) == (512, 768, "dpmpp_2m")
    assert request.enlarge == Enlarge(
        scale=1.5, strength=0.55, steps=12, sampler="euler", upscaler="Latent"
    )
    assert notes == [NOT_THE_SAME]


def test_a_second_pass_through_pixels_names_its_upscaler():
    graph = simple()
    graph["30"] = node("UpscaleModelLoader", model_name="4x-UltraSharp.pth")
    graph["31"] = node("ImageUpscaleWithModel", upscale_model=["30", 0], image=["8", 0])
    graph["32"] = node("ImageScale", width=1024, height=1536, image=["31", 0], upscale_method="x")
    graph["33"] = node("VAEEncode", pixels=["32", 0], vae=["4", 2])
    inputs = graph["3"]["inputs"] | {"latent_image": ["33", 0], "denoise": 0.3}
    graph["34"] = node("KSampler", **inputs)
    graph["35"] = node("VAEDecode", samples=["34", 0], vae=["4", 2])
    graph["9"]["inputs"]["images"] = ["35", 0]
    enlarge = request_of(graph)[0].enlarge
    assert (enlarge.width, enlarge.height, enlarge.strength) == (1024, 1536, 0.3)
    assert enlarge.upscaler == "4x-UltraSharp"


def test_two_samplers_that_share_their_steps_are_a_refiner():
    graph = simple()
    advanced = {
        "noise_seed": 5,
        "steps": 25,
        "cfg": 7,
        "sampler_name": "euler",
        "scheduler": "normal",
        "positive": ["6", 0],
        "negative": ["7", 0],
    }
    graph["3"] = node(
        "KSamplerAdvanced",
        **advanced,
        add_noise="enable",
        start_at_step=0,
        end_at_step=20,
        model=["4", 0],
        latent_image=["5", 0],
    )
    graph["40"] = node("CheckpointLoaderSimple", ckpt_name="refiner.safetensors")
    graph["41"] = node(
        "KSamplerAdvanced",
        **advanced,
        add_noise="disable",
        start_at_step=20,
        end_at_step=10000,
        model=["40", 0],
        latent_image=["3", 0],
    )
    graph["8"]["inputs"]["samples"] = ["41", 0]
    request, _ = request_of(graph)
    assert request.refine == Refine(checkpoint="refiner", switch_at=0.8, by_steps=True)
    assert (request.steps, request.seed, request.enlarge) == (25, 5, None)


def test_custom_sampling_is_gathered_from_its_nodes():
    graph = simple()
    graph["3"] = node(
        "SamplerCustomAdvanced",
        noise=["50", 0],
        guider=["51", 0],
        sampler=["52", 0],
        sigmas=["53", 0],
        latent_image=["5", 0],
    )
    graph["50"] = node("RandomNoise", noise_seed=["54", 0])
    graph["51"] = node("CFGGuider", cfg=4.5, model=["4", 0], positive=["6", 0], negative=["7", 0])
    graph["52"] = node("KSamplerSelect", sampler_name="heun")
    graph["53"] = node("BasicScheduler", scheduler="simple", steps=14, denoise=1, model=["4", 0])
    graph["54"] = node("PrimitiveInt", value=77)
    request, _ = request_of(graph)
    assert (request.seed, request.steps, request.cfg_scale) == (77, 14, 4.5)
    assert (request.sampler, request.schedule) == ("heun", "simple")
    assert request.prompt.startswith("a glass") and request.checkpoint == "v1-5-pruned-emaonly"
    graph["53"] = node("KarrasScheduler", steps=9, sigma_max=14.6, sigma_min=0.03, rho=7)
    assert request_of(graph)[0].schedule == "karras"


def test_prompts_come_from_wherever_they_are_typed():
    graph = simple(positive=["60", 0], negative=["60", 1])
    graph["60"] = node("ControlNetApplyAdvanced", positive=["61", 0], negative=["64", 0])
    graph["61"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["62", 0])
    graph["62"] = node("CLIPTextEncode", text=["63", 0], clip=["4", 1])
    graph["63"] = node("PrimitiveString", value="at night")
    graph["64"] = node("ConditioningZeroOut", conditioning=["7", 0])
    request, notes = request_of(graph)
    assert request.prompt == "a glass bottle, (galaxy:1.2), at night"
    assert request.negative_prompt == ""
    assert [note.split(":")[0] for note in notes[:2]] == [
        "ControlNetApplyAdvanced",
        "ConditioningCombine",
    ]


def test_pictures_and_batches_that_can_t_be_made_again_are_said():
    graph = simple(denoise=0.6, latent_image=["70", 0])
    graph["70"] = node("VAEEncode", pixels=["71", 0], vae=["4", 2])
    graph["71"] = node("LoadImage", image="cat.png")
    request, notes = request_of(graph)
    assert (request.width, request.start) == (None, None)
    assert "strength 0.6" in notes[0]
    batch = simple()
    batch["5"]["inputs"]["batch_size"] = 4
    assert "batch" in request_of(batch)[1][0]
    assert "highest" in " ".join(request_of(simple(seed=2**64 - 1))[1])


DRAWN = {
    "nodes": [
        {
            "id": 3,
            "type": "KSampler",
            "mode": 0,
            "inputs": [
                {"name": "model", "type": "MODEL", "link": 1},
                {"name": "positive", "type": "CONDITIONING", "link": 4},
                {"name": "negative", "type": "CONDITIONING", "link": None},
                {"name": "latent_image", "type": "LATENT", "link": 2},
            ],
            "widgets_values": [42, "randomize", 15, 6.5, "euler", "normal", 1],
        },
        {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["other.safetensors"]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [640, 512, 1]},
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a drawn fox"]},
        {
            "id": 8,
            "type": "LoraLoader",
            "mode": 4,
            "inputs": [{"name": "model", "link": 5}],
            "widgets_values": ["off.safetensors", 1, 1],
        },
    ],
    "links": [
        [1, 8, 0, 3, 0, "MODEL"],
        [2, 5, 0, 3, 3, "LATENT"],
        [4, 6, 0, 3, 1, "CONDITIONING"],
        [5, 4, 0, 8, 0, "MODEL"],
    ],
}


def test_a_drawn_graph_is_read_where_the_one_that_ran_is_not():
    graph = comfy.read("not JSON", json.dumps(DRAWN))
    request, _ = comfy.request_from(graph, REGISTRY, ["other"])
    assert (request.seed, request.steps, request.cfg_scale) == (42, 15, 6.5)
    assert (request.prompt, request.width, request.height) == ("a drawn fox", 640, 512)
    assert (request.checkpoint, request.loras) == ("other", ())


def png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    stream = io.BytesIO()
    DOT.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def test_a_png_of_comfyui_is_read_whole():
    found = read_any(png(prompt=json.dumps(simple()), workflow="{}"), REGISTRY)
    assert found.kind == "comfyui" and found.request.seed == 156680208700286
    assert "KSampler" in found.text and found.sentences == (NOT_THE_SAME,)


def test_a_webp_of_comfyui_is_read_from_its_exif():
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(simple())
    exif[0x010F] = "workflow:" + json.dumps(DRAWN)
    for kind in ("WEBP", "JPEG"):
        stream = io.BytesIO()
        DOT.save(stream, kind, exif=exif)
        found = read_any(stream.getvalue(), REGISTRY)
        assert found.kind == "comfyui" and found.request.steps == 20


def test_what_a1111_wrote_comes_before_a_workflow():
    text = "a fox\nSteps: 9, Sampler: Euler, Seed: 5, RNG: CPU"
    found = read_any(png(parameters=text, prompt=json.dumps(simple())), REGISTRY)
    assert (found.kind, found.text, found.request.seed) == ("a1111", text, 5)


def test_nothing_and_nonsense_get_a_sentence():
    assert read_any(png(), REGISTRY).sentences == ("The picture does not say how it was made.",)
    broken = read_any(png(prompt="{", workflow="[]"), REGISTRY)
    assert (broken.kind, broken.request) == ("none", None)
    assert "ComfyUI workflow can't be read" in broken.sentences[0]
    strange = read_any(png(prompt=json.dumps({"1": node("Strange")})), REGISTRY)
    assert strange.kind == "comfyui" and strange.request is None
    assert "no sampler" in strange.sentences[0] and "Strange" in strange.text


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "1", "null", "[]", "{}", '{"1": 2}', "9" * 10_000, " " * 5_000_000],
)
def test_what_is_no_graph_is_a_request_error(text):
    with pytest.raises(RequestError):
        comfy.read(text, None)


def test_rings_and_crowds_come_to_an_end():
    ring = simple(latent_image=["3", 0], model=["90", 0], positive=["91", 0], seed=["92", 0])
    ring["90"] = node("A", model=["90", 0])
    ring["91"] = node("B", conditioning=["91", 0])
    ring["92"] = node("C", value=["92", 0])
    request_of(ring)
    began = time.process_time()
    fan = simple(positive=["f0", 0])
    for n in range(400):
        both = [f"f{n + 1}", 0]
        fan[f"f{n}"] = node("X", conditioning_1=both, conditioning_2=both)
        fan[f"s{n}"] = node(
            "KSampler", steps=1, cfg=1, sampler_name="euler", latent_image=[f"s{n + 1}", 0]
        )
    request_of(fan)
    assert time.process_time() - began < 5
    crowd = {str(n): node("KSampler") for n in range(6_000)}
    with pytest.raises(RequestError, match="nodes"):
        request_of(crowd)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.tuples(st.sampled_from("3456789"), st.integers(-1, 2)).map(list),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)
INPUTS = sorted({name for one in simple().values() for name in one["inputs"]} | {"lora_name"})


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("3456789"),
        st.dictionaries(st.sampled_from(INPUTS), VALUES, max_size=3),
        max_size=4,
    ),
    st.dictionaries(st.sampled_from("3456789"), st.sampled_from(["LoraLoader", "KSampler", "X"])),
)
def test_whatever_stands_in_a_graph_there_is_a_request_or_a_sentence(changes, kinds):
    graph = simple()
    for id, inputs in changes.items():
        graph[id]["inputs"] |= inputs
    for id, kind in kinds.items():
        graph[id]["class_type"] = kind
    try:
        request, notes = request_of(graph)
    except RequestError:
        return
    assert type(request).from_json(json.loads(json.dumps(request.to_json()))) == request
    assert all(len(note) < 1000 for note in notes)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["nodes", "links", "x"]), VALUES))
def test_whatever_was_drawn_there_is_a_graph_or_a_sentence(data):
    with contextlib.suppress(RequestError):
        comfy.request_from(comfy.read(None, json.dumps(data)), REGISTRY)


INVOKE = {
    "positive_prompt": "a fox",
    "negative_prompt": "fog",
    "seed": 9,
    "steps": 30,
    "cfg_scale": 7.5,
    "width": 512,
    "height": 640,
    "scheduler": "dpmpp_2m_k",
    "model": {"name": "other", "hash": "blake3:00"},
    "loras": [{"model": {"name": "ink"}, "weight": 0.6}],
}


def test_a_picture_of_invokeai_is_read():
    found = read_any(png(invokeai_metadata=json.dumps(INVOKE)), REGISTRY, ["other"])
    request = found.request
    assert found.kind == "invokeai" and request.prompt == "a fox"
    assert (request.sampler, request.schedule) == ("dpmpp_2m", "karras")
    assert (request.seed, request.steps, request.width, request.height) == (9, 30, 512, 640)
    assert request.loras == (LoraUse(name="ink", weight=0.6),) and request.checkpoint == "other"
    assert read_picture(png(invokeai_metadata="[")).notes


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(INVOKE)), VALUES))
def test_whatever_invokeai_wrote_there_is_a_request(changes):
    request, _ = invoke.request_from(INVOKE | changes, REGISTRY)
    assert type(request).from_json(json.loads(json.dumps(request.to_json()))) == request


def test_every_scheduler_of_invokeai_is_on_our_shelves():
    for sampler, schedule in invoke.SCHEDULERS.values():
        assert REGISTRY.sampler(sampler) and REGISTRY.schedule(schedule)
