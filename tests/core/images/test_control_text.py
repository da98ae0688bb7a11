"""Guides in A1111's text."""

from __future__ import annotations

from core.images.control_text import control_fields
from core.images.infotext import read, written
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
