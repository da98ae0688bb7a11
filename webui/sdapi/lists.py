"""What there is, in A1111's shapes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from core.images.resize import FILTERS
from core.models.catalog import Kind
from core.passes import LATENT_UPSCALERS
from core.text.styles import read_styles
from webui.sdapi.names import NO_UPSCALER, Names, title

Rows = list[dict[str, Any]]

WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
"""Numbers of an embedding's vectors, by what it was made for."""


def samplers(names: Names) -> Rows:
    return [
        {"name": entry.title, "aliases": [f"k_{entry.name}", entry.name], "options": {}}
        for entry in names.registry.samplers.values()
    ]


def schedulers(names: Names) -> Rows:
    automatic = {"name": "automatic", "label": "Automatic"}
    entries = names.registry.schedules.values()
    named = [automatic, *({"name": entry.name, "label": entry.title} for entry in entries)]
    return [{**one, "aliases": None, "default_rho": -1, "need_inner_model": False} for one in named]


def sd_models(names: Names) -> Rows:
    usable = {checkpoint.name for checkpoint in names.catalog.checkpoints()}
    return [
        {
            "title": title(file),
            "model_name": file.path.stem,
            "hash": file.hash[:10] if file.hash else None,
            "sha256": file.hash,
            "filename": names.shown(file.path),
            "config": None,
        }
        for file in names.catalog.files(Kind.CHECKPOINT)
        if file.name in usable
    ]


def sd_vae(names: Names) -> Rows:
    return [
        {"model_name": file.name, "filename": names.shown(file.path)}
        for file in names.catalog.files(Kind.VAE)
    ]


def upscalers(names: Names) -> Rows:
    plain = [(NO_UPSCALER, 4.0), *((name, 4.0) for name in FILTERS)]
    rows = [{"name": name, "model_path": None, "scale": scale} for name, scale in plain]
    rows += [
        {"name": file.name, "model_path": names.shown(file.path), "scale": 4.0}
        for file in names.catalog.files(Kind.UPSCALER)
    ]
    return [{"model_name": None, "model_url": None, **row} for row in rows]


def latent_upscale_modes(names: Names) -> Rows:
    return [{"name": name} for name in LATENT_UPSCALERS]


def hypernetworks(names: Names) -> Rows:
    files = names.catalog.files(Kind.HYPERNETWORK)
    return [{"name": file.name, "path": names.shown(file.path)} for file in files]


def realesrgan_models(names: Names) -> Rows:
    files = names.catalog.files(Kind.UPSCALER)
    return [{"name": file.name, "path": names.shown(file.path), "scale": 4} for file in files]


def loras(names: Names) -> Rows:
    return [
        {
            "name": file.name,
            "alias": file.facts.alias or file.name,
            "path": names.shown(file.path),
            "metadata": {"ss_output_name": file.facts.alias} if file.facts.alias else {},
        }
        for file in names.catalog.files(Kind.LORA)
    ]


def embeddings(names: Names) -> dict[str, Any]:
    """How many vectors each has is not read before it is used."""
    loaded = {
        file.name: {
            "step": None,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
            "shape": WIDTHS.get(file.facts.base),
            "vectors": None,
        }
        for file in names.catalog.files(Kind.EMBEDDING)
    }
    return {"loaded": loaded, "skipped": {}}


def prompt_styles(path: Path) -> Rows:
    return [
        {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
        for style in read_styles(path).all
    ]


def memory() -> dict[str, Any]:
    """Bytes of this process and of this machine; of a graphics card once torch is there."""
    import psutil

    whole = psutil.virtual_memory()
    used = psutil.Process().memory_info().rss
    ram = {"free": whole.available, "used": used, "total": whole.total}
    torch = sys.modules.get("torch")  # the engine's; the page has none of its own
    if torch is None or not torch.cuda.is_available():
        return {"ram": ram, "cuda": {"error": "unavailable"}}
    free, total = torch.cuda.mem_get_info()
    said = torch.cuda.memory_stats()
    sides = {
        name: {
            "current": said.get(f"{key}_bytes.all.current", 0),
            "peak": said.get(f"{key}_bytes.all.peak", 0),
        }
        for name, key in (
            ("active", "active"),
            ("allocated", "allocated"),
            ("reserved", "reserved"),
            ("inactive", "inactive_split"),
        )
    }
    events = {"retries": said.get("num_alloc_retries", 0), "oom": said.get("num_ooms", 0)}
    system = {"free": free, "used": total - free, "total": total}
    return {"ram": ram, "cuda": {"system": system, **sides, "events": events}}
