"""Where picture files keep their words: PNG's text chunks, EXIF and XMP in JPEG and WebP.

It knows the places and trusts nothing found there; what the words mean is other modules' business.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import FileError
from core.images.pixels import in_rgb, opened

Kind = Literal["PNG", "JPEG", "WEBP"]

PARAMETERS = "parameters"
"""A1111's key."""
CAPSULE = "vitrine"
PROMPT, WORKFLOW = "prompt", "workflow"
"""ComfyUI's keys: the graph that ran, and the one that was drawn."""
INVOKE = "invokeai_metadata"

MAX_TEXT = 1_000_000
"""Characters. Pillow's own limit on an unfolded chunk, MAX_TEXT_CHUNK, is about as high."""
PNG_LEVEL = 4
"""Of zlib: half the time of the usual 6 for files no larger (512² in 40 ms)."""
MAX_SEGMENT = 65_000
"""Bytes of one JPEG segment, its head aside."""

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
MAKE, IMAGE_DESCRIPTION, MODEL = 0x010F, 0x010E, 0x0110
"""ComfyUI writes "prompt:{…}" and "workflow:{…}" into EXIF's first texts, downwards from MODEL."""


@dataclass(frozen=True)
class Words:
    """What a picture file holds beside its pixels."""

    width: int
    height: int
    format: str
    parameters: str | None = None
    """A1111's text."""
    capsule: str | None = None
    """Our JSON."""
    prompt: str | None = None
    """ComfyUI's graph as it ran: JSON."""
    workflow: str | None = None
    """ComfyUI's graph as it was drawn: JSON."""
    invoke: str | None = None
    """InvokeAI's JSON."""


def encoded(
    image: Image.Image,
    kind: Kind,
    parameters: str,
    capsule: str | None = None,
    quality: int = 90,
    lossless: bool = False,
) -> bytes:
    """The picture as a file that carries its making.

    PNG: A1111's text in `parameters`, the capsule in `iTXt`. JPEG and WebP: A1111's text as EXIF's
    UserComment, the capsule packed into XMP.

    Args:
        quality: 1 to 100, of JPEG and WebP.
        lossless: of WebP alone.

    Raises:
        FileError: text or capsule do not fit into a JPEG (64 KB each).
    """
    stream = io.BytesIO()
    if kind == "PNG":
        texts = _texts(parameters, capsule)
        image.save(stream, "PNG", pnginfo=texts, compress_level=PNG_LEVEL)
        return stream.getvalue()
    if kind == "JPEG" and image.mode not in ("RGB", "L"):
        image = in_rgb(image)
    exif = _exif(parameters)
    packet = b"" if capsule is None else _packet(capsule)
    if kind == "JPEG" and max(len(exif.tobytes()), len(packet)) > MAX_SEGMENT:
        raise FileError("the prompt is too long to be stored in a JPEG picture")
    options: dict[str, Any] = {"quality": quality, "exif": exif}
    if packet:
        options["xmp"] = packet
    if kind == "WEBP":
        options["lossless"] = lossless
    try:
        image.save(stream, kind, **options)
    except ValueError as error:
        raise FileError(f"the picture can't be written as {kind}: {error}") from error
    return stream.getvalue()


def words(source: Path | str | bytes) -> Words:
    """What a PNG, JPEG or WebP file says; its pixels are not decoded.

    Raises:
        FileError: it is no such picture, or damaged.
    """
    with opened(source) as picture:
        found = {
            name: picture.info.get(key)
            for name, key in (
                ("parameters", PARAMETERS),
                ("capsule", CAPSULE),
                ("prompt", PROMPT),
                ("workflow", WORKFLOW),
                ("invoke", INVOKE),
            )
        }
        # Pillow decodes a whole PNG to look for EXIF behind the pixels; there the texts suffice.
        if picture.format != "PNG":
            found = _exif_words(picture)
        width, height = picture.size
        known = {name: text for name, text in found.items() if isinstance(text, str)}
        return Words(width, height, str(picture.format), **known)


def _exif_words(picture: Image.Image) -> dict[str, str | None]:
    exif = picture.getexif()
    found = {
        "parameters": _user_comment(exif.get_ifd(EXIF_IFD).get(USER_COMMENT)),
        "capsule": _unpacked(picture.info.get("xmp")),
    }
    for tag in (MODEL, MAKE, IMAGE_DESCRIPTION):
        text = exif.get(tag)
        key, colon, value = text.partition(":") if isinstance(text, str) else ("", "", "")
        key = key.strip().lower()
        if colon and key in (PROMPT, WORKFLOW):
            found.setdefault(key, value.strip().rstrip("\0"))
    return found


def _texts(parameters: str, capsule: str | None) -> PngInfo:
    texts = PngInfo()
    # `add_text` takes Latin-1 for the old chunk and UTF-8 for the new one, as A1111 does.
    texts.add_text(PARAMETERS, parameters.encode("utf-8", "replace").decode())
    if capsule is not None:
        texts.add_itxt(CAPSULE, capsule, zip=True)
    return texts


def _exif(parameters: str) -> Image.Exif:
    """EXIF with A1111's text as UserComment: an eight-byte code, then UTF-16, high byte first."""
    exif = Image.Exif()
    comment = b"UNICODE\0" + parameters.encode("utf-16-be", "replace")
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return exif


def _user_comment(comment: Any) -> str | None:
    if isinstance(comment, str):
        return comment or None
    if not isinstance(comment, bytes):
        return None
    code, text = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        # The standard leaves the order of bytes open; the high one first is A1111's.
        high, low = (text.decode(f"utf-16-{order}", "replace") for order in ("be", "le"))
        return low if "Steps: " in low and "Steps: " not in high else high
    return text.decode("utf-8", "replace") if code == b"ASCII\0\0\0" else None


_HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:vitrine="urn:vitrine:1"><vitrine:capsule>'
)
_TAIL = '</vitrine:capsule></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'


def _packet(capsule: str) -> bytes:
    """An XMP packet; zlib and base64 keep the JSON small and whole whoever writes the XML anew."""
    packed = base64.b64encode(zlib.compress(capsule.encode(), 9)).decode()
    return f"{_HEAD}{packed}{_TAIL}".encode()


# An element, or what tools that tidy XMP make of it: an attribute.
_CAPSULE = re.compile(rb'vitrine:capsule\s*(?:>|="|=\')\s*([A-Za-z0-9+/=]{4,2000000})')


def _unpacked(packet: Any) -> str | None:
    """The capsule's JSON; never unfolds more than MAX_TEXT. What is damaged is not there."""
    if not isinstance(packet, bytes) or (match := _CAPSULE.search(packet)) is None:
        return None
    try:
        unfolded = zlib.decompressobj().decompress(base64.b64decode(match[1]), MAX_TEXT + 1)
        return unfolded.decode()
    except (binascii.Error, zlib.error, UnicodeDecodeError):
        return "damaged"
