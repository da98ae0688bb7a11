"""Hashes of the files beside the checkpoint that a request uses, for what is written with it."""

from __future__ import annotations

from core.images.infotext import Hashes
from core.models.catalog import Kind
from core.models.controlnets import old_mark
from core.passes import passes
from core.request import GenerationRequest
from core.run import House
from core.text.networks import wanted


def hashes_of(request: GenerationRequest, house: House) -> Hashes:
    """Computed where they are not known yet, which for a large file takes seconds."""
    catalog = house.catalog
    uses = [use for part in passes(request) for use in wanted(part.request).loras]
    loras = {use.name: catalog.file(Kind.LORA, use.name) for use in uses}
    more = {part.checkpoint for part in (request.enlarge, request.refine) if part is not None}
    vae = catalog.file(Kind.VAE, request.vae).path if request.vae else None
    return Hashes(
        vae="" if vae is None else catalog.hashed(vae, "file"),
        loras={name: catalog.lora_hash(file) for name, file in loras.items()},
        lora_files={name: catalog.hashed(file.path, "file") for name, file in loras.items()},
        embeddings={
            file.embedding.name: catalog.hashed(file.path, "file")
            for file in house.store.adapting.named(request)
        },
        checkpoints={
            name: catalog.hashed(catalog.checkpoint(name).path, "file") for name in more if name
        },
        guides={
            use.model: old_mark(catalog.file(Kind.CONTROLNET, use.model).path)
            for use in request.controls
        },
    )
