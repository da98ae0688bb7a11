"""The laws of runs with parts: a picture to start from, a second pass, a second model, a branch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from core.errors import RequestError
from core.events import Event, Finished, ImageDone, Started, Step
from core.generate import House, Progress, generate
from core.images.inputs import Inputs
from core.images.pixels import pictures, pixels
from core.models.catalog import Catalog
from core.models.family import VAE
from core.models.store import Store
from core.passes import enlarged_size, kept_intervals
from core.registry import built_in
from core.request import (
    Branch,
    Enlarge,
    Fill,
    GenerationRequest,
    Record,
    Refine,
    Resize,
    StartImage,
)
from core.settings import default_settings
from core.trace import progress_of, recorded, replayed, step_at
from tests.tiny import checkpoint_tensors, sd1_tensors, write_sd1

REGISTRY = built_in()
SIZE = 64
ASKED = GenerationRequest(
    prompt="a red apple",
    negative_prompt="blue",
    checkpoint="tiny",
    seed=7,
    steps=5,
    width=SIZE,
    height=SIZE,
    sampler="dpmpp_2m",
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    folder = root / "models" / "Stable-diffusion"
    write_sd1(folder / "tiny.safetensors")
    others = {
        name: tensor if name.startswith(VAE) else tensor * 1.1
        for name, tensor in sd1_tensors().items()
    }
    write_sd1(folder / "other.safetensors", others)
    write_sd1(folder / "inpainting.safetensors", checkpoint_tensors("sd1", 9))
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(REGISTRY, catalog, Store(settings, catalog), Inputs(root / "inputs"))


def noisy_picture(size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels)


def a_mask(size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((24, 8, 47, 39), fill=255)
    return mask


@pytest.fixture(scope="module")
def picture(house: House) -> str:
    assert house.inputs is not None
    return house.inputs.add(noisy_picture())


@pytest.fixture(scope="module")
def mask(house: House) -> str:
    assert house.inputs is not None
    return house.inputs.add(a_mask())


def run(request: GenerationRequest, house: House) -> tuple[Image.Image, int]:
    """The one picture, and how often the guided denoiser was asked."""
    events = list(generate(request, house))
    (image,) = images(events)
    assert isinstance(events[-1], Finished)
    return image, events[-1].evaluations


def images(events: list[Event]) -> list[Image.Image]:
    return [event.image for event in events if isinstance(event, ImageDone)]


@pytest.mark.parametrize("steps", [1, 5, 20, 33])
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.3, 0.5, 0.75, 0.999, 1.0])
def test_a_strength_keeps_as_many_intervals_as_in_a1111(strength: float, steps: int) -> None:
    wanted = int(min(strength, 0.999) * steps) + 1 if strength else 0
    assert kept_intervals(strength, steps) == wanted <= steps


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_a_picture_is_denoised_from_the_level_of_its_strength(
    strength: float, house: House, picture: str
) -> None:
    request = replace(ASKED, start=StartImage(picture=picture, strength=strength))
    events = list(generate(request, house))
    begun = next(event for event in events if isinstance(event, Step))
    assert isinstance(events[-1], Finished)
    assert events[-1].evaluations == kept_intervals(strength, ASKED.steps)
    whole = begun.origin.whole
    assert begun.sigmas == whole[len(whole) - 1 - kept_intervals(strength, ASKED.steps) :]
    assert begun.sigma == begun.sigmas[0]


def test_strength_1_starts_where_a_run_from_noise_does(house: House, picture: str) -> None:
    request = replace(ASKED, start=StartImage(picture=picture, strength=1.0))
    with_picture, plain = (
        next(e for e in generate(r, house) if isinstance(e, Step)) for r in (request, ASKED)
    )
    assert with_picture.sigmas == plain.sigmas


def test_strength_0_is_the_round_trip_through_the_vae(house: House, picture: str) -> None:
    image, calls = run(replace(ASKED, start=StartImage(picture=picture, strength=0)), house)
    for event in house.store.loaded("tiny"):
        del event
    loading = house.store.loaded("tiny")
    with pytest.raises(StopIteration) as end:
        next(loading)
    model = end.value.value
    with torch.inference_mode():
        there = model.encode(pixels(noisy_picture())[None])
        (back,) = pictures(model.decode(there))
    assert calls == 0
    assert image.tobytes() == back.tobytes()


@pytest.mark.parametrize("checkpoint", ["tiny", "inpainting"])
@pytest.mark.parametrize("fill", list(Fill))
@pytest.mark.parametrize("soft", [False, True])
def test_what_the_mask_leaves_out_is_the_original_byte_for_byte(
    checkpoint: str, fill: Fill, soft: bool, house: House, picture: str, mask: str
) -> None:
    start = StartImage(picture=picture, mask=mask, strength=0.8, fill=fill, blur=2, soft=soft)
    image, _ = run(replace(ASKED, checkpoint=checkpoint, start=start), house)
    before, after = np.asarray(noisy_picture()), np.asarray(image)
    kept = np.ones((SIZE, SIZE), dtype=bool)
    kept[3:45, 19:53] = False  # the mask and its blur, 5 pixels on every side
    assert (before[kept] == after[kept]).all()
    assert (before[16:32, 30:42] != after[16:32, 30:42]).any()


def test_only_what_is_masked_is_painted_and_put_back(house: House, mask: str, picture: str) -> None:
    assert house.inputs is not None
    large = noisy_picture((160, 120))
    start = StartImage(
        picture=house.inputs.add(large),
        mask=house.inputs.add(a_mask((160, 120))),
        only_masked=True,
        padding=8,
        blur=0,
    )
    image, _ = run(replace(ASKED, start=start), house)
    assert image.size == large.size
    kept = np.asarray(a_mask((160, 120))) == 0
    assert (np.asarray(large)[kept] == np.asarray(image)[kept]).all()
    assert (np.asarray(large)[~kept] != np.asarray(image)[~kept]).any()


def test_a_masked_part_that_is_enlarged_is_put_back_too(house: House) -> None:
    assert house.inputs is not None
    large = noisy_picture((160, 120))
    start = StartImage(
        picture=house.inputs.add(large),
        mask=house.inputs.add(a_mask((160, 120))),
        only_masked=True,
        blur=0,
    )
    request = replace(ASKED, start=start, enlarge=Enlarge(scale=1.5, steps=2, strength=0.5))
    image, _ = run(request, house)
    kept = np.asarray(a_mask((160, 120))) == 0
    assert image.size == large.size
    assert (np.asarray(large)[kept] == np.asarray(image)[kept]).all()
    steps = [event for event in generate(request, house) if isinstance(event, Step)]
    progress = Progress(images=(0,), state=steps[-2].state, pass_index=steps[-2].pass_index)
    (again,) = images(list(generate(request, house, progress=progress)))
    assert again.tobytes() == image.tobytes()


def test_a_picture_grows_on_the_side_that_is_asked(house: House, picture: str) -> None:
    start = StartImage(picture=picture, extend=(0, 0, 32, 0), strength=1.0)
    image, _ = run(replace(ASKED, width=SIZE + 32, start=start), house)
    assert image.size == (SIZE + 32, SIZE)
    before, after = np.asarray(noisy_picture()), np.asarray(image)
    assert (before[:, :40] == after[:, :40]).all()


def test_a_mask_of_another_shape_is_a_sentence(house: House, picture: str) -> None:
    assert house.inputs is not None
    other = house.inputs.add(a_mask((200, 64)))
    start = StartImage(picture=picture, mask=other)
    with pytest.raises(RequestError, match="mask"):
        run(replace(ASKED, start=start), house)


def test_an_empty_mask_is_a_sentence(house: House, picture: str) -> None:
    assert house.inputs is not None
    empty = house.inputs.add(Image.new("L", (SIZE, SIZE), 0))
    with pytest.raises(RequestError, match="empty"):
        run(replace(ASKED, start=StartImage(picture=picture, mask=empty)), house)


@pytest.mark.parametrize("how", list(Resize))
def test_a_picture_of_another_size_is_brought_to_the_one_asked(how: Resize, house: House) -> None:
    assert house.inputs is not None
    odd = house.inputs.add(noisy_picture((90, 50)))
    image, _ = run(replace(ASKED, start=StartImage(picture=odd, resize=how)), house)
    assert image.size == (SIZE, SIZE)


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (nearest-exact)", "Lanczos"])
def test_a_second_pass_paints_the_larger_picture(upscaler: str, house: House) -> None:
    more = Enlarge(scale=1.5, upscaler=upscaler, steps=4, strength=0.5, sampler="euler")
    events = list(generate(replace(ASKED, enlarge=more), house))
    (image,) = images(events)
    assert image.size == (96, 96)
    assert isinstance(events[-1], Finished)
    assert events[-1].evaluations == ASKED.steps + kept_intervals(0.5, 4)
    assert {e.pass_index for e in events if isinstance(e, Step)} == {0, 1}


@pytest.mark.parametrize(
    ("more", "size"),
    [
        (Enlarge(), (128, 128)),
        (Enlarge(scale=1.3), (80, 80)),
        (Enlarge(width=96), (96, 96)),
        (Enlarge(width=96, height=128), (96, 128)),
    ],
)
def test_the_size_of_the_second_pass(more: Enlarge, size: tuple[int, int]) -> None:
    assert enlarged_size(ASKED, more) == size


def test_an_unknown_upscaler_is_a_sentence(house: House) -> None:
    with pytest.raises(RequestError, match="no upscaler named 'magic'"):
        run(replace(ASKED, enlarge=Enlarge(upscaler="magic")), house)


def test_refining_with_the_same_model_changes_nothing(house: House) -> None:
    plain, _ = run(ASKED, house)
    for by_steps in (False, True):
        refine = Refine(checkpoint="tiny", switch_at=0.5, by_steps=by_steps)
        assert run(replace(ASKED, refine=refine), house)[0].tobytes() == plain.tobytes()


def test_another_model_takes_over_where_it_is_asked_to(house: House) -> None:
    """At 0 it does all, at 1 nothing, between something else."""
    plain, _ = run(ASKED, house)
    other, _ = run(replace(ASKED, checkpoint="other"), house)
    found = [
        run(replace(ASKED, refine=Refine(checkpoint="other", switch_at=s, by_steps=True)), house)[0]
        for s in (0, 0.5, 1)
    ]
    assert found[0].tobytes() == other.tobytes()
    assert found[2].tobytes() == plain.tobytes()
    assert found[1].tobytes() not in (plain.tobytes(), other.tobytes())


PARTS = ["picture", "masked", "enlarged", "refined"]


@pytest.fixture(params=PARTS)
def with_part(request: pytest.FixtureRequest, picture: str, mask: str) -> GenerationRequest:
    return {
        "picture": replace(ASKED, start=StartImage(picture=picture, strength=0.6)),
        "masked": replace(ASKED, start=StartImage(picture=picture, mask=mask, soft=True)),
        "enlarged": replace(ASKED, enlarge=Enlarge(scale=1.5, steps=3)),
        "refined": replace(ASKED, refine=Refine(checkpoint="other", switch_at=0.5)),
    }[request.param]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "heun", "plms"])
def test_a_replay_is_the_run_and_it_resumes_anywhere(
    sampler: str, with_part: GenerationRequest, house: House, tmp_path: Path
) -> None:
    path = tmp_path / "run.trace"
    events = list(recorded(generate(replace(with_part, sampler=sampler), house), path))
    steps = [event for event in events if isinstance(event, Step)]
    again = [event for event in replayed(path, REGISTRY) if isinstance(event, Step)]
    assert len(steps) == len(again)
    for one, other in zip(steps, again, strict=True):
        assert torch.equal(one.state.latents, other.state.latents)
        assert (one.sigmas, one.origin, one.pass_index) == (
            other.sigmas,
            other.origin,
            other.pass_index,
        )
    assert isinstance(events[0], Started)
    for step in steps:
        progress = Progress(images=(0,), state=step.state, pass_index=step.pass_index)
        rest = list(generate(events[0].request, house, progress=progress))
        assert images(rest)[0].tobytes() == images(events)[0].tobytes()
    assert progress_of(path, REGISTRY).done == frozenset({0})


def branching(house: House, trace: Path) -> House:
    """The house with one recorded run, called "run"."""
    return replace(house, stored=lambda b: step_at(trace, REGISTRY, b.image, b.index, b.pass_index))


@pytest.fixture(scope="module")
def trace(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("traces")
    yield folder


@pytest.mark.parametrize("sampler", REGISTRY.samplers)
def test_an_unchanged_branch_ends_in_the_same_bits_from_everywhere(
    sampler: str, house: House, tmp_path: Path
) -> None:
    path = tmp_path / "run.trace"
    request = replace(ASKED, sampler=sampler)
    events = list(recorded(generate(request, house), path))
    steps = [event for event in events if isinstance(event, Step)]
    (whole,) = images(events)
    calls = 0
    for number, step in enumerate(reversed(steps)):
        # An adaptive sampler takes some forty: each third of them says as much.
        if len(steps) < 20 or number % 3 == 0:
            branch = Branch(job="run", index=step.state.index)
            image, asked = run(replace(request, branch=branch), branching(house, path))
            assert image.tobytes() == whole.tobytes()
            assert asked == calls  # the calls of the intervals that were left, and no more
        calls += len(step.estimates)


def test_a_branch_with_another_wording_keeps_what_came_before(house: House, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    events = list(recorded(generate(ASKED, house), path))
    for change in ({"prompt": "a cat"}, {"cfg_scale": 2.0}, {"sampler": "euler"}, {"seed": 8}):
        changed = replace(ASKED, branch=Branch(job="run", index=2), **change)  # type: ignore[arg-type]
        steps = [e for e in generate(changed, branching(house, path)) if isinstance(e, Step)]
        parent = [e for e in events if isinstance(e, Step)][2]
        assert torch.equal(steps[0].state.latents, parent.state.latents)
        assert steps[0].begins and steps[0].state.index == 2
        if "seed" not in change:  # this sampler draws no noise on its way
            assert not torch.equal(steps[-1].state.latents, events_end(events))


def events_end(events: list[Event]) -> torch.Tensor:
    return [event for event in events if isinstance(event, Step)][-1].state.latents


def test_a_branch_is_itself_recorded_whole(house: House, tmp_path: Path) -> None:
    """Its parent may be gone; it is replayed and resumed all the same."""
    parent, own = tmp_path / "parent.trace", tmp_path / "own.trace"
    list(recorded(generate(ASKED, house), parent))
    request = replace(ASKED, prompt="a cat", branch=Branch(job="run", index=2))
    events = list(recorded(generate(request, branching(house, parent)), own))
    parent.unlink()
    again = [event for event in replayed(own, REGISTRY) if isinstance(event, Step)]
    for one, other in zip((e for e in events if isinstance(e, Step)), again, strict=True):
        assert torch.equal(one.state.latents, other.state.latents)


def test_recorded_predictions_are_what_guidance_was_made_of(house: House, tmp_path: Path) -> None:
    plain = list(generate(ASKED, house))
    path = tmp_path / "run.trace"
    request = replace(ASKED, record=Record.PREDICTIONS)
    events = list(recorded(generate(request, house), path))
    assert images(plain)[0].tobytes() == images(events)[0].tobytes()
    replays = [event for event in replayed(path, REGISTRY) if isinstance(event, Step)]
    for step in replays[1:]:
        (cond,), (uncond,), (guided,) = step.probes["cond"], step.probes["uncond"], step.estimates
        assert torch.equal(guided - (uncond + ASKED.cfg_scale * (cond - uncond)), guided * 0)


def test_a_tiling_picture_has_no_edges(house: House) -> None:
    """Noise moved round the edges by some cells moves the picture round them, and no more."""
    from core.sampling import noise

    wide = replace(ASKED, width=2 * SIZE)
    request = replace(wide, tiling=True)
    image, _ = run(request, house)
    plain, _ = run(wide, house)
    assert image.tobytes() != plain.tobytes()
    cells = 8  # one of the coarsest level of the tiny U-Net
    drawn = noise.SeededNoise.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            noise.SeededNoise, "draw", lambda self, n: torch.roll(drawn(self, n), cells, -1)
        )
        moved, _ = run(request, house)
    assert image.tobytes() != moved.tobytes()
    there = np.roll(np.asarray(image).astype(int), SIZE, axis=1)
    assert np.abs(there - np.asarray(moved)).max() <= 1


def test_any_sampler_goes_on_from_any_other(house: House, tmp_path: Path) -> None:
    """But for those that choose their own levels, which says so."""
    runs = {}
    for name in ("euler", "dpmpp_2m", "unipc", "restart", "dpm_adaptive"):
        path = tmp_path / f"{name}.trace"
        list(recorded(generate(replace(ASKED, sampler=name), house), path))
        runs[name] = path
    for parent, path in runs.items():
        for name, entry in REGISTRY.samplers.items():
            request = replace(ASKED, sampler=name, branch=Branch(job="run", index=2))
            chooses = REGISTRY.sampler(parent).chooses or entry.chooses
            if chooses and parent != name:
                with pytest.raises(RequestError, match="chooses its own noise levels"):
                    run(request, branching(house, path))
            else:
                run(request, branching(house, path))
