"""Tensors to pictures and back, and opening picture files from strangers.

The one place that calls `Image.open`. It knows no latents and no metadata. Opening needs no torch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.errors import FileError, NotFinite, VitrineError

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 16_384
MAX_PIXELS = 2**26
"""Larger pictures are refused before they are decoded: a file of a few kilobytes can claim to
unfold into gigabytes."""


def picture(pixels: Tensor) -> Image.Image:
    """(3 H W) in [-1, 1] -> an RGB picture: rounded to the nearest level, clamped.

    Raises:
        NotFinite: there is a NaN or an infinity in it.
    """
    import torch

    if not torch.isfinite(pixels).all():
        raise NotFinite("the picture came out with numbers that are not finite (NaN or infinity)")
    return of_levels(((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


def of_levels(levels: Tensor) -> Image.Image:
    """(3 H W) uint8 -> an RGB picture."""
    from einops import rearrange

    return Image.fromarray(rearrange(levels.cpu(), "c H W -> H W c").contiguous().numpy())


def pictures(pixels: Tensor) -> list[Image.Image]:
    """(b 3 H W) in [-1, 1] -> b pictures; see `picture`."""
    return [picture(one) for one in pixels]


def pixels(picture: Image.Image) -> Tensor:
    """A picture of any mode -> (3 H W) float32 in [-1, 1]; `picture` is its inverse on RGB."""
    import torch
    from einops import rearrange

    levels = torch.from_numpy(np.array(in_rgb(picture)))
    return rearrange(levels, "H W c -> c H W").float() / 127.5 - 1


def open_picture(source: Path | str | bytes) -> Image.Image:
    """A PNG, JPEG or WebP file, or its bytes, as an RGB picture the way it is meant to be seen.

    Turned as its EXIF asks; 16 bits scaled to 8; what is transparent shows white; of an animation
    the first frame.

    Raises:
        FileError: it is something else, damaged, or larger than MAX_SIDE or MAX_PIXELS.
    """
    with opened(source) as found:
        return in_rgb(ImageOps.exif_transpose(found))


def open_with_alpha(source: Path | str | bytes) -> Image.Image:
    """As `open_picture`, but what is transparent stays so: RGBA, or RGB where nothing is."""
    with opened(source) as found:
        return upright(found)


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF asks, in RGBA, or in RGB where nothing is transparent."""
    turned = ImageOps.exif_transpose(picture)
    if not turned.has_transparency_data or turned.mode.startswith("I"):
        return in_rgb(turned)
    clear = turned.convert("RGBA")
    return in_rgb(turned) if clear.getchannel("A").getextrema() == (255, 255) else clear


@contextmanager
def opened(source: Path | str | bytes) -> Iterator[Image.Image]:
    """The picture with its header read and its size checked, but not yet decoded.

    Whatever fails while it is open is raised as a FileError that names it.
    """
    name = "the picture" if isinstance(source, bytes) else Path(source).name
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(stream, formats=("PNG", "JPEG", "WEBP")) as found:
            check_size(found.size, name)
            yield found
    except VitrineError:
        raise
    except UnidentifiedImageError as error:
        raise FileError(f"{name} is not a PNG, JPEG or WebP picture") from error
    except FileNotFoundError as error:
        raise FileError(f"there is no picture {name}") from error
    except Image.DecompressionBombError as error:
        raise FileError(f"{name} is too large: it may have {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise FileError(f"{name} does not fit into memory") from error
    except Exception as error:
        # Decoders of damaged files raise nearly everything: OSError, SyntaxError, ValueError,
        # IndexError, struct.error, zlib.error.
        raise FileError(f"{name} is damaged and can't be read: {error}") from error


def in_rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB, 8 bits: what is transparent shows white."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.copy()
    if picture.mode.startswith("I"):
        # Pillow's own conversion from 16 bits cuts off at 255 instead of scaling.
        levels = np.asarray(picture).astype(np.float64) / 257
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return picture.convert("RGB")


def check_size(size: tuple[int, int], name: str) -> None:
    """Raises FileError for a picture larger than MAX_SIDE or MAX_PIXELS."""
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise FileError(
            f"{name} is too large: {width} × {height}; a side may have {MAX_SIDE:,} pixels, "
            f"the whole {MAX_PIXELS:,}"
        )
