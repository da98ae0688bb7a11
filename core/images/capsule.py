"""What a picture file says about its making: A1111's text for everyone, the capsule for us.

The capsule is the whole resolved request and what it ran on, as JSON, in a PNG's `iTXt` chunk.
Reading trusts nothing: sizes are bounded, and what can't be read is said.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import FileError, RequestError
from core.images import infotext
from core.images.pixels import opened
from core.request import GenerationRequest, Json, as_json, read_json

if TYPE_CHECKING:
    from core.registry import Registry

PARAMETERS = "parameters"
"""A1111's key."""

CAPSULE = "vitrine"

MAX_CAPSULE = 1_000_000
"""Characters of JSON. Pillow's own limit on an unfolded chunk, MAX_TEXT_CHUNK, is about as high."""

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286


@dataclass(frozen=True, kw_only=True)
class Capsule:
    """A picture's recipe: run `request` on the same checkpoint and machine for the same pixels."""

    request: GenerationRequest
    """One image, its own seed, nothing left to default."""
    checkpoint: str
    fingerprint: str
    """SHA-256 of the checkpoint's weights, hexadecimal."""
    family: str
    device: str
    dtype: str
    finished: bool = True
    sigmas: tuple[float, ...] = ()
    """The noise levels of the walk, the last one 0."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Program or library -> version."""
    format: int = 1

    def to_json(self) -> str:
        """Pure ASCII; `from_json` is its inverse."""
        return json.dumps(as_json(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Capsule:
        """Raises RequestError for anything `to_json` would not write."""
        if len(text) > MAX_CAPSULE:
            raise RequestError(f"a capsule of {len(text):,} characters is too large")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the capsule is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise RequestError("the capsule is no JSON object")
        versions = _versions(data.pop("versions", {}))
        capsule = read_json(cls, data, "")
        if capsule.format != 1:
            raise RequestError(f"the capsule has format {capsule.format}; 1 is known here")
        return dataclasses.replace(capsule, versions=versions)


def _versions(data: Json) -> dict[str, str]:
    if not isinstance(data, dict):
        raise RequestError("versions must be a JSON object", "versions")
    for name, version in data.items():
        if not isinstance(version, str):
            raise RequestError(f"versions.{name} must be text", "versions")
    return {name: str(version) for name, version in data.items()}


@dataclass(frozen=True)
class Found:
    """What a picture file said about its making."""

    parameters: str | None = None
    """A1111's text."""
    capsule: Capsule | None = None
    notes: tuple[str, ...] = ()
    """What was there and could not be read."""

    def request(
        self, registry: Registry, checkpoints: Collection[str] | None = None
    ) -> tuple[GenerationRequest, list[str]] | None:
        """From the capsule if there is one, else from the text; None: the file says nothing.

        With sentences about what can't be honoured; see `infotext.request_from`.
        """
        if self.capsule is not None:
            return self.capsule.request, list(self.notes)
        if self.parameters is None:
            return None
        request, notes = infotext.request_from(self.parameters, registry, checkpoints)
        return request, [*self.notes, *notes]


def encoded(
    image: Image.Image,
    kind: Literal["PNG", "JPEG", "WEBP"],
    parameters: str,
    capsule: Capsule | None = None,
    quality: int = 90,
) -> bytes:
    """The picture as a file that carries its making; a capsule only in PNG.

    Raises:
        FileError: the text does not fit into a JPEG (64 KB).
    """
    stream = io.BytesIO()
    if kind == "PNG":
        image.save(stream, "PNG", pnginfo=_texts(parameters, capsule))
        return stream.getvalue()
    try:
        image.save(stream, kind, quality=quality, exif=_exif(parameters))
    except ValueError as error:
        raise FileError(f"the prompt is too long to be stored in a {kind} picture") from error
    return stream.getvalue()


def read_picture(source: Path | str | bytes) -> Found:
    """What a PNG, JPEG or WebP file says; its pixels are not decoded.

    Raises:
        FileError: it is no such picture, or damaged.
    """
    with opened(source) as picture:
        parameters = picture.info.get(PARAMETERS)
        # Pillow decodes a whole PNG to look for EXIF behind the pixels; there the text suffices.
        if not isinstance(parameters, str):
            parameters = None
        if parameters is None and picture.format != "PNG":
            parameters = _user_comment(picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT))
        sealed = picture.info.get(CAPSULE)
    if not isinstance(sealed, str):
        return Found(parameters)
    try:
        return Found(parameters, Capsule.from_json(sealed))
    except RequestError as error:
        return Found(parameters, None, (f"Its capsule can't be read: {error}",))


def _texts(parameters: str, capsule: Capsule | None) -> PngInfo:
    texts = PngInfo()
    # `add_text` takes Latin-1 for the old chunk and UTF-8 for the new one, as A1111 does.
    texts.add_text(PARAMETERS, parameters.encode("utf-8", "replace").decode())
    if capsule is not None:
        texts.add_itxt(CAPSULE, capsule.to_json(), zip=True)
    return texts


def _exif(parameters: str) -> Image.Exif:
    """EXIF with A1111's text as UserComment: an eight-byte code, then UTF-16, high byte first."""
    exif = Image.Exif()
    comment = b"UNICODE\0" + parameters.encode("utf-16-be", "replace")
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return exif


def _user_comment(comment: Any) -> str | None:
    if not isinstance(comment, bytes):
        return None
    code, text = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        return text.decode("utf-16-be", "replace")
    return text.decode("utf-8", "replace") if code == b"ASCII\0\0\0" else None
