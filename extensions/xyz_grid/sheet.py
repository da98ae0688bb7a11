"""Pictures on one sheet, with their values beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8
LETTERS = 16
MOST_SIDE = 12_000
"""Pixels; a larger sheet is made smaller."""


def sheet(
    pictures: Mapping[tuple[int, int, int], Image.Image],
    labels: Sequence[Sequence[str]],
    size: tuple[int, int],
) -> Image.Image:
    """All pictures by (x, y, z), the sheets of z one below the other; what is missing stays empty.

    Args:
        labels: of each column, row and sheet.
        size: (width, height) of the largest picture.
    """
    columns, rows, sheets = (max(1, len(names)) for names in labels)
    font = ImageFont.load_default(LETTERS)
    left = max((int(font.getlength(name)) for name in labels[1]), default=0) + 2 * GAP
    top = LETTERS + 2 * GAP
    width, height = size[0] + GAP, size[1] + GAP
    block = top + rows * height + (top if labels[2] else 0)
    whole = Image.new("RGB", (left + columns * width, sheets * block), "white")
    draw = ImageDraw.Draw(whole)
    for z in range(sheets):
        above = z * block
        if labels[2]:
            draw.text((GAP, above + GAP), labels[2][z], "black", font)
            above += top
        for x, name in enumerate(labels[0]):
            draw.text((left + x * width, above + GAP), name, "black", font)
        for y, name in enumerate(labels[1]):
            draw.text((GAP, above + top + y * height), name, "black", font)
        for (x, y, at), picture in pictures.items():
            if at == z:
                whole.paste(picture, (left + x * width, above + top + y * height))
    if max(whole.size) > MOST_SIDE:
        whole.thumbnail((MOST_SIDE, MOST_SIDE))
    return whole
