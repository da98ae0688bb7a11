"""A file of 2 GB into memory: SD 1.5's whole fp16 file to float32, by our store and by diffusers.

`python -m tests.benchmarks.loading [--rounds N] [--json FILE]`. All code is imported before, and
the file is in the system's cache; what is timed is the reading alone, each time in a new process.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from core.engine.answers import exhausted
from core.models.catalog import Catalog
from core.models.hashing import Hashing
from core.models.store import Store
from tests.benchmarks.harness import (
    COMFYUI,
    OURS,
    ROOT,
    THEIRS,
    Asked,
    Program,
    Row,
    children_alternated,
    programs,
    reading,
    seconds,
    unit,
)
from tests.benchmarks.models import settings_for, written

HASHED, LATER = "with its hash", "later"
VOCABULARY = ROOT / "core" / "text" / "vocab"


def rows(asked: Asked) -> Iterator[Row]:
    """First loads: nothing is known of the file. Then later ones, in a new process as well."""
    given = {"file": str(written(asked.folder)), "folder": str(asked.folder)}
    chosen = programs(asked, "loading:our_first", "loading:theirs", "comfyui:loading", **given)
    for name, function in ((HASHED, "our_hashed"), (LATER, "our_later")):
        chosen[name] = Program(f"loading:{function}", given)
    for threads in asked.threads:
        found = children_alternated(chosen, asked.rounds, threads)
        theirs = found.get(THEIRS, [])
        for name, what, most in (
            (OURS, "first load, until it can paint", 0.8),
            (HASHED, "the same, until its SHA-256 is known too", None),
            (LATER, "later load", 0.8),
        ):
            for clock in (1, 2):  # both clocks
                yield Row(
                    what,
                    seconds(found[name], clock),
                    seconds(theirs, clock),
                    unit(clock),
                    threads,
                    most,
                    more={"found": found[name], THEIRS: theirs},
                    is_ratio=True,
                )
        if COMFYUI in found:
            yield Row(
                "first load, until it can paint",
                seconds(found[OURS], threads),
                seconds(found[COMFYUI], threads),
                unit(threads),
                threads,
                more={"found": found[COMFYUI]},
                other=COMFYUI,
            )
        peaks = [one["peak"] for one in found[OURS]]
        yield Row(
            "peak memory of a first load", peaks, unit="× weights", threads=threads, most=1.1,
            note="" if not theirs else f"diffusers {max(one['peak'] for one in theirs):.2f}",
        )  # fmt: skip


def our_first(file: str, folder: str) -> dict[str, float]:
    """In a child: from the name of a file that was never seen to its networks."""
    return _ours(file, folder)


def our_hashed(file: str, folder: str) -> dict[str, float]:
    """In a child: the same, and then the rest of its hash, for which a run does not wait."""
    return _ours(file, folder, hashed=True)


def our_later(file: str, folder: str) -> dict[str, float]:
    """In a child: the file's header and hash are known from before."""
    return _ours(file, folder, known=True)


def _ours(file: str, folder: str, hashed: bool = False, known: bool = False) -> dict[str, float]:
    from transformers import CLIPTextConfig, CLIPTextModel

    assert CLIPTextConfig and CLIPTextModel
    with tempfile.TemporaryDirectory() as data:
        settings = replace(settings_for(Path(file), Path(folder)), data_dir=Path(data))
        name = str(settings.checkpoint)
        if known:
            before = Catalog(settings)
            before.hashed(before.checkpoint(name).path)

        def load() -> tuple[nn.Module, ...]:
            catalog = Catalog(settings)
            with Hashing(catalog) as hashing:
                model = exhausted(Store(settings, catalog).loaded(name))
                if hashed:
                    hashing.of(model)
                    exhausted(hashing.rest())
            return model.network, model.vae, model.text

        return reading(Path(file), load)


def theirs(file: str, folder: str) -> dict[str, float]:
    """In a child: diffusers' pipeline, its configuration in a folder of its own: no network."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    assert CLIPTextConfig and CLIPTextModel and AutoencoderKL and UNet2DConditionModel
    config = _configuration(Path(folder) / "sd15-configuration")

    def load() -> tuple[nn.Module, ...]:
        pipeline: Any = StableDiffusionPipeline.from_single_file(
            file,
            config=str(config),
            torch_dtype=torch.float32,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
        )
        return pipeline.unet, pipeline.vae, pipeline.text_encoder

    return reading(Path(file), load)


def _configuration(folder: Path) -> Path:
    """SD 1.5's numbers as diffusers wants them beside a single file."""
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from core.nn.unet import UNetConfig
    from core.nn.vae import VAEConfig
    from tests.core.nn.test_parity import diffusers_unet, diffusers_vae

    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        unet, vae = diffusers_unet(UNetConfig()), diffusers_vae(VAEConfig())
        encoder = CLIPTextModel(text)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    tokenizer = CLIPTokenizer(str(VOCABULARY / "vocab.json"), str(VOCABULARY / "merges.txt"))
    pipeline: Any = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for name, part in (("unet", unet), ("vae", vae), ("scheduler", scheduler)):
        part.save_config(folder / name)
    text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.save_config(folder)
    return folder


if __name__ == "__main__":
    from tests.benchmarks.__main__ import main

    sys.exit(main(["loading", *sys.argv[1:]]))
