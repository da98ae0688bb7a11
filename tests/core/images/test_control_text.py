"""Guides in A1111's text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.images.control_text import control_fields, control_uses, entries
from core.images.infotext import Hashes, read, request_from, written
from core.registry import built_in
from core.request import ControlUse, During, GenerationRequest, Hearing, Resize

REQUEST = GenerationRequest(
    prompt="a fox",
    seed=1,
    width=64,
    height=64,
    controls=(
        ControlUse(
            model="control_v11p_sd15_canny",
            picture="0" * 64,
            preprocessor="canny",
            settings={"high": 200, "low": 100},
        ),
        ControlUse(
            model="tile",
            preprocessor="tile",
            settings={"shrink": 1.5},
            weight=0.6,
            end=0.8,
            resize=Resize.FILL,
            hearing=Hearing.CONTROL,
            during=During.SECOND,
        ),
    ),
)


def test_each_guide_is_one_entry_in_the_extensions_words() -> None:
    fields = control_fields(REQUEST)
    assert fields["ControlNet 0"] == (
        "Module: canny, Model: control_v11p_sd15_canny, Weight: 1, Resize Mode: Crop and Resize, "
        "Low Vram: False, Threshold A: 100, Threshold B: 200, Guidance Start: 0, Guidance End: 1, "
        "Pixel Perfect: True, Control Mode: Balanced, Hr Option: Both"
    )
    assert fields["ControlNet 1"] == (
        "Module: tile_resample, Model: tile, Weight: 0.6, Resize Mode: Resize and Fill, "
        "Low Vram: False, Threshold A: 1.5, Threshold B: -1, Guidance Start: 0, "
        "Guidance End: 0.8, Pixel Perfect: True, Control Mode: ControlNet is more important, "
        "Hr Option: High res only"
    )


def test_the_text_of_a_picture_holds_them_and_is_read_back() -> None:
    text = written(REQUEST, built_in(), "tiny", "0" * 64)
    assert 'ControlNet 0: "Module: canny, ' in text
    assert read(text).fields["ControlNet 0"] == control_fields(REQUEST)["ControlNet 0"]


REGISTRY = built_in()
A1111 = """a fox
Negative prompt: blurry
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: v1-5, \
ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, \
Resize Mode: Crop and Resize, Processor Res: 512, Threshold A: 100, Threshold B: 200, \
Guidance Start: 0, Guidance End: 0.6, Pixel Perfect: True, Control Mode: My prompt is more \
important, Hr Option: Both", ControlNet 1: "Module: shuffle, Model: control_v11e_sd15_shuffle \
[526bfdae], Weight: 1, Control Mode: Balanced", RNG: CPU, Version: v1.9.4"""
SECOND_FORMAT = """a fox
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, RNG: CPU, Version: v1.4.0, \
ControlNet 0: "preprocessor: tile_resample, model: tile [a371b31b], weight: 1, \
starting/ending: (0.1, 0.9), resize mode: Resize and Fill, pixel perfect: False, \
control mode: ControlNet is more important, preprocessor params: (512, 1, 64)\""""
FIRST_FORMAT = """a fox
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, RNG: CPU, Version: v1.2.1, \
ControlNet-0 Enabled: True, ControlNet-0 Module: invert, ControlNet-0 Model: lines [12345678], \
ControlNet-0 Weight: 0.5, ControlNet-0 Guidance Start: 0, ControlNet-0 Guidance End: 1, \
ControlNet-1 Enabled: False, ControlNet-1 Model: other [12345678]"""


def test_what_the_extension_writes_fills_the_guides() -> None:
    request, notes = request_from(A1111, REGISTRY)
    canny, shuffle = request.controls
    assert canny == ControlUse(
        model="control_v11p_sd15_canny",
        preprocessor="canny",
        settings={"low": 100, "high": 200},
        weight=0.8,
        end=0.6,
        hearing=Hearing.PROMPT,
    )
    assert (shuffle.model, shuffle.preprocessor) == ("control_v11e_sd15_shuffle", "none")
    assert sum("the picture that guided it is not in the text" in note for note in notes) == 2
    assert any("module: shuffle – not used: there is nothing like it" in note for note in notes)
    assert not any("not known here" in note for note in notes)


def test_the_words_of_older_versions_are_read_too() -> None:
    ((tile,), _), ((lines,), _) = (
        (found[0].controls, found[1])
        for found in (request_from(text, REGISTRY) for text in (SECOND_FORMAT, FIRST_FORMAT))
    )
    assert (tile.model, tile.preprocessor, tile.start, tile.end) == ("tile", "tile", 0.1, 0.9)
    assert (tile.resize, tile.hearing) == (Resize.FILL, Hearing.CONTROL)
    assert (lines.model, lines.preprocessor, lines.weight) == ("lines", "invert", 0.5)


def test_what_is_written_is_read_back_but_for_the_pictures() -> None:
    every = replace(
        REQUEST,
        controls=(
            *REQUEST.controls,
            ControlUse(model="d", preprocessor="estimated_depth", low_memory=True, start=0.25),
            ControlUse(model="p", preprocessor="pose", during=During.FIRST, hearing=Hearing.PROMPT),
        ),
    )
    marks = {use.model: "0123abcd" for use in every.controls}
    for hashes in (Hashes(), Hashes(guides=marks)):
        text = written(every, REGISTRY, "tiny", "0" * 64, hashes=hashes)
        assert text.count(" [0123abcd], Weight") == len(hashes.guides)
        found = request_from(text, REGISTRY)[0].controls
        assert found == tuple(replace(use, picture=None) for use in every.controls)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Module: canny, Model: None", "ControlNet 0 – not used: it names no model"),
        ("Model: a, Weight: nan", "weight: nan – not used: it should be a number from 0 to 10"),
        ("Model: a, Guidance End: 7", "guidance end: 7 – not used: it should be"),
        ("Model: a, Control Mode: mine", "control mode: mine – not used: it should be one of"),
        ("Model: a, Weight: ", "weight:  – not used"),
        ("no entries at all", "ControlNet 0 – not used: it names no model"),
    ],
)
def test_what_can_not_be_read_is_said(text: str, sentence: str) -> None:
    notes: list[str] = []
    left = {"ControlNet 0": text, "Steps": "20"}
    found = control_uses(left, REGISTRY.preprocessors, notes)
    assert any(sentence in note for note in notes)
    assert left == {"Steps": "20"}
    assert all(use.weight == 1 and use.end == 1 for use in found)


def test_a_text_of_a_thousand_guides_fills_ten() -> None:
    left = {f"ControlNet {n}": "Model: a" for n in range(100)}
    assert len(control_uses(left, REGISTRY.preprocessors, [])) == 10


def test_entries_keep_commas_that_begin_no_key() -> None:
    assert entries("a: (1, 2), B c: x") == {"a": "(1, 2)", "b c": "x"}
