"""How long loading takes and how much memory, beside diffusers' `from_single_file`.

A file of SD 1.5's size and names, in float16, is made in a temporary folder. Each load has a
process of its own, with imports done and the file in the disk's cache; ours and theirs take turns.

  .venv/bin/python -m tests.benchmarks.load [--rounds 5] [--dtype float32] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

WHO = ("ours", "ours, hashed as well", "diffusers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--one", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.root, options.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        runs: dict[str, list[dict[str, float]]] = {who: [] for who in WHO}
        for n in range(options.rounds + 1):
            for who in WHO:
                run = in_own_process(who, root, options)
                if n:  # the first round warms the disk's cache
                    runs[who].append(run)
        report(runs)


def in_own_process(who: str, root: Path, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.load", "--one", who]
    command += ["--root", str(root), "--dtype", options.dtype]
    threads = {"OMP_NUM_THREADS": options.threads, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    """Medians, and ratios of ours to theirs round by round."""
    for who, values in runs.items():
        middle = {key: median(value[key] for value in values) for key in values[0]}
        print(
            f"{who:22} {middle['seconds']:6.2f} s, {middle['cpu']:6.2f} s of CPU, "
            f"peak {middle['peak']:.3f} × the weights"
        )
    for who in WHO[:2]:
        pairs = list(zip(runs[who], runs["diffusers"], strict=True))
        for key in ("seconds", "cpu", "peak"):
            ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
            shown = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{who} : diffusers, {key}: {shown}")


# --- one load ------------------------------------------------------------------------------------


def measured(who: str, root: Path, dtype: str) -> dict[str, float]:
    load = diffusers_load if who == "diffusers" else our_load(who)
    go, weights = load(root, dtype)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    kept = go()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = memory("VmHWM") - before
    return {"seconds": seconds, "cpu": cpu, "peak": peak / weights(kept)}


def memory(what: str) -> int:
    """Bytes, as Linux counts them of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(what + ":"))
    return int(line.split()[1]) * 1024


def our_load(who: str) -> Any:
    def prepared(root: Path, dtype: str) -> Any:
        from dataclasses import replace

        import torch
        from transformers import CLIPTextModel  # noqa: F401

        from core.engine.answers import exhausted
        from core.models.catalog import Catalog
        from core.models.store import Store
        from core.settings import default_settings

        settings = replace(default_settings(root), precision=dtype, vae_precision=dtype)
        if who != WHO[1]:  # the hash is known from an earlier time
            catalog = Catalog(settings)
            catalog.hashed(root / "models/Stable-diffusion/full.safetensors")
        else:
            (settings.data_dir / "catalog.sqlite3").unlink(missing_ok=True)
            catalog = Catalog(settings)
        store = Store(settings, catalog)
        torch.zeros(1)
        return lambda: exhausted(store.loaded("full")), lambda model: bytes_of(
            model.network, model.vae, model.text
        )

    return prepared


def diffusers_load(root: Path, dtype: str) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel  # noqa: F401

    def go() -> Any:
        return StableDiffusionPipeline.from_single_file(
            str(root / "models/Stable-diffusion/full.safetensors"),
            config=str(root / "config"),
            torch_dtype=getattr(torch, dtype),
            safety_checker=None,
            local_files_only=True,
        )

    return go, lambda pipe: bytes_of(pipe.unet, pipe.vae, pipe.text_encoder)


def bytes_of(*modules: Any) -> int:
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


# --- what is loaded ------------------------------------------------------------------------------


def prepare(root: Path) -> None:
    """The file, and the configuration that diffusers would otherwise fetch."""
    from tests.core.models.test_full_size import write_full_size

    write_full_size(root / "models/Stable-diffusion/full.safetensors", "sd15-fp16-pruned")
    write_config(root / "config")


def write_config(folder: Path) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from tokenizers import Tokenizer, models
    from transformers import CLIPTextConfig, PreTrainedTokenizerFast

    folder.mkdir()
    unet = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
    widths = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    import torch

    with torch.device("meta"):
        UNet2DConditionModel(**unet).save_config(folder / "unet")
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=512,
            **widths,
        ).save_config(folder / "vae")
    DDIMScheduler().save_config(folder / "scheduler")
    CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ).save_pretrained(folder / "text_encoder")
    words = Tokenizer(models.BPE({"<|endoftext|>": 0}, []))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
