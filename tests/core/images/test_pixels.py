"""Tensors and pictures are each other's inverse; picture files from strangers are opened safely."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import FileError, NotFinite
from core.images.pixels import MAX_SIDE, open_picture, opened, picture, pictures, pixels


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(
    width: int, height: int, bits: int = 8, colour: int = 0, data: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_every_level_survives_the_way_to_a_tensor_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1))
    tensor = pixels(image)
    assert tensor.shape == (3, 16, 16)
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(np.array(picture(tensor)), np.array(image))


def test_levels_are_rounded_to_the_nearest_and_clamped():
    tensor = torch.tensor([-3.0, -1 + 0.51 / 127.5, -1 + 0.49 / 127.5, 7.0])
    (image,) = pictures(tensor.expand(1, 3, 1, 4))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (1,) * 3, (0,) * 3, (255,) * 3]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_make_no_picture(wrong):
    tensor = torch.zeros(3, 4, 4, dtype=torch.bfloat16)
    picture(tensor)
    tensor[1, 2, 3] = wrong
    with pytest.raises(NotFinite):
        picture(tensor)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(1, 170_000_000), (MAX_SIDE, MAX_SIDE), (2**31 - 1, 2**31 - 1)])
def test_a_small_file_that_claims_a_huge_picture_is_refused_before_decoding(size):
    bomb = png_claiming(*size)
    assert len(bomb) < 200
    with pytest.raises(FileError, match="too large"):
        open_picture(bomb)


def test_other_formats_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / "moving.png"
    path.write_bytes(file_of(Image.new("RGB", (4, 4)), "GIF"))
    with pytest.raises(FileError, match=r"moving\.png is not a PNG, JPEG or WebP picture"):
        open_picture(path)
    with pytest.raises(FileError, match="the picture is not"):
        open_picture(b"<html>")
    with pytest.raises(FileError, match=r"there is no picture gone\.png"):
        open_picture(tmp_path / "gone.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_raise_nothing_but_file_errors(kind):
    """Every cut, and a flipped byte at every place."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    whole = file_of(Image.fromarray(noise), kind)
    cuts = [whole[:n] for n in range(0, len(whole), 7)]
    flips = [whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :] for n in range(0, len(whole), 3)]
    refused = 0
    for data in cuts + flips:
        try:
            assert open_picture(data).mode == "RGB"
        except FileError:
            refused += 1
    assert refused > len(cuts) / 2


def test_a_picture_is_turned_as_its_exif_asks():
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    turned = open_picture(file_of(image, "JPEG", exif=exif, quality=95))
    assert turned.size == (8, 16)
    assert turned.getpixel((4, 2))[0] > 200 and turned.getpixel((4, 14))[0] < 50


def test_sixteen_bits_are_scaled_and_not_cut_off():
    rows = [0, 257, 32768, 65535]
    data = b"".join(b"\0" + struct.pack(">H", value) for value in rows)
    found = open_picture(png_claiming(1, 4, bits=16, data=data))
    assert [found.getpixel((0, y)) for y in range(4)] == [(v,) * 3 for v in (0, 1, 128, 255)]
    colour = b"\0" + struct.pack(">HHH", 65535, 32768, 0)
    assert open_picture(png_claiming(1, 1, 16, 2, colour)).getpixel((0, 0)) == (255, 128, 0)


def test_ink_colours_become_light():
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = open_picture(file_of(inks, "JPEG", quality=95)).getpixel((4, 4))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "L"])
def test_what_is_transparent_shows_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    if mode == "P":
        image = image.convert("P")
        image.putpixel((0, 0), 200)
        data = file_of(image, transparency=200)
    elif mode in ("RGBA", "LA"):
        image.putpixel((0, 0), (40, 40, 40, 0))
        data = file_of(image.convert(mode))
    else:
        image = image.convert("L").convert(mode)
        image.putpixel((0, 0), 255)
        data = file_of(image)
    found = open_picture(data)
    assert found.mode == "RGB"
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = file_of(first, kind, save_all=True, append_images=[second], duration=50, lossless=True)
    assert open_picture(data).getpixel((0, 0)) == (255, 0, 0)


def test_what_fails_while_a_picture_is_open_is_a_file_error_with_its_cause():
    with (
        pytest.raises(FileError, match="damaged") as raised,
        opened(file_of(Image.new("L", (1, 1)))),
    ):
        raise ZeroDivisionError("odd")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
