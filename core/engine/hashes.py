"""Hashes of the files beside the checkpoint that a request uses, for what is written with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.images.infotext import Hashes
from core.models.catalog import Catalog, Kind
from core.request import GenerationRequest
from core.text.prompt import lifted


def hashes_of(request: GenerationRequest, catalog: Catalog) -> Hashes:
    """Computed where they are not known yet, which for a large file takes seconds."""
    tagged = (*lifted(request.prompt).loras, *request.loras)
    loras = {use.name: catalog.file(Kind.LORA, use.name) for use in tagged}
    more = {part.checkpoint for part in (request.enlarge, request.refine) if part is not None}
    return Hashes(
        vae="".join(_whole(catalog, Kind.VAE, [request.vae] if request.vae else []).values()),
        loras={name: catalog.lora_hash(file) for name, file in loras.items()},
        lora_files=_whole(catalog, Kind.LORA, loras),
        checkpoints=_whole(catalog, Kind.CHECKPOINT, [name for name in more if name]),
    )


def _whole(catalog: Catalog, kind: Kind, names: Iterable[str]) -> Mapping[str, str]:
    """Name -> SHA-256 of the whole file."""
    return {name: catalog.hashed(catalog.file(kind, name).path, "file") for name in names}
