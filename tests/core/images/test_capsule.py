"""A request survives the way through a picture file; hostile texts in files do no harm."""

import io
import json
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import FileError, RequestError
from core.images.capsule import Capsule, Found, encoded, read_picture
from core.registry import built_in
from core.request import GenerationRequest, Record, SamplerOptions

DOT = Image.new("RGB", (8, 8), "teal")
TEXT = "a fox\nNegative prompt: fog\nSteps: 9, Sampler: Euler, CFG scale: 7, Seed: 5, RNG: CPU"

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
REQUESTS = st.builds(
    GenerationRequest,
    prompt=st.text(st.characters()),
    negative_prompt=st.text(),
    checkpoint=st.none() | st.text(),
    seed=st.none() | st.integers(0, 2**63 - 1),
    width=st.none() | st.integers(1, 8192),
    height=st.none() | st.integers(1, 8192),
    steps=st.integers(1, 500),
    cfg_scale=FLOATS,
    sampler=st.text(),
    schedule=st.text() | st.lists(FLOATS).map(tuple),
    images=st.integers(1, 100),
    sampler_options=st.builds(
        SamplerOptions, eta=st.none() | FLOATS, s_noise=st.none() | FLOATS, s_churn=FLOATS
    ),
    record=st.sampled_from(Record),
)


def capsule(request: GenerationRequest, **changes) -> Capsule:
    values = {
        "checkpoint": "fox, v2",
        "fingerprint": "ab" * 32,
        "family": "sd1",
        "device": "cpu",
        "dtype": "float32",
        "sigmas": (14.6146, 1.0, 0.0),
        "versions": {"torch": "2.13.0", "program": "vitrine"},
    }
    return Capsule(request=request, **(values | changes))


SIMPLE = capsule(GenerationRequest(prompt="a fox", seed=5))


@settings(max_examples=150, deadline=None)
@given(REQUESTS)
def test_a_request_comes_back_from_its_picture(request):
    sealed = capsule(request)
    found = read_picture(encoded(DOT, "PNG", request.prompt, sealed))
    assert found.capsule == sealed
    assert found.request(built_in()) == (request, [])


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_the_text_comes_back_from_every_kind_of_file(text):
    for kind in ("PNG", "JPEG", "WEBP"):
        found = read_picture(encoded(DOT, kind, text, SIMPLE))
        assert found.parameters == text
        assert found.capsule == SIMPLE and found.maker == "ours"


def test_the_text_lies_where_a1111_and_its_friends_look():
    png = Image.open(io.BytesIO(encoded(DOT, "PNG", TEXT, SIMPLE)), formats=("PNG",))
    assert png.info["parameters"] == TEXT
    assert b"tEXtparameters\0a fox" in encoded(DOT, "PNG", TEXT)
    assert b"UNICODE\0" + TEXT.encode("utf-16-be") in encoded(DOT, "JPEG", TEXT)


@pytest.mark.parametrize("odd", ["half a pair \ud83d", "a NUL \0 inside", "line\r\nends", "日本語"])
def test_odd_characters_come_back_too(odd):
    sealed = capsule(GenerationRequest(prompt=odd))
    found = read_picture(encoded(DOT, "PNG", odd, sealed))
    assert found.capsule == sealed
    assert found.parameters == odd.replace("\ud83d", "?")


def test_pixels_are_not_decoded_for_the_text():
    cut = encoded(DOT, "PNG", TEXT, SIMPLE)[:-30]
    assert read_picture(cut).capsule == SIMPLE


def test_without_a_capsule_the_text_is_read():
    request, notes = read_picture(encoded(DOT, "WEBP", TEXT)).request(built_in())
    assert (request.prompt, request.negative_prompt) == ("a fox", "fog")
    assert (request.sampler, request.seed, request.steps) == ("euler", 5, 9)
    assert notes == []


def test_a_picture_from_elsewhere_says_nothing():
    for kind in ("PNG", "JPEG", "WEBP"):
        stream = io.BytesIO()
        DOT.save(stream, kind)
        assert read_picture(stream.getvalue()) == Found()
        assert Found().request(built_in()) is None


def test_a_camera_s_comment_in_ascii_is_read():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0hello"
    stream = io.BytesIO()
    DOT.save(stream, "JPEG", exif=exif)
    assert read_picture(stream.getvalue()).parameters == "hello"


def test_a_text_too_long_for_a_jpeg_is_refused_with_a_sentence():
    with pytest.raises(FileError, match="too long"):
        encoded(DOT, "JPEG", "a" * 40_000)
    assert read_picture(encoded(DOT, "WEBP", "a" * 40_000)).parameters == "a" * 40_000


def changed(**changes) -> str:
    return json.dumps(json.loads(SIMPLE.to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 10_000,
        changed(format=2),
        changed(versions={"torch": 2}),
        changed(versions=[]),
        changed(sigmas=[float("nan")]),
        changed(request={}),
        changed(request={"prompt": "x", "seed": "7"}),
        changed(tomorrow=True),
        changed(checkpoint=None),
        " " * 2_000_000,
    ],
)
def test_what_is_no_capsule_is_a_request_error_and_a_note(text):
    with pytest.raises(RequestError):
        Capsule.from_json(text)
    texts = PngInfo()
    texts.add_text("parameters", TEXT)
    texts.add_itxt("vitrine", text)
    stream = io.BytesIO()
    DOT.save(stream, "PNG", pnginfo=texts)
    found = read_picture(stream.getvalue())
    assert found.capsule is None and len(found.notes) == 1 and len(found.notes[0]) < 300
    request, notes = found.request(built_in())
    assert request.prompt == "a fox" and notes == list(found.notes)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_unfolds_into_gigabytes_is_not_unfolded(kind):
    unfolded = zlib.compressobj(9)
    bomb = b"".join(unfolded.compress(bytes(2**20)) for _ in range(200)) + unfolded.flush()
    head = b"vitrine\0" + (b"\0" if kind == b"zTXt" else b"\x01\0\0\0")
    data = kind + head + bomb
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    png = encoded(DOT, "PNG", TEXT)
    with pytest.raises(FileError, match="damaged"):
        read_picture(png[:33] + chunk + png[33:])
