"""The infotext, written as A1111 1.10.1 writes it and read as it reads it."""

import re
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.errors import RequestError
from core.images.grammar import _pairs
from core.images.infotext import (
    MAX_LENGTH,
    VERSION,
    WITHOUT_NOISE,
    Hashes,
    Infotext,
    quoted,
    read,
    request_from,
    unquoted,
    written,
)
from core.registry import built_in
from core.request import (
    Emphasis,
    Enlarge,
    Fill,
    GenerationRequest,
    HypernetUse,
    LoraUse,
    NoiseKind,
    Refine,
    SamplerOptions,
    ScheduleOptions,
    StartImage,
    Variation,
)

REGISTRY = built_in()
HASH = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
FOX = GenerationRequest(
    prompt="a red fox, (snow:1.2)",
    negative_prompt="blurry, low quality",
    seed=1234567,
    width=512,
    height=768,
    steps=28,
    cfg_scale=6.5,
    sampler="dpmpp_2m",
    schedule="karras",
)


def text_of(request: GenerationRequest, **options) -> str:
    return written(request, REGISTRY, "v1-5-pruned-emaonly", HASH, **options)


def test_the_text_is_a1111s():
    assert text_of(FOX) == (
        "a red fox, (snow:1.2)\n"
        "Negative prompt: blurry, low quality\n"
        "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234567, "
        "Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, RNG: CPU, "
        f"Version: {VERSION}"
    )


def test_the_version_is_the_projects():
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text())["project"]["version"] == VERSION.split("-")[1]


@pytest.mark.parametrize(
    ("sampler", "schedule", "label"),
    [
        ("euler_ancestral", "normal", "Automatic"),
        ("euler_ancestral", "automatic", "Automatic"),
        ("euler_ancestral", "karras", "Karras"),
        ("ddim", "automatic", "Automatic"),
        ("unipc", "automatic", "Automatic"),
        ("euler", "ddim_uniform", "DDIM"),
        ("dpmpp_2m", "automatic", "Karras"),
        ("dpmpp_2m", "normal", "Normal"),
        ("dpmpp_2m_sde", "automatic", "Exponential"),
        ("dpmpp_2m_sde", "sgm_uniform", "SGM Uniform"),
        ("euler", (14.5, 3.0, 0.0), "Custom"),
    ],
)
def test_the_schedule_is_named_as_a1111_names_it(sampler, schedule, label):
    """It writes what "Automatic" came to, unless the sampler asks for nothing."""
    fields = read(text_of(replace(FOX, sampler=sampler, schedule=schedule))).fields
    assert fields["Schedule type"] == label


def test_options_are_written_where_the_sampler_takes_them_and_they_differ_from_the_default():
    def tail(sampler: str, **options: float) -> str:
        text = text_of(replace(FOX, sampler=sampler, sampler_options=SamplerOptions(**options)))
        return text.split("RNG: CPU, ")[1].removesuffix(f"Version: {VERSION}")

    assert tail("euler_ancestral", eta=0.5, s_churn=3) == "Eta: 0.5, "
    assert tail("euler_ancestral", eta=1.0, s_noise=1.0) == ""
    assert tail("ddim", eta=1.0) == "Eta DDIM: 1, "
    assert tail("ddim", eta=0.0) == ""
    assert tail("heun", s_noise=1.003, s_tmax=9, s_churn=4, s_tmin=0.05) == (
        "Sigma churn: 4, Sigma tmin: 0.05, Sigma tmax: 9, Sigma noise: 1.003, "
    )


def test_names_with_separators_are_quoted_and_a_lone_prompt_has_no_empty_lines():
    text = written(replace(FOX, prompt="", negative_prompt=""), REGISTRY, "fox: a, b é", HASH)
    assert text.startswith("Steps: 28, ")
    assert 'Model: "fox: a, b é", RNG' in text
    assert read(text).fields["Model"] == "fox: a, b é"


def test_a_picture_stopped_on_the_way_says_so():
    text = text_of(FOX, unfinished=True)
    assert text.endswith(f"Unfinished: True, Version: {VERSION}")
    request, notes = request_from(text, REGISTRY)
    assert request == replace(FOX, checkpoint="v1-5-pruned-emaonly")
    assert len(notes) == 1 and "stopped" in notes[0]


def tail_of(request: GenerationRequest, **options) -> str:
    """What stands between the model's name and the version."""
    text = text_of(request, **options)
    return text.split("Model: v1-5-pruned-emaonly, ")[1].removesuffix(f", Version: {VERSION}")


def test_a_picture_from_a_picture_is_described_as_a1111_does():
    start = StartImage(picture="ab" * 32, strength=0.6)
    assert tail_of(replace(FOX, start=start)) == "Denoising strength: 0.6, RNG: CPU"
    masked = replace(
        start,
        mask="cd" * 32,
        invert=True,
        only_masked=True,
        fill=Fill.NOISE,
        strength=1.0,
    )
    assert tail_of(replace(FOX, start=masked, clip_skip=2, tiling=True)) == (
        "Denoising strength: 1, Clip skip: 2, RNG: CPU, Tiling: True, "
        "Mask mode: Inpaint not masked, Mask blur: 4, Inpaint area: Only masked, "
        "Masked area padding: 32, Masked content: latent noise"
    )
    plain = replace(start, mask="cd" * 32, blur=0, fill=Fill.COLOUR)
    assert tail_of(replace(FOX, start=plain)).endswith("RNG: CPU, Masked content: fill")


def test_a_second_pass_is_described_as_a1111_does():
    assert tail_of(replace(FOX, enlarge=Enlarge(scale=1.5))) == (
        "Denoising strength: 0.7, RNG: CPU, Hires upscale: 1.5, Hires upscaler: Latent"
    )
    enlarge = Enlarge(
        width=1024,
        steps=12,
        strength=0.35,
        upscaler="R-ESRGAN 4x+",
        sampler="euler_ancestral",
        schedule="exponential",
        cfg_scale=5.0,
        prompt="a fox, closer",
        negative_prompt=FOX.negative_prompt,
        checkpoint="other",
    )
    hashes = Hashes(checkpoints={"other": "9" * 64})
    assert tail_of(replace(FOX, enlarge=enlarge), hashes=hashes) == (
        "Denoising strength: 0.35, RNG: CPU, Hires checkpoint: other [9999999999], "
        'Hires sampler: Euler a, Hires prompt: "a fox, closer", Hires CFG Scale: 5, '
        "Hires schedule type: Exponential, Hires resize: 1024x0, Hires steps: 12, "
        "Hires upscaler: R-ESRGAN 4x+"
    )


def test_networks_schedules_and_refiners_are_described_as_a1111_does():
    hashes = Hashes(
        vae="7" * 64,
        loras={"de:tail": "1a2b3c4d5e6f77", "other": "00112233445566"},
        embeddings={"easynegative": "c74b4e810b03aa"},
        checkpoints={"sdxl_refiner": "ab" * 32},
    )
    request = replace(
        FOX,
        vae="ft-mse.safetensors",
        schedule="beta",
        emphasis=Emphasis.NO_NORM,
        schedule_options=ScheduleOptions(rho=5.0, sigma_min=0.1, discard_penultimate=True),
        refine=Refine(checkpoint="sdxl_refiner", by_steps=True),
    )
    assert tail_of(request, hashes=hashes) == (
        "VAE hash: 7777777777, VAE: ft-mse.safetensors, RNG: CPU, "
        'Lora hashes: "detail: 1a2b3c4d5e6f, other: 001122334455", '
        'TI hashes: "easynegative: c74b4e810b03", Emphasis: No norm, '
        "Discard penultimate sigma: True, Schedule min sigma: 0.1, Schedule rho: 5, "
        "Beta schedule alpha: 0.6, Beta schedule beta: 0.6, "
        "Refiner switch by sampling steps: True, "
        "Refiner: sdxl_refiner [ababababab], Refiner switch at: 0.8"
    )


def test_networks_beside_the_prompt_become_tags_in_it():
    request = replace(
        FOX,
        loras=(LoraUse(name="fur", weight=0.8), LoraUse(name="ink", weight=1, text_weight=0.5)),
        hypernets=(HypernetUse(name="paint"),),
    )
    prompt = "a red fox, (snow:1.2) <lora:fur:0.8> <lora:ink:0.5:1> <hypernet:paint:1>"
    text = text_of(request)
    assert text.startswith(prompt + "\n")
    found, notes = request_from(text, REGISTRY)
    assert (found.prompt, found.loras, notes) == (prompt, (), [])


@pytest.mark.parametrize("name", ["seed", "width", "height"])
def test_an_unresolved_request_has_no_infotext(name):
    with pytest.raises(RequestError) as raised:
        text_of(replace(FOX, **{name: None}))
    assert raised.value.field == name


# Texts as A1111 and its forks wrote them.

LONG_AGO = """girl with an artist's beret, determined, ((eyeshadow)), intricate
Negative prompt: ugly, fat, (((deformed))), [blurry]
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b"""

JOINED = """two lines
of prompt: with a colon
Negative prompt: two lines
of it, too
Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 5.5, Seed: 42, Size: 640x960, \
Model hash: e6415c4892, Model: realisticVisionV40, Clip skip: 2, ENSD: 31337, \
Variation seed: 7, Variation seed strength: 0.2, Denoising strength: 0.4, Hires upscale: 2, \
Hires upscaler: Latent, RNG: CPU, Version: v1.6.0"""

QUOTED = """portrait <lora:detail:0.8>
Steps: 24, Sampler: DPM++ 2M SDE, Schedule type: SGM Uniform, CFG scale: 7, Seed: 3, \
Size: 1024x1024, Model hash: 31e35c80fc, Model: "sd, xl: base \\"1.0\\"", \
Lora hashes: "detail: 1a2b3c4d5e6f, other: 0011", \
Hires prompt: "a\\nb, c", TI hashes: "easynegative: c74b4e810b03", Eta: 0.3, RNG: NV, \
Version: v1.10.1"""


@pytest.mark.parametrize("text", [LONG_AGO, JOINED, QUOTED, text_of(FOX)])
def test_reading_and_writing_a_text_is_the_identity(text):
    assert str(read(text)) == text


def test_prompt_and_negative_prompt_keep_their_lines():
    found = read(JOINED)
    assert found.prompt == "two lines\nof prompt: with a colon"
    assert found.negative == "two lines\nof it, too"
    assert list(found.fields)[:3] == ["Steps", "Sampler", "CFG scale"]
    assert read(JOINED.replace("\n", "\r\n")) == found


def test_quoted_values_are_unquoted():
    fields = read(QUOTED).fields
    assert fields["Model"] == 'sd, xl: base "1.0"'
    assert fields["Hires prompt"] == "a\nb, c"
    assert fields["Lora hashes"] == "detail: 1a2b3c4d5e6f, other: 0011"


def test_a_key_that_equals_its_value_is_written_alone():
    text = "x\nSteps: 20, Model, Sampler: Euler, Seed: 1"
    assert read(text).fields["Model"] == "Model"
    assert str(read(text)) == text


@pytest.mark.parametrize("text", ["", "only words", "a: b, cc: d\nee: f, gg: h", "Steps: 20, CFG"])
def test_without_three_fields_all_of_it_is_prompt(text):
    assert read(text) == Infotext(text)
    request, notes = request_from(text, REGISTRY)
    assert request == GenerationRequest(prompt=text) and notes == []


def test_joined_names_missing_names_and_everything_not_used_is_said():
    request, notes = request_from(JOINED, REGISTRY)
    assert (request.sampler, request.schedule) == ("dpmpp_2m", "karras")
    assert (request.width, request.height, request.seed) == (640, 960, 42)
    assert (request.steps, request.cfg_scale) == (30, 5.5)
    assert request.checkpoint == "realisticVisionV40"
    assert (request.clip_skip, request.ensd) == (2, 31337)
    assert request.variation == Variation(seed=7, strength=0.2)
    assert request.enlarge == Enlarge(strength=0.4, scale=2.0, upscaler="Latent")
    assert notes == []


def test_noise_of_a_gpu_is_the_silent_default_of_old_texts_and_is_named():
    request, notes = request_from(LONG_AGO, REGISTRY)
    assert request.noise is NoiseKind.NV
    assert [note.split(":")[0] for note in notes] == ["Model hash", "RNG"]
    request, notes = request_from(QUOTED, REGISTRY)
    assert request.noise is NoiseKind.NV
    assert not any(note.startswith("RNG") for note in notes)
    assert request.sampler_options == SamplerOptions(eta=0.3)
    assert (request.sampler, request.schedule) == ("dpmpp_2m_sde", "sgm_uniform")


@pytest.mark.parametrize(
    ("typed", "sampler", "schedule", "noted"),
    [
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpmpp_2m", "automatic", None),
        ("Sampler: Euler a, Schedule type: Uniform", "euler_ancestral", "uniform", None),
        ("Sampler: euler, Schedule type: exponential", "euler", "exponential", None),
        ("Sampler: DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential", None),
        ("Sampler: Euler a", "euler_ancestral", "automatic", None),
        ("Sampler: DDIM", "ddim", "automatic", None),
        ("Sampler: DPM++ 2M", "dpmpp_2m", "normal", "Schedule type"),
        ("Sampler: LMS Karras", "lms", "karras", None),
        ("Sampler: Nonesuch Karras", "euler_ancestral", "karras", "Sampler"),
        ("Sampler: Restart, Schedule type: Beta", "restart", "beta", None),
        ("Sampler: Odd, Schedule type: Strange", "euler_ancestral", "automatic", "Odd"),
        ("Sampler: Euler, Schedule type: Strange", "euler", "automatic", "Schedule type"),
    ],
)
def test_samplers_and_schedules_by_all_their_names(typed, sampler, schedule, noted):
    text = f"x\nSteps: 20, {typed}, CFG scale: 7, Seed: 1, RNG: CPU"
    request, notes = request_from(text, REGISTRY)
    assert (request.sampler, request.schedule) == (sampler, schedule)
    assert bool(notes) == bool(noted)
    assert not noted or noted in notes[0]


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("Seed: -1", {}),
        ("Seed: 0", {"seed": 0}),
        ("Seed: 9223372036854775807", {"seed": 2**63 - 1}),
        ("Size: 64x32", {"width": 64, "height": 32}),
        ("CFG scale: 7.25", {"cfg_scale": 7.25}),
    ],
)
def test_numbers_are_taken_as_typed(typed, values):
    request, notes = request_from(f"x\n{typed}, RNG: CPU, Version: vitrine-9", REGISTRY)
    assert request == GenerationRequest(prompt="x", **values) and notes == []


@pytest.mark.parametrize(
    "typed",
    [
        *("Seed: 9223372036854775808", "Seed: -2", "Seed: " + "9" * 5000, "Seed: ١٢"),
        *("Steps: 0", "Steps: 1e3", "Steps: 1_0", "Steps: " + "9" * 5000),
        *("CFG scale: nan", "CFG scale: inf", "CFG scale: 1e999"),
        *("Size: 512", "Size: 0x512", "Size: 512x-1"),
        "Sigma churn: 3",
    ],
)
def test_numbers_out_of_bounds_are_named_and_left(typed):
    request, notes = request_from(f"x\n{typed}, RNG: CPU, Version: vitrine-9", REGISTRY)
    assert request == GenerationRequest(prompt="x")
    assert len(notes) == 1 and notes[0].startswith(typed[:4]) and len(notes[0]) < 200


def test_the_model_is_looked_for_among_those_there_are():
    def model(*there: str) -> tuple[str | None, int]:
        request, notes = request_from(text_of(FOX), REGISTRY, there)
        return request.checkpoint, len(notes)

    assert model("v1-5-pruned-emaonly") == ("v1-5-pruned-emaonly", 0)
    assert model("other", "sd/V1-5-pruned-emaonly.safetensors")[0] == (
        "sd/V1-5-pruned-emaonly.safetensors"
    )
    assert model("other") == (None, 1)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=40)
PROMPTS = WORDS.filter(lambda t: t == t.lstrip() and "Negative prompt:" not in t)
NUMBERS = st.floats(0, 1e4, allow_nan=False).map(lambda x: x + 0.0)


@st.composite
def requests(draw):
    sampler = draw(st.sampled_from(list(REGISTRY.samplers.values())))
    schedules = st.sampled_from(list(REGISTRY.schedules))
    options = {name: draw(st.none() | NUMBERS) for name in sampler.options}
    return GenerationRequest(
        prompt=draw(PROMPTS),
        negative_prompt=draw(WORDS.filter(lambda t: "Negative prompt:" not in t)),
        checkpoint=draw(st.text("abc,:\" é'", min_size=1).filter(lambda t: t == t.strip())),
        seed=draw(st.integers(0, 2**63 - 1)),
        width=draw(st.integers(1, 9999)),
        height=draw(st.integers(1, 9999)),
        steps=draw(st.integers(1, 999)),
        cfg_scale=draw(st.floats(-100, 100).map(lambda x: x + 0.0)),
        sampler=sampler.name,
        schedule=draw(schedules | st.lists(NUMBERS, min_size=1, max_size=5).map(tuple)),
        sampler_options=SamplerOptions(**options),
        clip_skip=draw(st.integers(1, 12)),
        emphasis=draw(st.sampled_from(Emphasis)),
        noise=draw(st.sampled_from(NoiseKind)),
        ensd=draw(st.integers(-(2**31), 2**31)),
        variation=draw(st.none() | variations()),
    )


@st.composite
def variations(draw):
    """Those that do something: a strength of 0 leaves no trace in the text."""
    strength = draw(st.floats(0.01, 1))
    sizes = st.tuples(st.integers(1, 9999), st.integers(1, 9999))
    return Variation(
        seed=draw(st.integers(0, 2**63 - 1)),
        strength=strength,
        resize_from=draw(st.none() | sizes),
    )


def in_full(request: GenerationRequest) -> GenerationRequest:
    """Every default spelled out."""
    sampler = REGISTRY.sampler(request.sampler)
    defaults = {"eta": 0.0 if sampler.name in WITHOUT_NOISE else 1.0}
    defaults |= {"s_churn": 0.0, "s_tmin": 0.0, "s_noise": 1.0}
    given_options = request.sampler_options
    missing = {k: v for k, v in defaults.items() if getattr(given_options, k) is None}
    automatic = request.schedule == "automatic"
    prompts = request.prompt + request.negative_prompt
    weighted = "(" in prompts or "[" in prompts or request.emphasis is Emphasis.COMFY
    return replace(
        request,
        emphasis=request.emphasis if weighted else Emphasis.ORIGINAL,
        schedule=sampler.schedule if automatic else request.schedule,
        sampler_options=replace(given_options, **missing),
    )


@settings(max_examples=200, deadline=None)
@given(requests())
def test_a_request_comes_back_from_its_infotext(request):
    text = written(request, REGISTRY, request.checkpoint, HASH)
    assert read(str(read(text))) == read(text)
    found, notes = request_from(text, REGISTRY)
    assert notes == []
    assert in_full(found) == in_full(request)


@given(st.text(st.sampled_from('ab,: "\\\n\t'), max_size=30) | st.text(max_size=30))
def test_quoting_is_undone_by_reading(value):
    pairs = _pairs(f"Key: {quoted(value)}, Seed: 1")
    assert pairs == [("Key", value), ("Seed", "1")]


@settings(max_examples=500, deadline=None)
@example('aa:""')
@example('aa: "b", cc: "d\\"", ee: "f"g, "hh: i"')
@given(st.text(st.sampled_from('ab,: "\\-/é\t!'), max_size=60))
def test_fields_are_found_where_a1111_finds_them(line):
    pattern = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    theirs = [(key, unquoted(value)) for key, value in re.findall(pattern, line)]
    assert [(key, value) for key, value in _pairs(line) if key is not None] == theirs


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_whatever_is_pasted_becomes_a_request(text):
    request_from(text, REGISTRY)
    request_from(f"{text}\nSteps: 3, Seed: 1, Size: 8x8, {text}", REGISTRY)


@pytest.mark.parametrize("piece", ["a", "a ", "aa: ", 'aa: "', 'aa:"\\', "a:", "\n", "aa: b, "])
def test_long_texts_take_no_longer_than_their_length(piece):
    """A1111's expression needs minutes for the first of these."""
    text = "x\n" + piece * (200_000 // len(piece))
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 3


def test_a_text_without_end_is_refused():
    with pytest.raises(RequestError, match="too many"):
        read("a" * (MAX_LENGTH + 1))


FOREIGN = """a fox <lora:fur:0.8>, blurred
Negative prompt: fog, <1>
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512, \
Model hash: e6415c4892, Model: real_v4, VAE hash: 735e4c3a44, VAE: ft-mse.safetensors, \
Denoising strength: 0.5, Clip skip: 2, Tiling: True, Hires checkpoint: xl [1234567890], \
Hires sampler: Euler a, Hires prompt: "a fox, near", Hires schedule type: Automatic, \
Hires resize: 0x1024, Hires steps: 9, Hires upscaler: 4x-UltraSharp, \
Lora hashes: "fur: 1a2b3c4d5e6f", Schedule rho: 0, Schedule max sigma: 20, \
Discard penultimate sigma: True, Refiner: ref.safetensors [7440042bbd], Refiner switch at: 0.7, \
User: me, Version: v1.10.1"""


def test_a_text_of_everything_fills_the_request():
    there = ["real_v4", "xl", "sub/ref.safetensors"]
    request, notes = request_from(FOREIGN, REGISTRY, there, ["vae/ft-mse.safetensors"])
    assert request.vae == "vae/ft-mse.safetensors" and request.tiling
    assert request.enlarge == Enlarge(
        checkpoint="xl",
        sampler="euler_ancestral",
        schedule="automatic",
        prompt="a fox, near",
        height=1024,
        steps=9,
        upscaler="4x-UltraSharp",
        strength=0.5,
    )
    assert request.refine == Refine(checkpoint="sub/ref.safetensors", switch_at=0.7)
    assert request.schedule_options == ScheduleOptions(sigma_max=20.0, discard_penultimate=True)
    assert [note.split(":")[0] for note in notes] == ["RNG"]
    assert str(read(FOREIGN)) == FOREIGN


def test_files_that_are_not_there_are_named():
    request, notes = request_from(FOREIGN, REGISTRY, ["real_v4"], [])
    assert request.refine is None and request.vae is None and request.enlarge.checkpoint is None
    missing = [note.split(":")[0] for note in notes]
    assert missing == ["RNG", "Hires checkpoint", "VAE", "Refiner", "Refiner switch at"]


def test_what_was_inpainted_says_what_is_missing():
    text = (
        "x\nSteps: 9, Sampler: Euler, Seed: 1, Denoising strength: 0.4, RNG: CPU, Mask blur: 4, "
        "Masked content: latent nothing, Inpaint area: Only masked, Version: v1.10.1"
    )
    request, notes = request_from(text, REGISTRY)
    assert request.start is None and request.enlarge is None
    named = [note.split(":")[0] for note in notes]
    assert named == ["Denoising strength", "Mask blur", "Masked content", "Inpaint area"]
    assert "choose it as the start" in notes[0]


def test_a_hypernetwork_of_an_old_text_is_kept():
    text = "x\nSteps: 9, Sampler: Euler, Seed: 1, Hypernet: ink(3f1a22cc), Hypernet strength: 0.7"
    request, _ = request_from(text, REGISTRY)
    assert request.hypernets == (HypernetUse(name="ink", weight=0.7),)


NAMES = st.text("abc,:\" é'", min_size=1).filter(lambda t: t == t.strip())
SHARES = st.floats(0, 1)


@st.composite
def whole_requests(draw):
    """Of all that a text can hold."""
    second = st.builds(
        Enlarge,
        width=st.none() | st.integers(1, 9999),
        height=st.none() | st.integers(1, 9999),
        scale=st.floats(0.1, 9),
        upscaler=NAMES,
        strength=SHARES,
        steps=st.none() | st.integers(1, 99),
        cfg_scale=st.none() | NUMBERS,
        sampler=st.none() | st.sampled_from(list(REGISTRY.samplers)),
        schedule=st.none() | st.sampled_from(list(REGISTRY.schedules)),
        prompt=st.none() | WORDS,
        negative_prompt=st.none() | WORDS,
        checkpoint=st.none() | NAMES,
    )
    options = st.builds(
        ScheduleOptions,
        discard_penultimate=st.none() | st.just(True),
        rho=st.none() | st.floats(0.1, 9),
        sigma_min=st.none() | st.floats(0.1, 9),
        sigma_max=st.none() | st.floats(0.1, 99),
    )
    refine = st.builds(Refine, checkpoint=NAMES, switch_at=SHARES, by_steps=st.booleans())
    return replace(
        draw(requests()),
        tiling=draw(st.booleans()),
        schedule_options=draw(options),
        enlarge=draw(st.none() | second),
        refine=draw(st.none() | refine),
        loras=draw(st.lists(st.builds(LoraUse, name=st.just("fur"), weight=NUMBERS)).map(tuple)),
    )


@settings(max_examples=200, deadline=None)
@given(whole_requests())
def test_what_is_read_from_a_text_writes_the_same_text(request):
    text = written(request, REGISTRY, request.checkpoint, HASH)
    found, notes = request_from(text, REGISTRY)
    assert notes == []
    assert written(found, REGISTRY, found.checkpoint, HASH) == text
    assert str(read(text)) == text
