"""What a run begins from: the request's picture and mask, at the size that is painted.

Torch is not needed, so the page can show the mask that will act before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops

from core.errors import RequestError
from core.images.inputs import Inputs
from core.images.masks import (
    Box,
    Field,
    composited,
    fill_neighbouring,
    latent_mask,
    only_masked_region,
)
from core.images.masks import prepared as prepared_mask
from core.images.outpaint import extended
from core.images.pixels import in_rgb
from core.images.resize import resized, stretched
from core.request import Fill, Resize, StartImage


@dataclass(frozen=True)
class Prepared:
    """A picture ready to be encoded, and what becomes of the result."""

    picture: Image.Image
    """RGB; at the size that is painted, but for `Resize.LATENT`."""
    mask: Image.Image | None = None
    """Mode L, as large: white is painted anew."""
    original: Image.Image | None = None
    """What the painted part is put back into."""
    whole_mask: Image.Image | None = None
    """As large as `original`."""
    box: Box | None = None
    """Where the painted part lies in `original`; None: everywhere."""

    def latent_mask(self, rows: int, columns: int, soft: bool) -> Field:
        """(rows columns) float32 in [0, 1]."""
        assert self.mask is not None
        return latent_mask(self.mask, (rows, columns), soft)

    def shown(self) -> Field:
        """(height width) float32: 1 where the picture is kept, 0 where it is painted anew."""
        assert self.mask is not None
        return (np.asarray(self.mask) < 128).astype(np.float32)

    def put_back(self, painted: Image.Image) -> Image.Image:
        """The result: `painted` where the mask is white, the original where it is black."""
        if self.original is None or self.whole_mask is None:
            return painted
        return composited(self.original, painted, self.whole_mask, self.box)


def prepared(start: StartImage, inputs: Inputs, width: int, height: int) -> Prepared:
    """Reads what `start` names, and brings it to `width` × `height`.

    Raises:
        RequestError: a picture is missing, the mask is empty or of another shape.
    """
    picture = in_rgb(inputs.open(start.picture))
    mask = None if start.mask is None else inputs.open(start.mask)
    whole = _whole_mask(start, picture, mask)
    if start.extend:
        picture, seam = extended(picture, *start.extend)
        whole = seam if whole is None else ImageChops.lighter(_placed(whole, start, seam), seam)
    if whole is None:
        return _unmasked(start, picture, width, height)
    if whole.getbbox() is None:
        raise RequestError("the mask is empty, so nothing would be painted", "start.mask")
    begun = fill_neighbouring(picture, whole) if start.fill is Fill.COLOUR else picture
    if start.only_masked:
        box = only_masked_region(whole, start.padding, (width, height))
        return Prepared(
            picture=stretched(begun.crop(box), width, height),
            mask=stretched(whole.crop(box), width, height),
            original=picture,
            whole_mask=whole,
            box=box,
        )
    small = replace(start, resize=_visible(start.resize))
    mask = resized(whole, width, height, small.resize)
    original = resized(picture, width, height, small.resize)
    return Prepared(resized(begun, width, height, small.resize), mask, original, mask)


def _unmasked(start: StartImage, picture: Image.Image, width: int, height: int) -> Prepared:
    if start.resize is Resize.LATENT:
        return Prepared(picture)
    return Prepared(resized(picture, width, height, start.resize))


def _visible(how: Resize) -> Resize:
    """With a mask the picture is stretched as pixels, so that what is kept stays sharp."""
    return Resize.STRETCH if how is Resize.LATENT else how


def _whole_mask(
    start: StartImage, picture: Image.Image, mask: Image.Image | None
) -> Image.Image | None:
    if mask is None:
        return None
    return prepared_mask(mask, picture.size, start.invert, start.grow, start.blur)


def _placed(mask: Image.Image, start: StartImage, like: Image.Image) -> Image.Image:
    """The mask of the picture on the larger canvas."""
    placed = Image.new("L", like.size, 0)
    placed.paste(mask, start.extend[:2])  # type: ignore[arg-type]
    return placed
