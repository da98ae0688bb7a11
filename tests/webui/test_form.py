"""The form's table: what is read from it, what is written into it."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.registry import built_in
from core.request import Emphasis, GenerationRequest, NoiseKind, SamplerOptions, Variation
from core.resolve import BOUNDS, OPTION_BOUNDS
from webui import form
from webui.form import FormError

REGISTRY = built_in()
UNTOUCHED = {field.name: field.default for field in form.FIELDS}


def wholes(name: str) -> st.SearchStrategy[int]:
    low, high = BOUNDS[name]
    return st.integers(int(low), int(high))


shares = st.floats(0, 1, exclude_min=True)


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    sampler = draw(st.sampled_from(sorted(REGISTRY.samplers)))
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
        schedule=draw(st.sampled_from(["automatic", *sorted(REGISTRY.schedules)])),
        images=draw(wholes("images")),
        sampler_options=SamplerOptions(**options),
        variation=draw(st.none() | st.builds(Variation, seed=wholes("seed"), strength=shares)),
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
    assert fields - on_form <= {"record"}
    options = {field.name for field in dataclasses.fields(SamplerOptions)}
    assert {field.name.removeprefix(form.OPTION) for field in form.OPTION_FIELDS} == options


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
