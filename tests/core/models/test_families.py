"""Each family from file to picture on tiny models, and what its U-Net is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import FileError
from core.events import ImageDone
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.models.store import Store
from core.nn.blocks import timestep_embedding
from core.registry import built_in
from core.request import GenerationRequest
from core.sampling.prediction import Prediction
from core.settings import default_settings
from core.text.prompt import Counting
from tests.tiny import WIDTH, checkpoint_tensors, write_checkpoint

FILES = [
    ("sd1", 4),
    ("sd1", 9),
    ("sd2", 4),
    ("sd2", 9),
    ("sd2", 5),
    ("sdxl", 4),
    ("sdxl", 9),
    ("sdxl-refiner", 4),
]
ASKED = GenerationRequest(
    prompt="an apple", checkpoint="tiny", seed=7, steps=2, width=64, height=32
)
TWO_STEPS = Counting(2, (0, 1))
MARK = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def house_of(root: Path, tensors: dict[str, torch.Tensor]) -> House:
    write_checkpoint(root / "models/Stable-diffusion/tiny.safetensors", tensors)
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(built_in(), catalog, Store(settings, catalog))


def loaded(house: House) -> Checkpoint:
    steps = house.store.loaded("tiny")
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize(("family", "channels"), FILES)
def test_every_family_paints(family: str, channels: int, tmp_path: Path) -> None:
    house = house_of(tmp_path, checkpoint_tensors(family, channels))
    assert house.catalog.checkpoint("tiny").family.name == family
    (done,) = [e for e in generate(ASKED, house) if isinstance(e, ImageDone)]
    assert done.image.size == (64, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_of_half_precision_is_computed_in_float32_on_a_cpu(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = checkpoint_tensors("sd1")
    halves = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    model = loaded(house_of(tmp_path, halves))
    assert model.dtype == torch.float32
    weight = model.network.state_dict()["out.2.weight"]
    assert torch.equal(weight, halves["model.diffusion_model.out.2.weight"].float())


def test_xl_is_told_pooled_text_and_sizes_height_first(tmp_path: Path) -> None:
    model = loaded(house_of(tmp_path, checkpoint_tensors("sdxl")))
    positive, negative = model.prompts(replace(ASKED, negative_prompt="blue"), TWO_STEPS)
    for prompt in (positive, negative):
        ((told, _),) = prompt.at(0)
        assert told.context.shape == (1, 77, 2 * WIDTH)
        numbers = torch.tensor([32.0, 64.0, 0.0, 0.0, 32.0, 64.0])
        assert torch.equal(told.pooled[0, WIDTH:], timestep_embedding(numbers, 256).flatten())
        assert told.pooled[0, :WIDTH].abs().sum() > 0


def test_xls_empty_negative_is_zero_but_for_the_sizes(tmp_path: Path) -> None:
    model = loaded(house_of(tmp_path, checkpoint_tensors("sdxl")))
    _, negative = model.prompts(ASKED, TWO_STEPS)
    ((told, _),) = negative.at(0)
    assert not told.context.any()
    assert not told.pooled[0, :WIDTH].any()
    assert told.pooled[0, WIDTH:].any()


def test_the_refiner_is_told_an_aesthetic_score(tmp_path: Path) -> None:
    model = loaded(house_of(tmp_path, checkpoint_tensors("sdxl-refiner")))
    for prompt, score in zip(model.prompts(ASKED, TWO_STEPS), (6.0, 2.5), strict=True):
        ((told, _),) = prompt.at(1)
        expected = timestep_embedding(torch.tensor([score]), 256)[0]
        assert torch.equal(told.pooled[0, -256:], expected)


def test_an_inpainting_model_without_a_picture_repaints_even_grey(tmp_path: Path) -> None:
    model = loaded(house_of(tmp_path, checkpoint_tensors("sd1", 9)))
    ((told, _),) = model.prompts(ASKED, TWO_STEPS)[0].at(0)
    assert told.concat.shape == (1, 5, 4, 8)
    assert (told.concat[:, 0] == 1).all()
    assert torch.equal(told.concat[:, 1:], model.encode(torch.zeros(1, 3, 32, 64)))


def test_v_prediction_is_told_by_mark_by_weights_or_by_yaml(tmp_path: Path) -> None:
    wide = checkpoint_tensors("sd2")
    wide[MARK] = torch.linspace(-1, 1, len(wide[MARK]))
    assert loaded(house_of(tmp_path / "wide", wide)).prediction is Prediction.V
    narrow = wide | {MARK: wide[MARK] * 0.01}
    assert loaded(house_of(tmp_path / "narrow", narrow)).prediction is Prediction.EPS
    folder = tmp_path / "narrow/models/Stable-diffusion"
    (folder / "tiny.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    again = default_settings(tmp_path / "narrow")
    catalog = Catalog(again)
    assert loaded(House(built_in(), catalog, Store(again, catalog))).prediction is Prediction.V
    marked = checkpoint_tensors("sdxl") | {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    model = loaded(house_of(tmp_path / "marked", marked))
    assert model.prediction is Prediction.V
    assert model.schedule.sigma_max == pytest.approx(4518.76, rel=1e-4)


def test_an_unknown_number_of_channels_is_refused(tmp_path: Path) -> None:
    house = house_of(tmp_path, checkpoint_tensors("sd2", 7))
    with pytest.raises(FileError, match="7 channels"):
        loaded(house)


def test_a_model_without_text_encoder_says_so(tmp_path: Path) -> None:
    tensors = checkpoint_tensors("sd1")
    pruned = {n: t for n, t in tensors.items() if not n.startswith("cond_stage_model.")}
    house = house_of(tmp_path, pruned)
    with pytest.raises(FileError, match="no text encoder inside"):
        house.catalog.checkpoint("tiny")
