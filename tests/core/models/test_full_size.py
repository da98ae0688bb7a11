"""One file of real size of each family, with random weights, from disk to picture.

Each is loaded in a process of its own, whose memory is its own to measure.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from core.engine.answers import exhausted
from core.events import Finished, ImageDone, Step
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.models.family import UNET, VAE
from core.models.files import read_header
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest
from core.sampling.prediction import Predictor
from core.settings import Precision, Settings, default_settings
from core.text.prompt import Counting
from tests.core.models.test_manifests import NOT_READ
from tests.full_size import write_full_size
from tests.tiny import write_sd1

NORMAL = 14.6146
"""The highest noise level of the usual schedule; see `core.sampling.schedule`."""
ZERO_SNR = 4518.76


@dataclass(frozen=True)
class Full:
    """A family, and what must be found out about it from the file alone."""

    manifest: str
    stored: str
    """Number format in the file."""
    precision: Precision
    """What it is loaded in."""
    family: str
    kind: str
    prediction: str
    context: int
    vector: int | None = None
    channels: int = 320
    sigma_max: float = NORMAL


FILES = [
    Full("sd15", "F32", "float32", "sd1", "plain", "eps", 768),
    Full("sd15-fp16-pruned", "F16", "float16", "sd1", "plain", "eps", 768),
    Full("sd15-with-ema", "F16", "float16", "sd1", "plain", "eps", 768),
    Full("sd15-inpaint", "F16", "float16", "sd1", "inpainting", "eps", 768),
    Full("sd21-base", "F16", "float16", "sd2", "plain", "eps", 1024),
    Full("sd21-v", "BF16", "bfloat16", "sd2", "plain", "v", 1024),
    Full("sd2-inpaint", "F16", "float16", "sd2", "inpainting", "eps", 1024),
    Full("sd2-depth", "F16", "float16", "sd2", "depth", "eps", 1024),
    Full("sdxl-base", "BF16", "bfloat16", "sdxl", "plain", "eps", 2048, 2816),
    Full("sdxl-inpaint", "BF16", "bfloat16", "sdxl", "inpainting", "eps", 2048, 2816),
    Full("sdxl-vpred", "BF16", "bfloat16", "sdxl", "plain", "v", 2048, 2816, sigma_max=ZERO_SNR),
    Full("sdxl-refiner", "BF16", "bfloat16", "sdxl-refiner", "plain", "eps", 1280, 2560, 384),
]


@dataclass(frozen=True)
class Found:
    """What a process of its own saw of a file."""

    family: str
    kind: str
    prediction: str
    context: int
    vector: int | None
    channels: int
    sigma_max: float
    dtypes: frozenset[str]
    unexplained: tuple[str, ...]
    differing: tuple[str, ...]
    """Tensors of U-Net and VAE that are not the file's, bit for bit."""
    weights: int
    """Bytes, as they lie in memory."""
    peak: int
    """Bytes that were resident while it loaded, above what the program itself takes."""
    seconds: float
    answer: tuple[int, ...] = ()
    """Shape of what one call of the U-Net, of noise at the highest level, comes to."""
    spread: float = math.nan
    """Its standard deviation; NaN or infinite where one of its numbers is."""


@pytest.mark.slow
@pytest.mark.parametrize("full", FILES, ids=lambda full: full.manifest)
def test_a_full_size_file_loads_whole_and_answers(
    full: Full, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "models/Stable-diffusion/full.safetensors"
    size = write_full_size(path, full.manifest, full.stored)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        found = alone.submit(_found, root, full.precision).result()
    with capsys.disabled():
        print(
            f"\n{full.manifest}: {size / 1e9:.2f} GB on disk, loaded in {found.seconds:.1f} s, at "
            f"most {found.peak / 1e9:.2f} GB, {found.peak / found.weights:.3f} × its weights"
        )
    for name in ("family", "kind", "prediction", "context", "vector", "channels"):
        assert getattr(found, name) == getattr(full, name)
    assert found.sigma_max == pytest.approx(full.sigma_max, rel=1e-4)
    assert found.dtypes == {full.precision}
    assert not found.unexplained
    assert not found.differing
    assert found.peak < 1.15 * found.weights
    assert found.answer == (1, 4, 8, 8)
    assert 0.01 < found.spread < 100 * full.sigma_max


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A house whose models leave the disk with the test: pytest keeps folders for a while."""
    yield tmp_path
    for path in tmp_path.rglob("full.safetensors"):
        path.unlink()


def _found(root: Path, precision: Precision) -> Found:
    """Loads the file and paints one step; for a process of its own."""
    settings = replace(default_settings(root), precision=precision, vae_precision=precision)
    write_sd1(settings.models_dir / "Stable-diffusion/tiny.safetensors")
    catalog = Catalog(settings)
    house = House(built_in(), catalog, Store(settings, catalog))
    exhausted(Store(settings, catalog).loaded("tiny"))  # all code that is imported late is there
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.perf_counter()
    model = exhausted(house.store.loaded("full"))
    seconds = time.perf_counter() - began
    peak = _resident("VmHWM") - before
    parts = (model.network, model.vae, model.text)
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    path = root / "models/Stable-diffusion/full.safetensors"
    config = model.network.config
    found = Found(
        family=model.family.name,
        kind=model.kind,
        prediction=model.prediction,
        context=config.context,
        vector=config.vector,
        channels=config.channels,
        sigma_max=model.schedule.sigma_max,
        dtypes=frozenset(
            str(t.dtype).removeprefix("torch.") for part in parts for t in part.parameters()
        ),
        unexplained=_unexplained(model, path),
        differing=_differing(model, path),
        weights=sum(t.numel() * t.element_size() for t in tensors),
        peak=peak,
        seconds=seconds,
    )
    answer = _answer(model)
    return replace(found, answer=tuple(answer.shape), spread=float(answer.std()))


@torch.inference_mode()
def _answer(model: Checkpoint) -> Tensor:
    """What the U-Net makes of noise (1 4 8 8) and a prompt; in bfloat16, as a CPU has no float16
    worth the name."""
    if model.dtype is torch.float16:
        for part in (model.network, model.vae, model.text):
            part.bfloat16()
        model = replace(model, dtype=torch.bfloat16, vae_dtype=torch.bfloat16)
    asked = GenerationRequest(prompt="a fox", width=64, height=64, steps=1)
    positive, _ = model.prompts(asked, Counting(1, (0,)))
    ((conditioning, _),) = positive.at(0)
    predict = Predictor(model.network, model.prediction, model.schedule, model.dtype)
    sigma = torch.tensor(model.schedule.sigma_max)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return predict(noise * sigma, sigma, conditioning)


def _unexplained(model: Checkpoint, path: Path) -> tuple[str, ...]:
    """Tensors of the file that are neither in the model nor known not to be read."""
    header = read_header(path)
    explained = {UNET + name for name in model.network.state_dict()}
    explained |= {VAE + name for name in model.vae.state_dict()}
    texts = tuple(str(part.prefix(header)) for part in model.family.text)
    return tuple(
        name
        for name, info in header.tensors.items()
        if name not in explained
        and not name.startswith(texts)  # where loading itself refuses what it does not know
        and not NOT_READ.match(name)
        and info.shape != (1000,)  # the schedule, which is computed
    )


def _differing(model: Checkpoint, path: Path) -> tuple[str, ...]:
    with safe_open(path, "pt") as file:
        return tuple(
            name
            for prefix, part in ((UNET, model.network), (VAE, model.vae))
            for name, tensor in part.state_dict().items()
            if not torch.equal(tensor, file.get_tensor(prefix + name).reshape(tensor.shape))
        )


def _resident(field: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if field in line]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_a_full_size_sd15_file_loads_and_paints(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings.models_dir / "Stable-diffusion/full.safetensors"
    write_full_size(path, "sd15-fp16-pruned")
    catalog = Catalog(settings)
    house = House(built_in(), catalog, Store(settings, catalog))
    asked = GenerationRequest(prompt="a fox", seed=1, steps=2, width=256, height=256)
    began = time.perf_counter()
    events = list(generate(asked, house))
    seconds = time.perf_counter() - began
    path.unlink()
    (done,) = [e for e in events if isinstance(e, ImageDone)]
    assert done.image.size == (256, 256)
    steps = [e.seconds for e in events if isinstance(e, Step)]
    assert isinstance(events[-1], Finished)
    with capsys.disabled():
        peak = events[-1].peak_bytes / 1e9
        print(f"\nall in {seconds:.1f} s, a step took {steps[-1]:.1f} s, {peak:.1f} GB resident")
