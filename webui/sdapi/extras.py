"""A1111's extras: pictures made larger without painting, and what is written in a picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from core.engine.engine import Engine, Upscale
from core.images.capsule import read_picture
from core.images.grammar import read
from core.images.pixels import check_size, open_with_alpha
from webui.sdapi.given import ApiError, Given, picture_bytes
from webui.sdapi.names import NO_UPSCALER, Names

MOST_PICTURES = 64
PATIENCE = 3600
"""Seconds that one picture may take."""


def single(given: Given, engine: Engine, names: Names, owner: str) -> dict[str, Any]:
    """
    Raises:
        ApiError: names the field.
        FileError: the picture can't be read, or would become too large.
    """
    enlarge = enlarger(given, engine, names, owner)
    picture = open_with_alpha(picture_bytes(given.value("image"), "image"))
    return {"html_info": "", "image": base64_png(enlarge(picture))}


def batch(given: Given, engine: Engine, names: Names, owner: str) -> dict[str, Any]:
    entries = given.list("imageList")
    if len(entries) > MOST_PICTURES:
        raise ApiError(422, f"imageList may hold {MOST_PICTURES} pictures", "imageList")
    enlarge = enlarger(given, engine, names, owner)
    images = []
    for entry in entries:
        data = Given(entry).value("data")
        picture = open_with_alpha(picture_bytes(data, "imageList.data"))
        images.append(base64_png(enlarge(picture)))
    return {"html_info": "", "images": images}


def enlarger(
    given: Given, engine: Engine, names: Names, owner: str
) -> Callable[[Image.Image], Image.Image]:
    """What the fields ask to be done with each picture."""
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if given.number(name):
            raise ApiError(422, f"faces are not repaired here; leave {name} at 0", name)
    first, second = given.text("upscaler_1"), given.text("upscaler_2")
    chosen = [one for one in (first, second) if one and one != NO_UPSCALER]
    ours = [names.upscaler(one, latent=False) for one in chosen]
    visibility = given.number("extras_upscaler_2_visibility") or 0.0
    if not 0 <= visibility <= 1:
        raise ApiError(
            422,
            "extras_upscaler_2_visibility must lie between 0 and 1",
            "extras_upscaler_2_visibility",
        )

    def enlarged(picture: Image.Image) -> Image.Image:
        if not ours or not first or first == NO_UPSCALER:
            return picture
        (width, height), crop = target(given, picture.size)
        check_size((width, height), "the result")
        name = engine.inputs.add(picture)
        made = [
            engine.inspect(Upscale(name, upscaler, width, height), owner).result(PATIENCE)
            for upscaler in ours[: 2 if visibility else 1]
        ]
        whole = made[0] if len(made) == 1 else Image.blend(made[0], made[1], visibility)
        return whole if crop is None else middle(whole, *crop)

    return enlarged


def target(given: Given, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The size to enlarge to, and the size to cut out of its middle, if any."""
    if not given.whole("resize_mode"):
        factor = given.number("upscaling_resize")
        factor = 2.0 if factor is None else factor
        if not 0 < factor <= 16:
            raise ApiError(
                422,
                f"upscaling_resize must lie above 0 and up to 16, not {factor:g}",
                "upscaling_resize",
            )
        return (max(1, int(size[0] * factor)), max(1, int(size[1] * factor))), None
    wanted = tuple(given.whole(f"upscaling_resize_{side}") or 512 for side in "wh")
    if min(wanted) < 1:
        raise ApiError(422, "upscaling_resize_w and _h must be 1 or more", "upscaling_resize_w")
    factor = max(side / own for side, own in zip(wanted, size, strict=True))
    whole = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    crop = given.value("upscaling_crop") is None or given.truth("upscaling_crop")
    return whole, (wanted[0], wanted[1]) if crop else None


def middle(picture: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def png_info(given: Given) -> dict[str, Any]:
    """A1111's text in a picture, and that text taken apart."""
    found = read_picture(picture_bytes(given.value("image"), "image"))
    text = found.parameters or ""
    parts = read(text)
    parameters = {"Prompt": parts.prompt, "Negative prompt": parts.negative, **parts.fields}
    width, _, height = parameters.pop("Size", "").partition("x")
    if height:
        parameters |= {"Size-1": width, "Size-2": height}
    return {"info": text, "items": {"parameters": text} if text else {}, "parameters": parameters}


def base64_png(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
