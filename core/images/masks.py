"""Masks: which pixels of a picture are painted anew, and how what was painted is put back.

White is painted anew, black is kept to the last bit; torch is not needed.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import RequestError
from core.images.pixels import in_rgb

Box: TypeAlias = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, the last two outside."""

RING = 16
"""Pixels round a hole whose colours are spread into it."""

SWEEPS = 4
"""Times that a filled hole is smoothed at each size."""

Levels: TypeAlias = NDArray[np.uint8]
Field: TypeAlias = NDArray[np.float32]


def prepared(
    mask: Image.Image, size: tuple[int, int], invert: bool = False, grow: int = 0, blur: float = 0
) -> Image.Image:
    """The mask as it acts, in mode L: read, scaled to `size`, inverted, grown, blurred; so ordered.

    It is read from alpha where all that is painted has one colour, else from brightness.

    Args:
        size: (width, height) of the picture it belongs to.
        grow: pixels by which white grows, as a disc.
        blur: standard deviation in pixels; nothing is left of it beyond round(2.5 · blur) pixels.

    Raises:
        RequestError: the mask has another shape than the picture.
    """
    levels = np.asarray(_scaled(_read(mask), size))
    if invert:
        levels = 255 - levels
    if not levels.any():
        return Image.fromarray(levels)
    prepared = np.zeros_like(levels)
    near = _near(levels, grow + _reach(blur) + 1)
    prepared[near] = _blurred(_grown(levels[near], grow), blur)
    return Image.fromarray(prepared)


def latent_mask(mask: Image.Image, cells: tuple[int, int], soft: bool = False) -> Field:
    """The mask on the grid of latents: (h w) float32 in [0, 1], 1 painted anew.

    Args:
        mask: of mode L.
        cells: (rows, columns).
        soft: whether greys stay greys. Else a cell is 0 or 1, as A1111 rounds it.
    """
    rows, columns = cells
    scaled = mask.resize((columns, rows), Image.Resampling.BICUBIC)
    shares = _shares(np.asarray(scaled))
    return shares if soft else shares.round()


def only_masked_region(mask: Image.Image, padding: int, target: tuple[int, int]) -> Box:
    """The part of the picture to paint when only what is masked is painted, as A1111 takes it.

    The masked region with `padding` around it, then widened on one axis to the shape of `target`
    (width, height) as far as the picture goes.

    Raises:
        RequestError: the mask is black all over.
    """
    box = mask.getbbox()
    if box is None:
        raise RequestError("the mask is empty, so nothing would be painted", "start.mask")
    left, top = max(0, box[0] - padding), max(0, box[1] - padding)
    right, bottom = min(mask.width, box[2] + padding), min(mask.height, box[3] + padding)
    width, height = target
    if (right - left) * height > (bottom - top) * width:
        top, bottom = _widened(top, bottom, int((right - left) * height / width), mask.height)
    else:
        left, right = _widened(left, right, int((bottom - top) * width / height), mask.width)
    return left, top, right, bottom


def fill_neighbouring(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours around the mask spread into it; the rest as it was.

    A hole takes the colours of the RING of pixels round it, as evenly as a stretched skin: the
    ring is halved until no hole is left, each hole filled from the next smaller picture ("push and
    pull": Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4) and smoothed on the way.
    Greys of the mask blend. Where all is masked the picture's mean colour stands.
    """
    if mask.getbbox() is None:
        return in_rgb(picture)
    result = np.array(in_rgb(picture))
    levels = np.asarray(mask)
    near = _near(levels, RING)
    colours, levels = result[near].astype(np.float32), levels[near]
    known = 1 - _shares(levels)[..., None]
    if not known.any():
        filled = np.broadcast_to(colours.mean((0, 1)), colours.shape)
    else:
        ring = _grown(levels, RING)[..., None] > 0
        filled = known * colours + (1 - known) * _spread(colours, known * ring)
    result[near] = filled.round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(result)


def composited(
    original: Image.Image, painted: Image.Image, mask: Image.Image, box: Box | None = None
) -> Image.Image:
    """`painted` over `original` where the mask is white: RGB, greys blend.

    Where the mask is 0 the pixels are those of the original, bit for bit.

    Args:
        mask: of mode L, as large as the original.
        box: where `painted` belongs, scaled to it; None: it is as large as the original.
    """
    result = in_rgb(original)
    if box is None:
        result.paste(in_rgb(painted), None, mask)
        return result
    size = box[2] - box[0], box[3] - box[1]
    patch = in_rgb(painted).resize(size, Image.Resampling.LANCZOS)
    result.paste(patch, box[:2], mask.crop(box))
    return result


def _read(mask: Image.Image) -> Image.Image:
    """A mask picture's levels, in mode L."""
    if mask.mode == "L" and "transparency" not in mask.info:
        return mask
    if mask.mode.startswith("I") or not mask.has_transparency_data:
        return in_rgb(mask).convert("L")
    clear = np.asarray(mask.convert("RGBA"))
    colour, alpha = clear[..., :3], clear[..., 3]
    painted = colour[alpha > 0]
    if (alpha < 255).any() and (painted == painted[:1]).all():
        return Image.fromarray(alpha)
    black = Image.new("RGBA", mask.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, mask.convert("RGBA")).convert("L")


def _scaled(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    if mask.size == size:
        return mask
    (width, height), (wanted_width, wanted_height) = mask.size, size
    scale = wanted_width / width
    # Half a picture of odd size is off by up to one of its own pixels.
    if abs(height * scale - wanted_height) > scale + 1:
        raise RequestError(
            f"the mask has {width} × {height} pixels, and the picture has "
            f"{wanted_width} × {wanted_height}: they must have the same shape",
            "start.mask",
        )
    return mask.resize(size, Image.Resampling.BILINEAR)


def _shares(levels: Levels) -> Field:
    """Levels as shares in [0, 1]."""
    return levels.astype(np.float32) / np.float32(255)


def _near(levels: Levels, margin: int) -> tuple[slice, slice]:
    """The rows and columns within which there is white, with a margin round it."""
    box = Image.fromarray(levels).getbbox()
    assert box is not None
    left, top, right, bottom = box
    return (
        slice(max(0, top - margin), bottom + margin),
        slice(max(0, left - margin), right + margin),
    )


def _grown(levels: Levels, radius: int) -> Levels:
    """The highest level within a disc round each pixel."""
    if radius <= 0:
        return levels
    height, width = levels.shape
    around = np.pad(levels, radius)
    row = around[:, radius : radius + width].copy()  # the highest within `reach` in its row
    grown = levels.copy()
    reach = 0
    for dy in range(radius, -1, -1):
        wanted = int((radius**2 - dy**2) ** 0.5)
        while reach < wanted:
            reach += 1
            for start in (radius - reach, radius + reach):
                np.maximum(row, around[:, start : start + width], out=row)
        for start in {radius - dy, radius + dy}:
            np.maximum(grown, row[start : start + height], out=grown)
    return grown


def _blurred(levels: Levels, sigma: float) -> Levels:
    """A Gaussian of A1111's reach, mirrored at the borders."""
    reach = _reach(sigma)
    if reach == 0:
        return levels
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    blurred = levels.astype(np.float32)
    for _ in ("along columns", "along rows"):
        padded = np.pad(blurred, ((reach, reach), (0, 0)), mode="reflect")
        passed = np.zeros_like(blurred)
        for start, weight in enumerate(weights):
            passed += weight * padded[start : start + len(blurred)]
        blurred = passed.T.copy()
    return blurred.round().clip(0, 255).astype(np.uint8)


def _reach(sigma: float) -> int:
    """How far a blur goes, in pixels."""
    return int(2.5 * sigma + 0.5)


def _widened(start: int, end: int, wanted: int, limit: int) -> tuple[int, int]:
    """A range of length `wanted` round another one, moved to lie within [0, limit] if it can."""
    more = max(0, wanted - (end - start))
    start, end = start - more // 2, end + more - more // 2
    start, end = start - max(0, end - limit), min(end, limit)
    return max(0, start), min(end - min(0, start), limit)


def _spread(colours: Field, known: Field) -> Field:
    """(H W 3) with unknown colours, where known (H W 1) is 0, taken from the halved picture."""
    height, width = known.shape[:2]
    if known.min() == 1 or height == width == 1:
        return colours
    weights = _halved(known)
    coarse = _halved(colours * known) / weights.clip(1e-12)
    # One known pixel of four is enough to know the coarse one.
    below = _spread(coarse, (weights * np.float32(4)).clip(0, 1))
    filled = np.stack([_doubled(below[..., c], (width, height)) for c in range(3)], axis=-1)
    fixed, free = known * colours, 1 - known
    for _ in range(SWEEPS):
        filled = _neighbours(fixed + free * filled)
    return fixed + free * filled


def _neighbours(field: Field) -> Field:
    """The mean of the four pixels beside each."""
    around = np.pad(field, ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = around[:-2, 1:-1] + around[2:, 1:-1]
    total += around[1:-1, :-2]
    total += around[1:-1, 2:]
    total *= 0.25
    return total


def _halved(field: Field) -> Field:
    """Means of 2 × 2 pixels; zeros beyond the border."""
    height, width, channels = field.shape
    even = np.pad(field, ((0, height % 2), (0, width % 2), (0, 0)))
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, channels).mean((1, 3))


def _doubled(field: Field, size: tuple[int, int]) -> Field:
    half = (0, 0, size[0] / 2, size[1] / 2)  # of an odd side the last coarse pixel is half outside
    return np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BILINEAR, box=half))
