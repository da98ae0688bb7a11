"""ControlNet's units and routes, as A1111's extension has them."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image, ImageDraw

from core.images.inputs import Inputs
from core.request import During, Hearing, Resize
from tests.webui.sdapi.conftest import Served
from webui.sdapi.controlnet import units
from webui.sdapi.given import ApiError, Given
from webui.sdapi.names import Names

BODY = {"prompt": "an apple", "width": 64, "height": 64, "steps": 2, "seed": 1}


def drawing() -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((12, 12, 50, 50), fill="black")
    return picture


def encoded() -> str:
    stream = io.BytesIO()
    drawing().save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_a_guide_changes_the_picture_and_none_does_not(api: Any, served: Served) -> None:
    import webuiapi

    unit = webuiapi.ControlNetUnit(image=drawing(), module="canny", model="guide", weight=1.5)
    # The client keeps what it put into a dictionary of its own: each call is given one.
    plain = api.txt2img(**BODY, alwayson_scripts={})
    guided = api.txt2img(**BODY, controlnet_units=[unit], alwayson_scripts={})
    assert guided.image.tobytes() != plain.image.tobytes()
    again = api.txt2img(**BODY, alwayson_scripts={})
    assert again.image.tobytes() == plain.image.tobytes()


def read(served: Served, **unit: Any) -> Any:
    given = Given({"alwayson_scripts": {"ControlNet": {"args": [unit]}}})
    names = Names(served.engine, served.settings)
    return units(given, names, Inputs(served.settings.data_dir / "inputs"))


def test_names_and_numbers_of_each_field_are_understood(served: Served) -> None:
    (use,) = read(
        served,
        model="guide [01234567]",
        module="canny",
        image="data:image/png;base64," + encoded(),
        mask_image=encoded(),
        threshold_a=50,
        threshold_b=120.4,
        resize_mode="Scale to Fit (Inner Fit)",
        control_mode="ControlNet is more important",
        hr_option="High res only",
        guidance_start="0.1",
        guidance_end=0.9,
        lowvram=True,
    )
    assert use.model == "guide" and use.settings == {"low": 50, "high": 120}
    assert (use.resize, use.hearing, use.during) == (Resize.CROP, Hearing.CONTROL, During.SECOND)
    assert (use.start, use.end, use.low_memory) == (0.1, 0.9, True)
    assert use.picture is not None and use.mask is not None
    (use,) = read(served, model="guide", image={"image": encoded(), "mask": None}, resize_mode=2)
    assert (use.resize, use.mask, use.preprocessor) == (Resize.FILL, None, "none")
    assert read(served, enabled=False, model="guide") == ()
    assert read(served) == ()


@pytest.mark.parametrize(
    ("unit", "piece"),
    [
        ({"model": "nonesuch"}, "nonesuch"),
        ({"model": "guide", "module": "openpose_full"}, "openpose_full"),
        ({"model": "guide", "resize_mode": 7}, "resize_mode"),
        ({"model": "guide", "control_mode": "loud"}, "control_mode"),
        ({"enabled": True}, "needs a model"),
    ],
)
def test_what_a_unit_cant_have_is_said(served: Served, unit: dict[str, Any], piece: str) -> None:
    with pytest.raises(ApiError, match=piece):
        read(served, **unit)


def test_lists_and_guides_made_apart(api: Any, served: Served) -> None:
    assert api.controlnet_version() >= 2
    names = [name.partition(" ")[0] for name in api.controlnet_model_list()]
    assert names == ["guide", "outline", "palette"]  # one's own, then those that ship
    assert "canny" in api.controlnet_module_list()
    guide = api.controlnet_detect([drawing()], module="canny").image
    assert guide.size == (64, 64)
    colours = {colour for _, colour in guide.convert("L").getcolors()}
    assert colours == {0, 255}
    with served.client() as client:
        told = client.get("/controlnet/control_types").json()["control_types"]["All"]
        assert told["default_model"] == "None" and "guide" in told["model_list"][1]
        assert client.get("/controlnet/nonesuch").status_code == 404
        wrong = client.post("/controlnet/detect", json={})
        assert wrong.status_code == 422 and json.loads(wrong.text)["detail"] == "No image selected"
