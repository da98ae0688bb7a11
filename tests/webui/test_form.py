"""The form's table: what is read from it, what is written into it."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.models.upscalers import LATENT_MODES
from core.registry import built_in
from core.request import (
    Branch,
    ControlUse,
    During,
    Emphasis,
    Enlarge,
    Fill,
    GenerationRequest,
    Hearing,
    HypernetUse,
    LoraUse,
    NoiseKind,
    Refine,
    Resize,
    SamplerOptions,
    ScheduleOptions,
    StartImage,
    Variation,
)
from core.resolve import BOUNDS, OPTION_BOUNDS, PART_BOUNDS
from webui import form
from webui.fields import SCHEDULE_OPTION
from webui.form import FormError
from webui.picture_fields import LATENT_UPSCALERS

REGISTRY = built_in()
UNTOUCHED = {field.name: field.default for field in form.FIELDS}


def wholes(name: str) -> st.SearchStrategy[int]:
    low, high = {**BOUNDS, **PART_BOUNDS}[name]
    return st.integers(int(low), int(high))


shares = st.floats(0, 1, exclude_min=True)
sides = st.tuples(wholes("width"), wholes("height"))
names = st.sampled_from(["pocket", "other"])
variations = st.one_of(
    st.builds(Variation, seed=wholes("seed"), strength=shares),
    st.builds(Variation, seed=st.none() | wholes("seed"), resize_from=sides),
)
images = st.builds(
    StartImage,
    picture=st.just("a" * 64),
    depth=st.none() | st.just("c" * 64),
    strength=st.floats(0, 1),
    resize=st.sampled_from(Resize),
)
inpaints = st.builds(
    StartImage,
    picture=st.just("a" * 64),
    mask=st.just("b" * 64),
    depth=st.none() | st.just("c" * 64),
    strength=st.floats(0, 1),
    resize=st.sampled_from(Resize),
    fill=st.sampled_from(Fill),
    invert=st.booleans(),
    grow=wholes("start.grow"),
    blur=wholes("start.blur"),
    only_masked=st.booleans(),
    padding=wholes("start.padding"),
    soft=st.booleans(),
    extend=st.just(()) | st.tuples(*[st.integers(0, 512)] * 4).filter(any),
)
enlarges = st.builds(
    Enlarge,
    width=st.none() | wholes("width"),
    height=st.none() | wholes("height"),
    scale=st.floats(1, 8),
    upscaler=st.sampled_from(LATENT_UPSCALERS),
    strength=st.floats(0, 1),
    steps=st.none() | wholes("steps"),
    cfg_scale=st.none() | st.floats(0, 100),
    sampler=st.none() | st.just("heun"),
    schedule=st.none() | st.just("karras"),
    prompt=st.none() | st.text(min_size=1, max_size=20),
    negative_prompt=st.none() | st.text(min_size=1, max_size=20),
    checkpoint=st.none() | names,
)
refines = st.builds(Refine, checkpoint=names, switch_at=st.floats(0, 1), by_steps=st.booleans())


@st.composite
def shapings(draw: st.DrawFn, sampler: str, schedule: str) -> ScheduleOptions:
    name = REGISTRY.samplers[sampler].schedule if schedule == "automatic" else schedule
    numbers = {
        option: draw(st.none() | st.floats(*OPTION_BOUNDS[option]))
        for option in REGISTRY.schedules[name].options
    }
    discards = draw(st.none() | st.booleans())
    return ScheduleOptions(
        discard_penultimate=discards, round_timesteps=draw(st.booleans()), **numbers
    )


guides = st.builds(
    ControlUse,
    model=st.text(max_size=20),
    picture=st.none() | st.just("b" * 64),
    preprocessor=st.sampled_from(["none", "canny"]),
    settings=st.dictionaries(st.just("low"), st.integers(1, 255)),
    weight=st.floats(0, 2),
    start=st.floats(0, 1),
    hearing=st.sampled_from(Hearing),
    during=st.sampled_from(During),
    low_memory=st.booleans(),
)


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    sampler = draw(st.sampled_from(sorted(REGISTRY.samplers)))
    schedule = draw(st.sampled_from(["automatic", *sorted(REGISTRY.schedules)]))
    options = {
        name: draw(st.none() | st.floats(*OPTION_BOUNDS[name]))
        for name in REGISTRY.samplers[sampler].options
    }
    return GenerationRequest(
        prompt=draw(st.text(max_size=80)),
        negative_prompt=draw(st.text(max_size=80)),
        checkpoint=draw(st.none() | st.just("pocket")),
        seed=draw(st.none() | wholes("seed")),
        width=draw(st.none() | wholes("width")),
        height=draw(st.none() | wholes("height")),
        steps=draw(wholes("steps")),
        cfg_scale=draw(st.floats(*BOUNDS["cfg_scale"])),
        sampler=sampler,
        schedule=schedule,
        schedule_options=draw(shapings(sampler, schedule)),
        images=draw(wholes("images")),
        sampler_options=SamplerOptions(**options),
        variation=draw(st.none() | variations),
        tiling=draw(st.booleans()),
        start=draw(st.none() | images | inpaints),
        enlarge=draw(st.none() | enlarges),
        refine=draw(st.none() | refines),
        controls=tuple(draw(st.lists(guides, max_size=2))),
        clip_skip=draw(wholes("clip_skip")),
        ensd=draw(wholes("ensd")),
        emphasis=draw(st.sampled_from(Emphasis)),
        noise=draw(st.sampled_from(NoiseKind)),
        vae=draw(st.none() | st.just("sharp")),
    )


@given(requests())
def test_request_to_form_to_request_is_the_identity(request: GenerationRequest) -> None:
    assert form.read(form.written(request), REGISTRY) == request
    assert form.not_written(request) == []


def test_an_untouched_form_is_a_plain_request() -> None:
    assert form.read(UNTOUCHED, REGISTRY) == GenerationRequest(prompt="")
    assert form.read({}, REGISTRY) == GenerationRequest(prompt="")


def test_every_field_of_a_request_is_on_the_form_or_said_to_be_missing() -> None:
    on_form = {name.partition(".")[0] for name in form.BY_NAME}
    fields = {field.name for field in dataclasses.fields(GenerationRequest)}
    nowhere = {"record", "loras", "hypernets", "branch", "extras", "prompts"}
    assert fields - on_form <= nowhere
    for part, kind in (
        (form.OPTION, SamplerOptions),
        (SCHEDULE_OPTION, ScheduleOptions),
        ("variation.", Variation),
        ("start.", StartImage),
        ("enlarge.", Enlarge),
        ("refine.", Refine),
    ):
        there = {name.split(".")[1] for name in form.BY_NAME if name.startswith(part)}
        assert there - {"on"} == {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loras", (LoraUse(name="style"),)),
        ("hypernets", (HypernetUse(name="style"),)),
        ("branch", Branch(job="x")),
    ],
)
def test_what_has_no_place_is_named(name: str, value: object) -> None:
    request = dataclasses.replace(GenerationRequest(prompt="a"), **{name: value})
    (note,) = form.not_written(request)
    assert name in note


def test_the_upscalers_of_latents_are_those_there_are() -> None:
    assert list(LATENT_UPSCALERS) == list(LATENT_MODES)


def test_what_does_not_act_is_left_out_and_kept_on_the_form() -> None:
    """One form for all modes: going back to text drops the picture from the request alone."""
    values = {
        "mode": "inpaint",
        "start.picture": "a" * 64,
        "start.mask": "b" * 64,
        "start.grow": 3,
        "enlarge.on": False,
        "enlarge.scale": 3,
        "refine.switch_at": 0.4,
    }
    inpaint = form.read(values, REGISTRY)
    assert inpaint.start == StartImage(picture="a" * 64, mask="b" * 64, grow=3)
    assert inpaint.enlarge is inpaint.refine is None
    image = form.read({**values, "mode": "image"}, REGISTRY)
    assert image.start == StartImage(picture="a" * 64)
    text = form.read({**values, "mode": "text"}, REGISTRY)
    assert text == GenerationRequest(prompt="")
    left = {name for name in form.written(text) if name.startswith("start.")}
    assert left == set()  # filling the form from a text keeps the picture that lies on it


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"mode": "image"}, "start.picture"),
        ({"mode": "inpaint", "start.picture": "a" * 64}, "start.mask"),
        ({"variation.resize_from.width": "64"}, "variation.resize_from.height"),
        ({"mode": "image", "start.picture": "a", "start.strength": 1.5}, "start.strength"),
        ({"enlarge.on": True, "enlarge.steps": "0"}, "enlarge.steps"),
        ({"enlarge.on": "yes"}, "enlarge.on"),
        ({"mode": "film"}, "mode"),
        ({"tiling": 1}, "tiling"),
    ],
)
def test_what_is_missing_or_wrong_in_a_part_is_named(values: dict[str, object], field: str) -> None:
    with pytest.raises(FormError) as caught:
        form.read(values, REGISTRY)
    assert list(caught.value.errors) == [field]


def test_a_wrong_value_of_what_does_not_act_is_no_matter() -> None:
    values = {"start.grow": "wide", "enlarge.steps": "many", "refine.switch_at": 7}
    assert form.read(values, REGISTRY) == GenerationRequest(prompt="")


def test_ids_are_unique_and_the_ones_other_tools_look_for() -> None:
    ids = [field.elem_id for field in form.FIELDS]
    assert len(set(ids)) == len(ids)
    wanted = {"prompt", "neg_prompt", "steps", "sampling", "width", "height", "cfg_scale", "seed"}
    assert {f"txt2img_{name}" for name in wanted} | {"setting_sd_model_checkpoint"} <= set(ids)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", "many"),
        ("steps", True),
        ("steps", 10**400),
        ("cfg_scale", math.nan),
        ("cfg_scale", math.inf),
        ("cfg_scale", "1e999"),
        ("cfg_scale", -1),
        ("seed", "-2"),
        ("seed", "9" * 60),
        ("seed", str(2**63)),
        ("seed", "1.5"),
        ("width", 1e308),
        ("images", [1]),
        ("prompt", 7),
        ("sampler", ["euler"]),
        ("sampler_options.s_noise", math.nan),
        ("variation.strength", 1.5),
        ("emphasis", "loud"),
        ("noise", 3),
    ],
)
def test_a_wrong_value_is_named_by_its_field(name: str, value: object) -> None:
    with pytest.raises(FormError) as caught:
        form.read({"prompt": "a cat", name: value}, REGISTRY)
    assert list(caught.value.errors) == [name]
    assert caught.value.errors[name].startswith(form.BY_NAME[name].label)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(FormError) as caught:
        form.read({"steps": 0, "seed": "x", "width": "wide"}, REGISTRY)
    assert set(caught.value.errors) == {"steps", "seed", "width"}


@pytest.mark.parametrize("seed", ["", "  ", None, "-1", -1])
def test_no_seed_means_a_new_one_each_time(seed: object) -> None:
    assert form.read({"seed": seed}, REGISTRY).seed is None


def test_options_a_sampler_does_not_take_are_left_out() -> None:
    values = {"sampler": "dpmpp_2m", "sampler_options.eta": 0.5}
    assert form.read(values, REGISTRY).sampler_options == SamplerOptions()
    values["sampler"] = "euler_ancestral"
    assert form.read(values, REGISTRY).sampler_options == SamplerOptions(eta=0.5)


def test_what_the_form_has_no_place_for_is_said() -> None:
    drawn = GenerationRequest(prompt="a", schedule=(10.0, 1.0, 0.0))
    (note,) = form.not_written(drawn)
    assert "drawn by hand" in note
    assert form.written(drawn)["schedule"] == "automatic"


def test_choosing_a_checkpoint_sets_its_own_size_and_favourites() -> None:
    values = form.defaults({"steps": 12.0, "cfg_scale": 4.5, "nonsense": 1.0})
    assert values == {"width": "", "height": "", "steps": 12, "cfg_scale": 4.5}
    assert isinstance(values["steps"], int)
