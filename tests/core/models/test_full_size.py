"""A file of SD 1.5's real size and names, with random weights, from disk to picture."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from core.engine.answers import exhausted
from core.events import Finished, ImageDone, Step
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import Settings
from tests.core.models.test_manifests import manifest

DTYPES = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64, "I32": torch.int32}


def write_full_size(path: Path, name: str) -> None:
    """Every tensor of a manifest: small random matrices, ones for norms, so nothing overflows."""
    path.parent.mkdir(parents=True)
    tensors = {}
    for key, (shape, dtype) in manifest(name).items():
        if dtype.startswith("I"):
            tensors[key] = torch.zeros(shape, dtype=DTYPES[dtype])
        elif len(shape) < 2:
            value = 1.0 if key.endswith(".weight") else 0.0
            tensors[key] = torch.full(shape, value, dtype=torch.float16)
        else:
            spread = 1 / tensors_fan(shape) ** 0.5
            tensors[key] = (torch.randn(shape) * spread).half()
    save_file(tensors, path)


def tensors_fan(shape: list[int]) -> int:
    return int(torch.Size(shape[1:]).numel())


@pytest.mark.slow
def test_a_full_size_sd15_file_loads_and_paints(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    write_full_size(settings.models_dir / "Stable-diffusion/full.safetensors", "sd15-fp16-pruned")
    catalog = Catalog(settings)
    house = House(built_in(), catalog, Store(settings, catalog))
    began = time.perf_counter()
    model = exhausted(house.store.loaded("full"))
    seconds = time.perf_counter() - began
    assert model.network.config.channels == 320
    asked = GenerationRequest(prompt="a fox", seed=1, steps=2, width=256, height=256)
    events = list(generate(asked, house))
    (done,) = [e for e in events if isinstance(e, ImageDone)]
    assert done.image.size == (256, 256)
    steps = [e.seconds for e in events if isinstance(e, Step)]
    assert isinstance(events[-1], Finished)
    with capsys.disabled():
        peak = psutil.Process().memory_info().rss / 1e9
        print(f"\nloaded in {seconds:.1f} s, a step took {steps[-1]:.1f} s, {peak:.1f} GB resident")
