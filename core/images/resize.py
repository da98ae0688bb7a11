"""Pictures of any size and shape made exactly the size that is asked for; torch is not needed.

What is transparent shows white, A1111's default. Masks (mode L) stay masks.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from core.errors import named
from core.images.pixels import in_rgb

FILTERS = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
"""Ways to enlarge that need no weights, by A1111's names."""


def resized(picture: Image.Image, width: int, height: int, how: str) -> Image.Image:
    """The picture at exactly `width` × `height`.

    Args:
        how: "stretch", "crop" or "fill". "latent" is done on latents, not here.

    Raises:
        RequestError: there is no such way; says which there are.
    """
    return named(WAYS, how, "way to resize", "start.resize")(picture, width, height)


def stretched(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Both sides scaled, each by its own factor."""
    return _plain(picture).resize((width, height), Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Filled by the middle of the picture; what sticks out on two sides is cut off."""
    # Only what will be seen is scaled: a picture of 5000 × 1 would become one of gigabytes.
    scale = max(width / picture.width, height / picture.height)
    seen_width = min(width / scale, picture.width)
    seen_height = min(height / scale, picture.height)
    left, top = (picture.width - seen_width) / 2, (picture.height - seen_height) / 2
    box = (left, top, left + seen_width, top + seen_height)
    return _plain(picture).resize((width, height), Image.Resampling.LANCZOS, box=box)


def filled(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture in the middle; its outermost rows or columns stretched to the margins."""
    scale = min(width / picture.width, height / picture.height)
    inner = stretched(
        picture,
        min(width, max(1, round(picture.width * scale))),
        min(height, max(1, round(picture.height * scale))),
    )
    left, top = (width - inner.width) // 2, (height - inner.height) // 2
    right, bottom = left + inner.width, top + inner.height
    canvas = Image.new(inner.mode, (width, height))
    canvas.paste(inner, (left, top))
    # Above and below, then beside the whole height: where both are there, corners too.
    _stretch_into(canvas, (left, top, right, top + 1), (left, 0, right, top))
    _stretch_into(canvas, (left, bottom - 1, right, bottom), (left, bottom, right, height))
    _stretch_into(canvas, (left, 0, left + 1, height), (0, 0, left, height))
    _stretch_into(canvas, (right - 1, 0, right, height), (right, 0, width, height))
    return canvas


WAYS: dict[str, Callable[[Image.Image, int, int], Image.Image]] = {
    "stretch": stretched,
    "crop": cropped,
    "fill": filled,
}


def enlarged(picture: Image.Image, width: int, height: int, name: str) -> Image.Image:
    """The picture scaled by one of FILTERS.

    Raises:
        RequestError: there is no filter of that name.
    """
    return _plain(picture).resize((width, height), named(FILTERS, name, "upscaler"))


Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, the last two outside."""


def _stretch_into(canvas: Image.Image, source: Box, target: Box) -> None:
    left, top, right, bottom = target
    if right > left and bottom > top:
        strip = canvas.crop(source).resize((right - left, bottom - top), Image.Resampling.NEAREST)
        canvas.paste(strip, (left, top))


def _plain(picture: Image.Image) -> Image.Image:
    return (
        picture if picture.mode == "L" and "transparency" not in picture.info else in_rgb(picture)
    )
