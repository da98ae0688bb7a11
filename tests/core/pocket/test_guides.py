"""The guides that ship: what they learn from, how they are trained, and what the files do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import nn

from core.errors import FileError
from core.generate import House
from core.models.catalog import POCKET, Catalog, Kind
from core.models.controlnets import Guiding, filled, read_guide_file, t2i_adapter
from core.nn.t2i_adapter import T2IAdapter
from core.nn.unet import UNet
from core.pocket import draw, guides_draw, guides_measure, guides_train, judge, train
from core.pocket.words import Words
from core.settings import default_settings

PARTS = ("edges", "colour")
DISC = (8, 40, 64, 96)  # left, top, right, bottom: left of the middle


# --- what they learn from


@pytest.mark.parametrize("part", PARTS)
def test_a_lesson_follows_from_its_number(part: guides_draw.Part) -> None:
    first, again, other = (guides_draw.lesson(number, part) for number in (7, 7, 8))
    assert first == again
    assert (first.guide, first.picture) != (other.guide, other.picture)
    assert first.guide.size == first.picture.size == (draw.SIZE, draw.SIZE)


def test_both_guides_are_taught_with_the_same_pictures_and_some_without_words() -> None:
    lessons = [[guides_draw.lesson(number, part) for number in range(60)] for part in PARTS]
    assert all(
        a.picture == b.picture and a.caption == b.caption for a, b in zip(*lessons, strict=True)
    )
    silent = sum(not one.caption for one in lessons[0]) / 60
    assert silent == pytest.approx(guides_draw.SILENT, abs=0.15)


def test_no_lesson_shows_what_is_held_out_for_measuring() -> None:
    held_out = {(spec.subjects[0].name, spec.background) for spec in draw.held_out_specs()}
    for number in range(300):
        spec = draw.random_spec(np.random.default_rng(number), guides_draw.MIX)
        assert not held_out & {(subject.name, spec.background) for subject in spec.subjects}


@pytest.mark.parametrize("background", ["white", "blue to red", "in the night sky"])
def test_a_drawing_knows_where_its_thing_is(background: str) -> None:
    """A black disc is in the middle, and outside its box there is nothing."""
    names = {scene.words: name for name, scene in draw.SCENES.items()}
    spec = draw.Spec((draw.Subject("circle", "black"),), names.get(background, background))
    drawing = guides_draw.drawn(spec, np.random.default_rng(0))
    shown = np.asarray(drawing.things) > 0
    dark = np.asarray(drawing.picture).max(axis=2) < 30
    assert (shown == dark).mean() > 0.95
    assert shown[64, 64] and not shown[:4].any()


def test_bent_lines_are_moved_by_no_more_than_they_may() -> None:
    levels = np.zeros((128, 128), np.uint8)
    levels[:, 64] = 255
    bent = guides_draw.bent(levels, 2.0, np.random.default_rng(0))
    columns = np.nonzero(bent)[1]
    assert 0 < np.abs(columns - 64).max() <= 3
    assert (guides_draw.bent(levels, 0.0, np.random.default_rng(0)) == levels).all()


# --- training


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


def painter_with(adapter: nn.Module, words: Words) -> guides_train.Guided:
    """The real classes with weights of chance; the last layer would start as nothing."""
    assert isinstance(adapter, T2IAdapter)
    torch.manual_seed(1)
    painter = guides_train.Guided(len(words.tokens), adapter)
    nn.init.normal_(painter.unet.out[2].weight, std=0.05)
    return painter


def shrunk(pixels: torch.Tensor) -> torch.Tensor:
    """Latents for a painter that knows nothing: (b 3 H W) -> (b 4 h w)."""
    small = nn.functional.avg_pool2d(pixels, 8)
    return torch.cat((small, small[:, :1]), dim=1)


def taught(work: Path, words: Words, steps: int) -> train.Run:
    """A run to this step, one lesson at a time, from the checkpoint if there is one."""
    work.mkdir(exist_ok=True)
    run = guides_train.begun("edges", work)
    painter = painter_with(run.network, words)
    guides_train.teach(run, painter, words, shrunk, "edges", steps, size=1)
    return run


def test_training_is_the_same_again_to_the_bit(tmp_path: Path, words: Words) -> None:
    begun = taught(tmp_path / "begun", words, 0).network.state_dict()
    one, again = (taught(tmp_path / name, words, 2).network.state_dict() for name in ("1", "2"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], begun[name]) for name in one)


def test_a_run_that_was_stopped_takes_up_all_it_had(tmp_path: Path, words: Words) -> None:
    """Network, average, optimiser and step are what they were."""
    stopped, again = taught(tmp_path, words, 2), guides_train.begun("edges", tmp_path)
    assert again.step == 2
    for part in ("network", "average"):
        before, after = (getattr(run, part).state_dict() for run in (stopped, again))
        assert all(torch.equal(before[name], after[name]) for name in before)
    moments = [run.optimiser.state_dict()["state"] for run in (stopped, again)]
    assert moments[0] and moments[0].keys() == moments[1].keys()
    for before, after in zip(*(each.values() for each in moments), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_learning_lowers_the_loss_and_leaves_the_painter_as_it_is(
    tmp_path: Path, words: Words
) -> None:
    run = guides_train.begun("edges", tmp_path)
    painter, bars = painter_with(run.network, words), train.alphas_bar()
    before = {name: t.clone() for name, t in painter.unet.state_dict().items()}
    generator, losses = torch.Generator().manual_seed(0), []
    painter.hint = torch.rand(2, 1, 64, 64, generator=generator)
    latents, ids = torch.randn(2, 4, 8, 8, generator=generator), words.ids(["a cat", ""])
    for _ in range(12):
        loss = guides_train.guide_loss(painter, latents, ids, bars, 3)
        run.learn(loss, 0.05)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(t, before[name]) for name, t in painter.unet.state_dict().items())


def test_the_linear_map_reads_what_the_encoder_reads() -> None:
    """The latents that the weights were trained on have a deviation of about 1."""
    read = guides_train.reading(POCKET)
    pixels, _ = train.drawn(12345, 4, train.RICH, draw.SIZE)
    latents = read(pixels)
    assert latents.shape == (4, 4, 16, 16)
    assert latents.std() == pytest.approx(1, abs=0.4)


# --- the files that ship


def network(path: Path) -> T2IAdapter:
    """Through the loader that a run takes, for Pocket's own U-Net."""
    file = read_guide_file(path)
    assert file.kind is Guiding.T2I_ADAPTER
    with torch.device("meta"):
        adapter = t2i_adapter(file, UNet(train.UNET))
    filled(adapter, file, torch.float32)
    return adapter


@pytest.mark.parametrize("part", PARTS)
def test_the_files_are_small_and_load_with_nothing_missing(part: guides_draw.Part) -> None:
    path = guides_train.FOLDER / f"{guides_train.NAMES[part]}.safetensors"
    tensors = load_file(path)
    assert all(t.dtype == torch.float16 and t.isfinite().all() for t in tensors.values())
    assert network(path).config == guides_train.ADAPTERS[part]
    assert sum(one.stat().st_size for one in guides_train.FOLDER.iterdir()) < 10_000_000


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    tensors = load_file(guides_train.FOLDER / "outline.safetensors")
    del tensors["body.7.block2.bias"]
    save_file(tensors, tmp_path / "edges.safetensors")
    with pytest.raises(FileError, match=r"body\.7\.block2\.bias"):
        network(tmp_path / "edges.safetensors")


def test_the_file_says_what_the_adapter_says_but_stronger(tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapter = T2IAdapter(guides_train.ADAPTERS["colour"])
    guides_train.export(adapter, "colour", tmp_path / "colour.safetensors")
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = adapter(hint)
        stored = network(tmp_path / "colour.safetensors")(hint)
    for one, other in zip(own, stored, strict=True):
        wanted = guides_train.STRENGTH * one
        assert (other - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_the_catalog_offers_them_with_what_makes_their_pictures(tmp_path: Path) -> None:
    files = {file.name: file for file in Catalog(default_settings(tmp_path)).files(Kind.CONTROLNET)}
    for part in PARTS:
        facts = files[guides_train.NAMES[part]].facts
        assert facts.base == "pocket" and facts.description == guides_train.SAID[part]
        assert facts.preprocessor == guides_train.PREPROCESSORS[part]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("guides")
    return guides_measure.guided_house(root, POCKET, guides_train.FOLDER)


def painted(rooms: House, words: str, **fields: object) -> Image.Image:
    return guides_measure.painted(rooms, words, [3], steps=10, **fields)[0]


def test_a_weight_of_nothing_is_no_guide_bit_for_bit(rooms: House) -> None:
    guide = Image.new("RGB", (128, 128), "white")
    use = guides_measure.use(rooms, "outline", guide)
    words = "a panda on a green background"
    plain, without = (
        painted(rooms, words),
        painted(rooms, words, controls=(replace(use, weight=0.0),)),
    )
    assert plain.tobytes() == without.tobytes()
    assert plain.tobytes() != painted(rooms, words, controls=(use,)).tobytes()


def disc(ground: Any, **how: Any) -> Image.Image:
    guide = Image.new("RGB", (128, 128), ground)
    ImageDraw.Draw(guide).ellipse(DISC, **how)
    return guide


def test_an_outline_decides_the_place(rooms: House) -> None:
    """Without it the ball is large and in the middle; a damaged file can't move and shrink it."""
    use = guides_measure.use(rooms, "outline", disc("black", outline="white", width=3))
    words = "a ball on a green background"
    wanted = np.asarray(disc("black", fill="white").convert("L")) > 0
    shares = []
    for controls in ((), (use,)):
        seen = judge.differing(painted(rooms, words, controls=controls), "green")
        shares.append((seen & wanted).sum() / (seen | wanted).sum())
    assert shares[1] > 0.7 and shares[1] > shares[0] + 0.25


def test_colours_decide_what_is_where(rooms: House) -> None:
    """A red disc on the left of blue: the words say neither colour nor place."""
    guide = disc(draw.COLOURS["blue"], fill=draw.COLOURS["red"])
    use = guides_measure.use(rooms, "palette", guide)
    plain, coloured = (painted(rooms, "an apple", controls=c) for c in ((), (use,)))
    off = [guides_measure.off_colour(picture, guide) for picture in (plain, coloured)]
    assert off[1] < off[0] - 30
