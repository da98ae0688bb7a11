"""Pictures put in are stored whole under the hash of their file, whatever they come as."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import FileError, RequestError
from core.images.inputs import MAX_BYTES, SPARED_SECONDS, Inputs
from core.images.pixels import MAX_SIDE
from tests.core.images.pictures import file_of, noise


def test_a_picture_comes_back_bit_for_bit_under_the_hash_of_its_file(tmp_path: Path) -> None:
    inputs, picture = Inputs(tmp_path / "inputs"), noise(9, 7)
    name = inputs.add(file_of(picture))
    assert hashlib.sha256(inputs.path(name).read_bytes()).hexdigest() == name
    found = inputs.open(name)
    assert (found.mode, found.size, found.tobytes()) == ("RGB", (9, 7), picture.tobytes())


def test_the_same_pixels_have_the_same_name_however_they_are_put_in(tmp_path: Path) -> None:
    inputs, picture = Inputs(tmp_path), noise(9, 7)
    name = inputs.add(picture)
    assert inputs.add(file_of(picture)) == name
    assert inputs.add(file_of(picture, "WEBP", lossless=True)) == name
    assert inputs.add(inputs.path(name).read_bytes()) == name
    assert inputs.add(inputs.open(name)) == name
    assert inputs.add(noise(9, 7, seed=1)) != name
    assert len(list(tmp_path.iterdir())) == 2


def test_what_else_a_file_says_is_not_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    picture = noise(8, 8)
    picture.info["comment"] = "where I live"
    data = file_of(picture, exif=exif, icc_profile=b"where I live")
    inputs = Inputs(tmp_path)
    assert b"where I live" not in inputs.path(inputs.add(data)).read_bytes()


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_picture_is_turned_as_its_exif_asks(tmp_path: Path, as_bytes: bool) -> None:
    picture = Image.new("RGB", (16, 8), "black")
    picture.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    data = file_of(picture, exif=exif)
    inputs = Inputs(tmp_path)
    given = data if as_bytes else Image.open(io.BytesIO(data), formats=("PNG",))
    found = inputs.open(inputs.add(given))
    assert found.size == (8, 16)
    assert found.getpixel((4, 2)) == (255, 255, 255) and found.getpixel((4, 14)) == (0, 0, 0)


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16"])
def test_odd_modes_become_the_colours_they_mean(tmp_path: Path, mode: str, as_bytes: bool) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    else:
        picture = Image.new("L", (2, 1))
        picture.putpixel((1, 0), 255)
        picture = picture.convert("RGB" if mode == "CMYK" else mode).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    given = file_of(picture, kind, **({"quality": 100} if kind == "JPEG" else {}))
    found = Inputs(tmp_path).open(Inputs(tmp_path).add(given if as_bytes else picture))
    assert found.mode == "RGB"
    levels = np.asarray(found).astype(int)
    assert np.abs(levels - [[[0] * 3, [255] * 3]]).max() <= (1 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_stays_so(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (2, 1), (40, 40, 40, 255))
    picture.putpixel((0, 0), (40, 40, 40, 0))
    inputs = Inputs(tmp_path)
    found = inputs.open(inputs.add(file_of(picture.convert(mode))))
    assert found.mode == "RGBA"
    assert [found.getpixel((x, 0))[3] for x in (0, 1)] == [0, 255]
    opaque = Image.new(mode if mode != "P" else "RGBA", (2, 1))
    opaque.putalpha(255)
    assert inputs.open(inputs.add(file_of(opaque))).mode == "RGB"


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], save_all=True, append_images=frames[1:], duration=50)
    inputs = Inputs(tmp_path)
    assert inputs.open(inputs.add(data)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_extreme_shapes_are_stored(tmp_path: Path, size: tuple[int, int]) -> None:
    inputs = Inputs(tmp_path)
    assert inputs.open(inputs.add(noise(*size))).size == size


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (b"", "not a PNG, JPEG or WebP"),
        (b"<html>", "not a PNG, JPEG or WebP"),
        (file_of(noise(40, 40))[:900], "damaged"),
        (bomb(1, 170_000_000), "too large"),
        (bomb(MAX_SIDE, MAX_SIDE), "too large"),
        (bytes(MAX_BYTES + 1), "64 MB is the limit"),
        (Image.new("L", (MAX_SIDE + 1, 1)), "too large"),
        (Image.new("RGB", (0, 5)), "no pixels"),
    ],
)
def test_what_can_not_be_stored_is_refused_and_leaves_nothing(
    tmp_path: Path, given: bytes | Image.Image, sentence: str
) -> None:
    inputs = Inputs(tmp_path / "inputs")
    with pytest.raises(FileError, match=sentence):
        inputs.add(given)
    assert not list(tmp_path.rglob("*.*"))


def test_a_disk_that_refuses_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(FileError, match="No space left"):
        Inputs(tmp_path).add(noise(4, 4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_name_that_is_no_hash_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="names no picture"):
        Inputs(tmp_path).path(name)
    with pytest.raises(RequestError, match="names no picture"):
        Inputs(tmp_path).open(name)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="abababab… is not among those"):
        Inputs(tmp_path / "never made").open("ab" * 32)


def test_only_old_pictures_that_nobody_uses_are_deleted(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    used, unused, fresh, again = (inputs.add(noise(4, 4, seed=n)) for n in range(4))
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ".7-ab.tmp").write_bytes(b"left by a crash")
    before = time.time() - SPARED_SECONDS - 60
    for path in tmp_path.iterdir():
        if path != inputs.path(fresh):
            os.utime(path, (before, before))
    inputs.add(noise(4, 4, seed=3))  # put in again: spared for another day
    assert inputs.collect([used]) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{name}.png" for name in (used, fresh, again)} | {"notes.txt"}
    with pytest.raises(RequestError, match=unused[:8]):
        inputs.open(unused)
    assert Inputs(tmp_path / "never made").collect([]) == 0
