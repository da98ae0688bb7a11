"""Extensions that bring a family, a kind of LoRA, a way to make guides: each by its own law."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.lora import lora
from core.adapters.patch import Use, patched
from core.engine.local import LocalEngine
from core.errors import AdapterError, RequestError
from core.events import ImageDone
from core.extend.house import Extensions
from core.images.guiding import Scene
from core.images.inputs import Inputs
from core.models.describe import read_facts
from core.models.family import CONFIG_KEY
from core.models.files import read_header
from core.models.folders import Found
from core.models.kinds import Kind
from core.registry import built_in
from core.request import ControlUse, GenerationRequest
from core.settings import default_settings
from tests.core.adapters.models import parts_of
from tests.core.extend.test_house import write
from tests.extensions.shipped import shipped
from tests.tiny import write_sd1

LINEAR = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
KERNEL = "lora_unet_input_blocks_4_0_in_layers_2"
ASKED = GenerationRequest(
    prompt="a fox", checkpoint="tiny", seed=1, steps=2, width=64, height=64, sampler="euler"
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Extensions:
    return shipped(tmp_path_factory.mktemp("data"))


def glora_file(rank: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=g)

    return {
        f"{LINEAR}.a1.weight": drawn(32, rank),
        f"{LINEAR}.a2.weight": drawn(rank, 32),
        f"{LINEAR}.b1.weight": drawn(32, rank),
        f"{LINEAR}.b2.weight": drawn(rank, 32),
        f"{LINEAR}.alpha": torch.tensor(1.0),
        f"{KERNEL}.a1.weight": drawn(32, rank, 1, 1),
        f"{KERNEL}.a2.weight": drawn(rank, 32, 1, 1),
        f"{KERNEL}.b1.weight": drawn(64, rank, 1, 1),
        f"{KERNEL}.b2.weight": drawn(rank, 32, 3, 3),
    }


def test_glora_adds_what_its_paper_says_and_leaves_every_bit(house: Extensions) -> None:
    """x → W(x + scale · a₁a₂x) + scale · b₁b₂x, on a vector and on a picture."""
    parts, file = parts_of(), glora_file()
    kinds = tuple(house.registry.adapter_kinds.values())
    unet = parts["unet"]
    linear = unet.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_q")
    kernel = unet.get_submodule("input_blocks.4.0.in_layers.2")
    x, picture = torch.randn(5, 32), torch.randn(1, 32, 8, 8)
    before, plain = linear(x), kernel(picture)
    a1, a2, b1, b2 = (file[f"{LINEAR}.{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    turned = before.new_tensor(0.5) * (x @ a2.T @ a1.T)
    weight: Tensor = linear.weight  # type: ignore[assignment]
    wanted = before + turned @ weight.T + 0.5 * (x @ b2.T @ b1.T)
    convolved = torch.nn.functional.conv2d
    k1, k2, c1, c2 = (file[f"{KERNEL}.{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    bias: Tensor = kernel.bias  # type: ignore[assignment]
    seen = convolved(convolved(picture, k2), k1)
    painted = (
        plain
        + (kernel(seen) - bias.view(1, -1, 1, 1))
        + convolved(convolved(picture, c2, padding=1), c1)
    )
    with patched(parts, [Use(lora("test", file, {}, kinds))]) as (report,):
        assert report.unmatched == () and len(report.matched) == 2
        torch.testing.assert_close(linear(x), wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(kernel(picture), painted, atol=1e-5, rtol=1e-4)
    assert torch.equal(linear(x), before) and torch.equal(kernel(picture), plain)


def test_without_its_extension_a_glora_is_named_for_what_it_is(house: Extensions) -> None:
    with pytest.raises(AdapterError, match="GLoRA"):
        lora("test", glora_file(), {})
    halved = {name: one for name, one in glora_file().items() if ".a2." not in name}
    with pytest.raises(AdapterError, match=r"test: lora_unet.*lacks a2"):
        lora("test", halved, {}, tuple(house.registry.adapter_kinds.values()))
    wrong = glora_file() | {f"{LINEAR}.a2.weight": torch.ones(2, 31)}
    with pytest.raises(AdapterError, match="do not fit"):
        lora("test", wrong, {}, tuple(house.registry.adapter_kinds.values()))


def sized(path: Path, said: str) -> Path:
    """The tiny checkpoint with a size in its metadata."""
    write_sd1(path)
    tensors, card = load_file(path), json.loads(read_header(path).metadata[CONFIG_KEY])
    del card["size"]  # else that has the last word
    save_file(tensors, path, {CONFIG_KEY: json.dumps(card), "modelspec.resolution": said})
    return path


@pytest.mark.parametrize(
    ("said", "family", "size"),
    [("768x768", "sd1-768", 768), ("768", "sd1-768", 768), ("512x512", "sd1", 512),
     ("768x512", "sd1", 512), ("large", "sd1", 512), ("", "sd1", 512)],
)  # fmt: skip
def test_a_checkpoint_paints_the_size_that_it_states(
    house: Extensions, tmp_path: Path, said: str, family: str, size: int
) -> None:
    path = sized(tmp_path / "tiny.safetensors", said)
    families = house.registry.recognising()
    found = Found(Kind.CHECKPOINT, "tiny", path, path.stat().st_size, path.stat().st_mtime_ns)
    assert read_facts(found, families).base == family
    assert {one.name: one.size for one in families}[family] == size


def test_flat_guides_are_what_they_say(house: Extensions) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    make = house.registry.preprocessors
    pixels = np.asarray(make["large_pixels"](picture, make["large_pixels"].checked({"side": 16})))
    squares = levels.reshape(4, 16, 3, 16, 3).mean((1, 3))
    assert np.abs(pixels.reshape(4, 16, 3, 16, 3) - squares[:, None, :, None]).max() <= 1
    tones = np.asarray(make["few_tones"](picture, make["few_tones"].checked({"tones": 3})))
    assert set(np.unique(tones)) == {0, 128, 255}
    order = np.argsort(levels.ravel(), kind="stable")
    assert (np.diff(tones.ravel()[order].astype(int)) >= 0).all(), "lighter stays lighter"
    with pytest.raises(RequestError, match="tones must lie between 2 and 32"):
        make["few_tones"].checked({"tones": 1})


def test_a_guide_of_an_extension_is_made_for_a_run(house: Extensions, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    name = inputs.add(Image.effect_noise((64, 64), 80).convert("RGB"))
    use = ControlUse(model="", picture=name, preprocessor="few_tones", settings={"tones": 2})
    scene = Scene(inputs, 64, 64, preprocessors=house.registry.preprocessors)
    assert set(np.unique(np.asarray(scene.guide(use)))) == {0, 255}
    with pytest.raises(RequestError, match="no preprocessor named 'few_tones'"):
        replace(scene, preprocessors=None).guide(use)


FAILING = """
    from core.extend import AdapterKind, Family, Preprocessor, hookimpl
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Settings:
        much: int = 1

    def matches(header): raise RuntimeError("no idea")
    def made(picture, settings, mask): raise RuntimeError("no picture")
    def changes(parts, scale): raise RuntimeError("no change")

    @hookimpl
    def families():
        return [Family("odd", "Odd", 512, matches, (), 1.0)]

    @hookimpl
    def preprocessors():
        return [Preprocessor("odd", "Odd", "", Settings, made)]

    @hookimpl
    def adapter_kinds():
        ending = ((r"\\.odd", "odd"),)
        return [AdapterKind(name="odd", title="Odd", help="", endings=ending,
                            target=f"{__name__}:changes")]
"""


@pytest.fixture
def failing(tmp_path: Path) -> Extensions:
    write(tmp_path / "extensions", "failing", FAILING)
    data = default_settings(tmp_path).data_dir
    return Extensions(built_in(), [(tmp_path / "extensions", True)], data, tmp_path, packages=False)


@pytest.fixture
def engine(failing: Extensions, tmp_path: Path) -> Iterator[LocalEngine]:
    folder = tmp_path / "models" / "Stable-diffusion"
    sized(folder / "tiny.safetensors", "768x768")
    save_file(glora_file(), _made(tmp_path / "models" / "Lora") / "glora.safetensors")
    made = LocalEngine(default_settings(tmp_path), failing.registry)
    failing.listen(made.adopt)
    yield made
    made.close()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_family_that_fails_takes_no_file_and_is_named(
    failing: Extensions, engine: LocalEngine
) -> None:
    assert engine.catalog.checkpoint("tiny").family.name == "sd1"
    told = failing.one("failing").account
    assert told.errors >= 1 and "no idea" in told.sentences[0]
    picture = Image.new("RGB", (8, 8))
    one = failing.registry.preprocessors["odd"]
    with pytest.raises(Exception, match="failing: RuntimeError: no picture"):
        one(picture, one.checked({}))
    with pytest.raises(Exception, match="failing: RuntimeError: no change"):
        lora("x", {"a.odd": torch.ones(2, 2)}, {}, tuple(failing.registry.adapter_kinds.values()))
    failing.disable("failing")
    assert "odd" not in engine.registry.families
    assert engine.catalog.families == built_in().recognising()


def test_what_is_enabled_acts_in_the_next_picture(
    failing: Extensions, engine: LocalEngine, tmp_path: Path
) -> None:
    """The same engine, the same files: a size, then a LoRA that could not be read before."""
    with pytest.raises(AdapterError, match="GLoRA"):
        _picture(engine, replace(ASKED, prompt="a fox <lora:glora:1>"))
    plain = _picture(engine, ASKED)
    assert engine.catalog.checkpoint("tiny").size == 512
    engine.adopt(shipped(tmp_path / "other").registry)
    assert engine.catalog.checkpoint("tiny").size == 768
    changed = _picture(engine, replace(ASKED, prompt="a fox <lora:glora:1>"))
    assert not np.array_equal(changed, plain)
    engine.adopt(built_in())
    assert engine.catalog.checkpoint("tiny").size == 512
    assert np.array_equal(_picture(engine, ASKED), plain), "the weights came back"


def _picture(engine: LocalEngine, request: GenerationRequest) -> np.ndarray:
    job = engine.submit(request)
    assert job.wait(120)
    if job.error is not None:
        raise job.error
    (done,) = (event for event in job.events() if isinstance(event, ImageDone))
    return np.asarray(done.image)
