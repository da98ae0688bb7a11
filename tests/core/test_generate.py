"""The laws of a run, on a tiny model through the real loader and all of `generate`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import FileError, NotFinite, RequestError
from core.events import Decoding, Event, Finished, ImageDone, Loaded, Note, Started, Step
from core.generate import House, Progress, generate
from core.models.catalog import Catalog
from core.models.store import Store
from core.registry import built_in
from core.request import Emphasis, GenerationRequest, NoiseKind, Variation, Wish
from core.settings import default_settings
from core.trace import progress_of, recorded, replayed, step_at
from tests.tiny import sd1_tensors, write_sd1

REGISTRY = built_in()
ASKED = GenerationRequest(
    prompt="a (red:1.3) apple", negative_prompt="blue", checkpoint="tiny", seed=7, steps=4, images=2
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_in(tmp_path_factory.mktemp("house"))


def house_in(root: Path) -> House:
    write_sd1(root / "models" / "Stable-diffusion" / "tiny.safetensors")
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(REGISTRY, catalog, Store(settings, catalog))


def pictures(events: list[Event]) -> dict[int, bytes]:
    return {e.index: e.image.tobytes() for e in events if isinstance(e, ImageDone)}


def test_a_run_tells_its_story_in_order(house: House) -> None:
    events = list(generate(ASKED, house))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    kinds = [type(event) for event in events if not isinstance(event, Started | Finished)]
    told = [kind for kind in kinds if kind in (Loaded, Step, Decoding, ImageDone)]
    one_image = [Step] * 5 + [Decoding, ImageDone]
    assert told == [Loaded, *one_image, *one_image]
    assert events[-1].evaluations == 2 * 4
    steps = [event for event in events if isinstance(event, Step)]
    assert [s.state.index for s in steps] == [0, 1, 2, 3, 4] * 2
    assert [s.sigma for s in steps[:5]] == list(steps[0].sigmas)
    assert len(pictures(events)) == 2


LIVELY = {
    "plain": ASKED,
    "nvidia": replace(ASKED, noise=NoiseKind.NV, ensd=31337),
    "variation": replace(ASKED, variation=Variation(seed=3, strength=0.3, resize_from=(48, 80))),
    "reading": replace(ASKED, clip_skip=2, emphasis=Emphasis.NO_NORM),
}


@pytest.mark.parametrize("name", LIVELY)
def test_each_picture_carries_the_request_that_makes_it_alone(name: str, house: House) -> None:
    """And so a batch equals its singles, bit for bit."""
    together = [e for e in generate(LIVELY[name], house) if isinstance(e, ImageDone)]
    assert len({done.image.tobytes() for done in together}) == 2
    if name != "plain":
        assert together[0].image.tobytes() != pictures(list(generate(ASKED, house)))[0]
    for done in together:
        assert done.request.images == 1
        again = pictures(list(generate(done.request, house)))
        assert again[0] == done.image.tobytes()


@pytest.mark.parametrize("name", REGISTRY.samplers)
def test_a_replay_is_the_run_and_resuming_it_anywhere_ends_in_the_same_bits(
    name: str, house: House, tmp_path: Path
) -> None:
    request = replace(ASKED, sampler=name, images=1)
    path = tmp_path / "run.trace"
    events = list(recorded(generate(request, house), path))
    again = list(replayed(path, REGISTRY))
    assert [type(e) for e in again] == [type(e) for e in events]
    for one, other in zip(events, again, strict=True):
        assert_same(one, other)
    assert isinstance(events[0], Started)
    steps = sum(isinstance(e, Step) for e in events) - 1
    # An adaptive sampler takes some forty: each third of them says as much.
    for k in range(0, steps + 1, 1 if steps < 20 else 3):
        state = step_at(path, REGISTRY, 0, k).state
        progress = Progress(images=(0,), state=state)
        rest = list(generate(events[0].request, house, progress=progress))
        assert pictures(rest) == pictures(events)
        assert sum(isinstance(e, Step) for e in rest) == steps - k


def assert_same(one: Event, other: Event) -> None:
    assert type(one) is type(other)
    for name, value in vars(one).items():
        theirs = getattr(other, name)
        if name == "image":
            assert value.tobytes() == theirs.tobytes()
        elif name == "state":
            assert torch.equal(value.latents, theirs.latents)
            assert (value.index, value.draws) == (theirs.index, theirs.draws)
            assert len(value.memory) == len(theirs.memory)
            assert all(map(torch.equal, value.memory, theirs.memory))
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs)
        elif name == "estimates":
            assert all(map(torch.equal, value, theirs))
        else:
            assert value == theirs, name


@pytest.mark.parametrize("name", LIVELY)
def test_every_kind_of_noise_is_replayed(name: str, house: House, tmp_path: Path) -> None:
    events = list(recorded(generate(LIVELY[name], house), tmp_path / "run.trace"))
    for one, other in zip(events, replayed(tmp_path / "run.trace", REGISTRY), strict=True):
        assert_same(one, other)


def test_a_recording_that_was_killed_anywhere_resumes_to_the_same_pictures(
    house: House, tmp_path: Path
) -> None:
    """Cut off at any byte it still reads, and the run goes on from its last whole step."""
    path = tmp_path / "whole.trace"
    events = list(recorded(generate(ASKED, house), path))
    whole = path.read_bytes()
    assert isinstance(events[0], Started)
    request = events[0].request
    for cut in range(200, len(whole), len(whole) // 11):
        broken = tmp_path / f"{cut}.trace"
        broken.write_bytes(whole[:cut])
        progress = progress_of(broken, REGISTRY)
        more = list(recorded(generate(request, house, progress=progress), broken))
        shown = pictures(list(replayed(broken, REGISTRY)))
        assert shown == pictures(events)
        assert sum(isinstance(e, Step) for e in more) <= 2 * 5


def test_recording_changes_no_bit_of_the_picture(house: House, tmp_path: Path) -> None:
    plain = pictures(list(generate(ASKED, house)))
    assert pictures(list(recorded(generate(ASKED, house), tmp_path / "t"))) == plain


def test_stopping_after_any_event_leaves_the_house_as_it_was(house: House) -> None:
    expected = pictures(list(generate(ASKED, house)))
    count = len(list(generate(ASKED, house)))
    for stop in range(1, count):
        events = generate(ASKED, house)
        for _ in range(stop):
            next(events)
        events.close()  # type: ignore[attr-defined]
    assert pictures(list(generate(ASKED, house))) == expected


def wishing(*wishes: Wish) -> Iterator[Wish]:
    yield from wishes
    while True:
        yield Wish.GO_ON


def test_finishing_early_decodes_the_estimate_and_begins_no_other_image(house: House) -> None:
    wishes = wishing(Wish.GO_ON, Wish.FINISH)
    events = list(generate(ASKED, house, lambda: next(wishes)))
    (done,) = [e for e in events if isinstance(e, ImageDone)]
    assert not done.finished
    assert sum(isinstance(e, Step) for e in events) == 3
    assert isinstance(events[-1], Finished)
    assert events[-1].interrupted


def test_skipping_goes_on_with_the_next_image(house: House) -> None:
    wishes = wishing(Wish.GO_ON, Wish.SKIP)
    events = list(generate(ASKED, house, lambda: next(wishes)))
    assert [e.finished for e in events if isinstance(e, ImageDone)] == [False, True]
    assert pictures(events)[1] == pictures(list(generate(ASKED, house)))[1]


def test_a_tag_that_nobody_knows_is_said_and_not_read_as_words(house: House) -> None:
    tagged = replace(ASKED, prompt=ASKED.prompt + "<magic:style:0.8>")
    events = list(generate(tagged, house))
    (note,) = [e for e in events if isinstance(e, Note)]
    assert "<magic:style:0.8>" in note.text
    assert pictures(events) == pictures(list(generate(ASKED, house)))
    (done, _) = [e for e in events if isinstance(e, ImageDone)]
    assert done.request.prompt == tagged.prompt


def test_a_number_that_is_read_as_the_prompts_weight_is_said(house: House) -> None:
    def notes(prompt: str) -> list[str]:
        events = generate(replace(ASKED, prompt=prompt, steps=1, images=1), house)
        return [e.text for e in events if isinstance(e, Note)]

    assert ":30 at the end" in notes("a clock at 12:30")[0]
    for plain in ("a clock at 12:30,", "a cat AND a dog:0.5", "a cat"):
        assert notes(plain) == []


def test_at_cfg_1_the_negative_prompt_has_no_say(house: House) -> None:
    one, other = (
        pictures(list(generate(replace(ASKED, cfg_scale=1, negative_prompt=n), house)))
        for n in ("blue", "a very different thing")
    )
    assert one == other
    assert one != pictures(list(generate(ASKED, house)))


def test_resolving_twice_changes_nothing_and_leaves_nothing_open(house: House) -> None:
    first = next(iter(generate(replace(ASKED, seed=None, schedule="automatic"), house)))
    assert isinstance(first, Started)
    assert None not in (first.request.seed, first.request.width, first.request.checkpoint)
    assert first.request.schedule == "normal"
    again = next(iter(generate(first.request, house)))
    assert again == first


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("sampler", "eulr", "euler_ancestral"),
        ("schedule", "kerras", "karras"),
        ("checkpoint", "missing", "tiny"),
        ("steps", 0, "between 1 and"),
        ("steps", 10**9, "between 1 and"),
        ("cfg_scale", float("nan"), "between 0 and"),
        ("cfg_scale", 1e308, "between 0 and"),
        ("width", 100, "multiple of 8"),
        ("width", 10**9, "between 16 and"),
        ("height", -8, "between 16 and"),
        ("seed", -1, "between 0 and"),
        ("seed", 2**63, "between 0 and"),
        ("images", 0, "between 1 and"),
        ("prompt", "x" * 100_000, "20,000 fit"),
        ("schedule", (1.0, 2.0, 0.0), "fall"),
        ("clip_skip", 30, "clip_skip must be"),
        ("ensd", -100, "add up to a seed"),
        ("variation", Variation(strength=2.0), "between 0 and 1"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_can(
    field: str, value: object, hint: str, house: House
) -> None:
    with pytest.raises(RequestError, match=hint):
        list(generate(replace(ASKED, **{field: value}), house))


def test_a_network_that_answers_nan_is_named_with_its_step(tmp_path: Path) -> None:
    house = house_in(tmp_path)
    tensors = sd1_tensors()
    tensors["model.diffusion_model.out.2.bias"][0] = torch.nan
    write_sd1(tmp_path / "models/Stable-diffusion/broken.safetensors", tensors)
    with pytest.raises(NotFinite, match="step 1 of 4"):
        list(generate(replace(ASKED, checkpoint="broken"), house))


def test_a_failed_load_leaves_the_previous_model_working(tmp_path: Path) -> None:
    house = house_in(tmp_path)
    expected = pictures(list(generate(ASKED, house)))
    tensors = sd1_tensors()
    del tensors["first_stage_model.decoder.conv_out.weight"]
    write_sd1(tmp_path / "models/Stable-diffusion/partial.safetensors", tensors)
    with pytest.raises(FileError, match=r"decoder\.conv_out\.weight"):
        list(generate(replace(ASKED, checkpoint="partial"), house))
    assert pictures(list(generate(ASKED, house))) == expected


def test_a_new_process_paints_the_same_pixels(house: House, tmp_path: Path) -> None:
    write_sd1(tmp_path / "models/Stable-diffusion/tiny.safetensors")
    script = (
        "import sys, hashlib; from pathlib import Path\n"
        "from tests.core.test_generate import ASKED, house_in, pictures\n"
        "from core.generate import generate\n"
        f"found = pictures(list(generate(ASKED, house_in(Path({str(tmp_path)!r})))))\n"
        "print(hashlib.sha256(found[1]).hexdigest())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    expected = pictures(list(generate(ASKED, house)))[1]
    assert told.stdout.strip() == hashlib.sha256(expected).hexdigest()


def test_torch_threads_keep_their_gradient_mode(house: House) -> None:
    """generate is decorated, not wrapped round its yields: no mode leaks out between events."""
    for event in generate(ASKED, house):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled(), event
