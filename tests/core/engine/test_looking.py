"""Looking into a run: what is seen afterwards is what happened in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.engine.answers import answered
from core.engine.engine import DecodeLatents, LookInside, LookWhere, LookWords
from core.engine.job import Job
from core.engine.looking import Inside, Where, Words
from core.errors import FileError, RequestError
from core.events import Step
from core.generate import House, generate
from core.images.inputs import Inputs
from core.images.pixels import pixels
from core.models.catalog import Catalog
from core.models.store import Store
from core.registry import built_in
from core.request import Branch, GenerationRequest, Record, StartImage
from core.resolve import resolve
from core.settings import default_settings
from core.text.attention import Segment
from core.text.tokenizer import Tokenizer
from core.trace import recorded, replayed, step_at
from tests.core.images.pictures import gradient
from tests.tiny import checkpoint_tensors, text_weights, write_checkpoint, write_sd1

REGISTRY = built_in()
ASKED = GenerationRequest(
    prompt="a (red:1.3) apple", negative_prompt="blue", checkpoint="tiny", seed=7, steps=4
)
FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    folder = root / "models" / "Stable-diffusion"
    write_sd1(folder / "tiny.safetensors")
    for family in FAMILIES[1:]:
        write_checkpoint(folder / f"{family}.safetensors", checkpoint_tensors(family))
    settings = default_settings(root)
    catalog = Catalog(settings)

    def stored(branch: Branch) -> Step:
        path = root / f"{branch.job}.trace"
        return step_at(path, REGISTRY, branch.image, branch.index, branch.pass_index)

    yield House(REGISTRY, catalog, Store(settings, catalog), Inputs(root / "inputs"), stored)


def run(house: House, asked: GenerationRequest) -> Job:
    """A finished job."""
    job = Job(resolve(asked, house.catalog, house.registry), "me")
    for event in generate(job.request, house):
        job.publish(event)
    return job


def look(house: House, job: Job, index: int, image: int = 0, pass_index: int = 0) -> Inside:
    found = answered(LookInside(job.id, image, index, pass_index), lambda _: job, house)
    assert isinstance(found, Inside)
    return found


def estimates(job: Job, image: int = 0, pass_index: int = 0) -> dict[int, Tensor]:
    """The first estimate of each interval, as the run recorded it, by where it began."""
    return {
        event.state.index - 1: event.estimates[0]
        for event in job.events()
        if isinstance(event, Step)
        and event.estimates
        and (image in event.images and event.pass_index == pass_index)
    }


@pytest.mark.parametrize(
    "sampler", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "unipc", "dpmpp_sde", "lcm"]
)
def test_what_is_seen_recombines_to_the_recorded_estimate_bit_for_bit(
    house: House, sampler: str
) -> None:
    job = run(house, replace(ASKED, sampler=sampler, images=2))
    for index, recorded_estimate in estimates(job, image=1).items():
        seen = look(house, job, index, image=1)
        assert torch.equal(seen.guided(seen.cfg_scale), recorded_estimate)


def test_guidance_is_the_straight_line_through_both_estimates(house: House) -> None:
    """guided − (uncond + s · (cond − uncond)) = 0 in float32; 0 and 1 are the ends."""
    seen = look(house, run(house, ASKED), 2)
    (cond,), uncond = seen.conds, seen.uncond
    assert not torch.equal(cond, uncond)
    for scale in (0.0, 1.0, 4.5, 7.0, 30.0):
        line = uncond + scale * (cond - uncond)
        assert torch.equal(seen.guided(scale) - line, torch.zeros_like(line))
    assert torch.equal(seen.guided(0), uncond)
    torch.testing.assert_close(seen.guided(1), cond)


def test_a_run_that_recorded_its_predictions_is_seen_as_it_recorded_them(house: House) -> None:
    job = run(house, replace(ASKED, sampler="dpmpp_2m", record=Record.PREDICTIONS))
    steps = {e.state.index: e for e in job.events() if isinstance(e, Step)}
    seen = look(house, job, 2)
    assert torch.equal(seen.conds[0], steps[3].probes["cond"][0])
    assert torch.equal(seen.uncond, steps[3].probes["uncond"][0])


def test_prompts_that_change_and_prompts_that_are_joined(house: House) -> None:
    job = run(house, replace(ASKED, prompt="[a dog:a cat:0.5] AND a hat :0.6"))
    for index, recorded_estimate in estimates(job).items():
        seen = look(house, job, index)
        assert seen.weights == (1.0, 0.6)
        assert torch.equal(seen.guided(seen.cfg_scale), recorded_estimate)


def test_at_a_scale_of_one_the_negative_prompt_is_asked_all_the_same(house: House) -> None:
    job = run(house, replace(ASKED, cfg_scale=1.0))
    seen = look(house, job, 1)
    assert not torch.equal(seen.uncond, seen.conds[0])
    torch.testing.assert_close(seen.conds[0], estimates(job)[1], rtol=1e-4, atol=1e-4)


def test_a_masked_picture_and_a_second_pass_can_be_looked_into(house: House) -> None:
    assert house.inputs is not None
    picture, mask = (house.inputs.add(gradient(64, 64)) for _ in range(2))
    start = StartImage(picture=picture, mask=mask, strength=0.6)
    job = run(house, replace(ASKED, start=start, sampler="euler"))
    seen = look(house, job, 0)
    # What the run recorded is mixed with the picture where the mask says so.
    assert seen.guided(7).shape == estimates(job)[0].shape


def test_a_branch_is_looked_into_without_the_run_it_came_from(house: House, tmp_path: Path) -> None:
    trunk = Job(resolve(ASKED, house.catalog, REGISTRY), "me")
    path = Path(house.inputs.path("0" * 64)).parents[1] / f"{trunk.id}.trace"  # type: ignore[union-attr]
    list(recorded(generate(trunk.request, house), path))
    job = run(house, replace(ASKED, prompt="a pear", branch=Branch(job=trunk.id, index=2)))
    path.unlink()
    expected = estimates(job)
    assert sorted(expected) == [2, 3]
    seen = look(house, job, 3)
    assert torch.equal(seen.guided(seen.cfg_scale), expected[3])


def test_a_replayed_run_is_looked_into_like_a_live_one(house: House, tmp_path: Path) -> None:
    live = Job(resolve(ASKED, house.catalog, REGISTRY), "me")
    for event in recorded(generate(live.request, house), tmp_path / "run.trace"):
        live.publish(event)
    again = Job(live.request, "me")
    for event in replayed(tmp_path / "run.trace", REGISTRY):
        again.publish(event)
    assert torch.equal(look(house, again, 1).uncond, look(house, live, 1).uncond)


def test_what_is_not_there_is_said(house: House) -> None:
    job = run(house, ASKED)
    with pytest.raises(RequestError, match="behind the last step"):
        look(house, job, 4)
    with pytest.raises((RequestError, FileError), match="step 9"):
        look(house, job, 9)
    with pytest.raises(RequestError, match="image 3"):
        look(house, job, 1, image=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_every_place_the_words_share_all_of_the_attention(house: House, family: str) -> None:
    checkpoint = "tiny" if family == "sd1" else family
    job = run(house, replace(ASKED, checkpoint=checkpoint, steps=2))
    before = estimates(job)[1]
    where = answered(LookWhere(job.id, 0, 1), lambda _: job, house)
    assert isinstance(where, Where)
    prompt, negative = where.prompts
    assert [word.text for word in prompt.words[:5]] == ["start", "a", "red", "apple", "end"]
    assert [word.weight for word in prompt.words[:5]] == [1, 1, 1.3, 1, 1]
    assert prompt.words[5].text == "filler × 72"
    assert [word.text for word in negative.words[:3]] == ["start", "blue", "end"]
    for looked in where.prompts:
        assert {group.part for group in looked.maps} == {"input", "middle", "output"}
        for seen in looked.maps.values():
            assert seen.shape[0] == len(looked.words)
            torch.testing.assert_close(seen.sum(0), torch.ones_like(seen[0]))
    # Looked into with its attention watched, the step is still the step of the run.
    inside = look(house, job, 1)
    assert torch.equal(inside.guided(inside.cfg_scale), before)


def test_a_long_prompt_has_a_start_and_an_end_in_every_chunk(house: House) -> None:
    job = run(house, replace(ASKED, prompt="a dog BREAK a cat", steps=2))
    where = answered(LookWhere(job.id, 0, 0), lambda _: job, house)
    kinds = [(word.chunk, word.kind) for word in where.prompts[0].words if word.kind != "word"]
    assert kinds == [(c, k) for c in (0, 1) for k in ("start", "end", "padding")]
    # The negative prompt is filled up to as many chunks.
    assert where.prompts[1].words[-1].chunk == 1


def test_what_was_read_is_told_for_each_stretch_of_steps(house: House) -> None:
    job = run(house, replace(ASKED, prompt="a [dog:cat:0.5] in snow"))
    found = answered(LookWords(job.id), lambda _: job, house)
    assert isinstance(found, Words)
    said = [[w.text for w in over.words[0] if w.kind == "word"] for over in found.positive]
    assert said == [["a", "dog", "in", "snow"], ["a", "cat", "in", "snow"]]
    assert found.positive[0].first == 0 and found.positive[-1].last == found.intervals
    assert found.positive[0].last == found.positive[1].first
    likeness = found.positive[0].likeness[0]
    assert torch.allclose(likeness.diagonal(), torch.ones(len(likeness)), atol=1e-5)
    assert torch.allclose(likeness, likeness.T) and float(likeness.abs().max()) < 1.0001


def test_the_vocabulary_that_is_nearest_to_an_embedding_is_named(house: House) -> None:
    """An embedding of the very vectors of two words is nearest to just these."""
    table = text_weights()["text_model.embeddings.token_embedding.weight"]
    ids = [Tokenizer().tokens(Segment(word))[0].id for word in ("cat", "hat")]
    folder = house.inputs.path("0" * 64).parents[1] / "embeddings"  # type: ignore[union-attr]
    folder.mkdir(exist_ok=True)
    save_file({"emb_params": 3 * table[ids]}, folder / "glimmer.safetensors")
    job = run(house, replace(ASKED, prompt="a glimmer", steps=2))
    found = answered(LookWords(job.id), lambda _: job, house)
    words = [word for word in found.positive[0].words[0] if word.kind == "word"]
    assert [word.text for word in words] == ["a", "glimmer 1", "glimmer 2"]
    assert [word.near[:1] for word in words] == [(), ("cat",), ("hat",)]


def test_latents_are_decoded_by_the_checkpoints_own_vae(house: House) -> None:
    job = run(house, ASKED)
    last = [e for e in job.events() if isinstance(e, Step)][-1]
    query = DecodeLatents("tiny", None, last.state.latents)
    picture = answered(query, lambda _: job, house)
    done = next(e for e in job.events() if type(e).__name__ == "ImageDone")
    assert torch.equal(pixels(picture), pixels(done.image))  # type: ignore[union-attr]
