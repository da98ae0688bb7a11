"""Patterns say what A1111's say, and no prompt leads out of the folder."""

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.images.patterns import MAX_NAME, TOKENS, Facts, file_name, filled, folders
from core.request import Enlarge, GenerationRequest, StartImage

FOX = GenerationRequest(
    prompt="A red fox, (snow:1.2), in a wood of birches at dawn",
    negative_prompt="fog",
    seed=42,
    width=512,
    height=768,
    steps=28,
    cfg_scale=6.5,
    clip_skip=2,
)
FACTS = Facts(
    request=FOX,
    now=datetime(2026, 7, 9, 13, 5, 7, tzinfo=UTC),
    started=datetime(2026, 7, 9, 13, 4, 0, tzinfo=UTC),
    width=512,
    height=768,
    sampler="DPM++ 2M",
    scheduler="Karras",
    model_name="v1-5",
    model_hash="6ce0161689b3853acaa03779",
    user="session-1",
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("[seed]", "42"),
        ("[SEED]-[Steps]-[cfg]", "42-28-6.5"),
        ("[width]x[height]", "512x768"),
        ("[sampler] [scheduler]", "DPM++ 2M Karras"),
        ("[sampler_scheduler]", "DPM++ 2M Karras"),
        ("[model_name]-[model_hash]", "v1-5-6ce0161689"),
        ("[date]", "2026-07-09"),
        ("[datetime<%Y%m%d-%H><Asia/Tokyo>]", "20260709-22"),
        ("[datetime<%H:%M><UTC>]", "13_05"),
        ("[datetime<><UTC>]", "20260709130507"),
        ("[job_timestamp]", "20260709130400"),
        ("[prompt]", "A_red_fox,_(snow_1.2),_in_a_wood_of_birches_at_dawn"),
        ("[prompt_spaces]", "A red fox, (snow_1.2), in a wood of birches at dawn"),
        ("[prompt_no_styles]", "A red fox, (snow_1.2), in a wood of birches at dawn"),
        ("[prompt_words]", "A red fox snow 1 2 in a"),
        ("[prompt_hash]", sha(FOX.prompt)[:8]),
        ("[prompt_hash<4>]", sha(FOX.prompt)[:4]),
        ("[negative_prompt_hash<12>]", sha("fog")[:12]),
        ("[full_prompt_hash]", sha(f"{FOX.prompt} fog")[:8]),
        ("[clip_skip]", "2"),
        ("[hasprompt<fox|no fox><wolf|nowolf><bear>]", "foxnowolf"),
        ("[styles]", "None"),
        ("[vae_filename]", "NoneType"),
        ("[user]", "session-1"),
        ("[none]", ""),
        ("[seed]-[denoising]", "42"),
        ("[seed]-[batch_number]-[generation_number]", "42"),
        ("[batch_size]", "1"),
        ("[seed_first][seed_last]", "42"),
        ("plain", "plain"),
        ("[nonesuch]-[seed]", "[nonesuch]-42"),
        ("[]x[seed]", "[]x42"),
        ("[[seed]] ]", "[42] ]"),
        ("[a[b", "[a[b"),
        ("", ""),
    ],
)
def test_tokens_say_what_a1111s_say(pattern, name):
    assert file_name(pattern, FACTS) == name


def test_a_picture_among_several_has_its_number():
    facts = replace(FACTS, index=2, images=4)
    assert file_name("[batch_number]of[batch_size]-[generation_number]", facts) == "3of4-3"
    assert file_name("[seed_first]-[seed_last]", facts) == "40-43"


def test_strength_is_that_of_the_picture_or_the_second_pass():
    start = replace(FACTS, request=replace(FOX, start=StartImage(picture="ab", strength=0.4)))
    assert file_name("[seed]-[denoising]", start) == "42-0.4"
    enlarge = replace(FACTS, request=replace(FOX, enlarge=Enlarge(strength=0.5), vae="x/ft.mse.pt"))
    assert file_name("[denoising]-[vae_filename]", enlarge) == "0.5-ft"


def test_the_image_hash_is_that_of_its_pixels():
    picture = Image.new("RGB", (4, 4), "teal")
    expected = hashlib.sha256(picture.tobytes()).hexdigest()
    facts = replace(FACTS, image=picture)
    assert filled("[image_hash]", facts) == expected
    assert filled("[image_hash<6>]", facts) == expected[:6]


def test_folders_are_taken_apart_at_either_slash():
    assert folders("[date]/[model_name]\\x", FACTS) == ("2026-07-09", "v1-5", "x")
    assert folders("../../[seed]/./..", FACTS) == ("42",)
    assert folders("/etc", FACTS) == ("etc",)
    assert folders("", FACTS) == ()
    slashed = replace(FACTS, request=replace(FOX, prompt="../../etc/passwd"))
    assert folders("[prompt]", slashed) == ("_.._etc_passwd",)


@pytest.mark.parametrize("name", ["con", "NUL.txt", "COM1", "lpt9.x.y", "aux"])
def test_names_of_devices_are_no_names(name):
    assert file_name(name, FACTS) == f"_{name}"


PIECES = st.sampled_from([f"[{token}]" for token in TOKENS] + ["/", "..", "\\", "[", "]", "<", ">"])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.lists(PIECES | st.text(max_size=9), max_size=9), st.text())
def test_any_prompt_gives_a_name_that_every_system_takes(prompt, pieces, model):
    request = replace(FOX, prompt=prompt)
    facts = replace(FACTS, request=request, model_name=model, image=Image.new("L", (1, 1)))
    pattern = "".join(pieces)
    for name in [file_name(pattern, facts), *folders(pattern, facts)]:
        assert len(name.encode()) <= MAX_NAME + 1
        assert not re.search(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*#]', name)
        assert name == name.strip(" .")
        if name:
            assert PurePosixPath(name).name == name and PureWindowsPath(name).name == name
            assert not PureWindowsPath(name).is_reserved()


def test_long_patterns_take_no_longer_than_their_length():
    assert len(filled("[" * 100_000, FACTS)) == 1000
    filled("[a<" * 100_000, FACTS)
    filled("[a" + "<>" * 100_000 + "]", FACTS)
