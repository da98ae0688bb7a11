"""What a picture file says about its making: A1111's text for everyone, the capsule for us.

The capsule is the whole resolved request and what it ran on, as JSON. Pictures of A1111, Forge,
ComfyUI and InvokeAI are read too. Reading trusts nothing: sizes are bounded, and what can't be
read is said.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import RequestError
from core.images import comfy, formats, infotext, invoke
from core.images.formats import MAX_TEXT, Kind
from core.request import GenerationRequest, Json, as_json, read_json

if TYPE_CHECKING:
    from PIL import Image

    from core.registry import Registry

Maker = Literal["ours", "a1111", "comfyui", "invokeai", "none"]
"""Whose words a picture carries; Forge and SD.Next write A1111's."""


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
    hashes: Mapping[str, str] = field(default_factory=dict)
    """"vae:NAME", "lora:NAME", "embedding:NAME", "checkpoint:NAME" -> SHA-256, hexadecimal."""
    format: int = 1

    def to_json(self) -> str:
        """Pure ASCII; `from_json` is its inverse."""
        return json.dumps(as_json(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Capsule:
        """Raises RequestError for anything `to_json` would not write."""
        if len(text) > MAX_TEXT:
            raise RequestError(f"a capsule of {len(text):,} characters is too large")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the capsule is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise RequestError("the capsule is no JSON object")
        versions, hashes = (_texts(name, data.pop(name, {})) for name in ("versions", "hashes"))
        capsule = read_json(cls, data, "")
        if capsule.format != 1:
            raise RequestError(f"the capsule has format {capsule.format}; 1 is known here")
        return dataclasses.replace(capsule, versions=versions, hashes=hashes)


def _texts(name: str, data: Json) -> dict[str, str]:
    """A JSON object that holds nothing but texts."""
    if not isinstance(data, dict):
        raise RequestError(f"{name} must be a JSON object", name)
    for key, text in data.items():
        if not isinstance(text, str):
            raise RequestError(f"{name}.{key} must be text", name)
    return {key: str(text) for key, text in data.items()}


@dataclass(frozen=True)
class Found:
    """What a picture file said about its making."""

    parameters: str | None = None
    """A1111's text."""
    capsule: Capsule | None = None
    notes: tuple[str, ...] = ()
    """What was there and could not be read."""
    graph: comfy.Graph | None = None
    """ComfyUI's."""
    invoke: Mapping[str, Json] | None = None
    """InvokeAI's values."""
    width: int = field(default=0, compare=False)
    """Pixels of the file itself, before any EXIF rotation."""
    height: int = field(default=0, compare=False)

    @property
    def maker(self) -> Maker:
        if self.capsule is not None:
            return "ours"
        if self.parameters is not None:
            return "a1111"
        if self.graph is not None:
            return "comfyui"
        return "none" if self.invoke is None else "invokeai"

    def request(
        self, registry: Registry, checkpoints: Collection[str] | None = None
    ) -> tuple[GenerationRequest, list[str]] | None:
        """From the capsule if there is one, else A1111's text, ComfyUI's graph, InvokeAI's values.

        With sentences about what can't be honoured; see `infotext.request_from`. None: the file
        says nothing.
        """
        if self.capsule is not None:
            return self.capsule.request, list(self.notes)
        if self.parameters is not None:
            request, notes = infotext.request_from(self.parameters, registry, checkpoints)
        elif self.graph is not None:
            request, notes = comfy.request_from(self.graph, registry, checkpoints)
        elif self.invoke is not None:
            request, notes = invoke.request_from(self.invoke, registry, checkpoints)
        else:
            return None
        return request, [*self.notes, *notes]


@dataclass(frozen=True)
class Recipe:
    """What a picture was made with, for a person and for the form."""

    kind: Maker
    request: GenerationRequest | None
    text: str
    """The words as they stand in the file, fit to be shown; ComfyUI's as indented JSON."""
    sentences: tuple[str, ...] = ()
    """What can't be honoured or read, and why."""
    capsule: Capsule | None = None


def read_any(
    source: Path | str | bytes, registry: Registry, checkpoints: Collection[str] | None = None
) -> Recipe:
    """Whatever made the picture: what it says, and the request that comes nearest.

    Args:
        checkpoints: names there are; None: a model's name is taken as it stands.

    Raises:
        FileError: it is no PNG, JPEG or WebP picture, or damaged.
    """
    found = read_picture(source)
    try:
        made = found.request(registry, checkpoints)
    except RequestError as error:
        return Recipe(found.maker, None, _shown(found), (*found.notes, f"{error}."))
    if made is None:
        nothing = "The picture does not say how it was made."
        return Recipe("none", None, "", found.notes or (nothing,))
    request, notes = made
    return Recipe(found.maker, request, _shown(found), tuple(notes), found.capsule)


def _shown(found: Found) -> str:
    if found.parameters is not None:
        return found.parameters
    if found.capsule is not None:
        return json.dumps(found.capsule.request.to_json(), indent=2, ensure_ascii=False)
    if found.graph is not None:
        return found.graph.text
    return "" if found.invoke is None else json.dumps(found.invoke, indent=2, ensure_ascii=False)


def encoded(
    image: Image.Image,
    kind: Kind,
    parameters: str,
    capsule: Capsule | None = None,
    quality: int = 90,
    lossless: bool = False,
) -> bytes:
    """The picture as a file that carries its making; see `formats.encoded`."""
    sealed = None if capsule is None else capsule.to_json()
    return formats.encoded(image, kind, parameters, sealed, quality, lossless)


def read_picture(source: Path | str | bytes) -> Found:
    """What a PNG, JPEG or WebP file says; its pixels are not decoded.

    Raises:
        FileError: it is no such picture, or damaged.
    """
    words = formats.words(source)
    notes: list[str] = []
    capsule = graph = values = None
    if words.capsule is not None:
        try:
            capsule = Capsule.from_json(words.capsule)
        except RequestError as error:
            notes.append(f"Its capsule can't be read: {error}")
    if words.prompt is not None or words.workflow is not None:
        try:
            graph = comfy.read(words.prompt, words.workflow)
        except RequestError as error:
            notes.append(f"Its ComfyUI workflow can't be read: {error}")
    if words.invoke is not None:
        try:
            values = invoke.read(words.invoke)
        except RequestError as error:
            notes.append(f"What InvokeAI wrote can't be read: {error}")
    parameters = words.parameters
    return Found(parameters, capsule, tuple(notes), graph, values, words.width, words.height)
