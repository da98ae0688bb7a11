"""Memory that runs out: each step of falling back, told, and the picture the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.adapters.lora import lora
from core.adapters.patch import Use
from core.engine.answers import exhausted
from core.errors import NotFinite, OutOfMemory
from core.events import Event, ImageDone, Note, Step
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.models.placing import CPU, Placing
from core.models.precision import Precisions
from core.models.reading import read_checkpoint
from core.models.sparing import asking, kept_trying, network_measures, vae_measures
from core.models.store import Store
from core.nn.attention import Words
from core.nn.seamless import seamless
from core.nn.tiles import Cells, tiled
from core.registry import built_in
from core.request import GenerationRequest, Record
from core.sampling.conditioning import Conditioning
from core.sampling.prediction import Prediction, Predictor
from core.sampling.schedule import Schedule
from core.settings import Tiles, default_settings
from core.trace import recorded, replayed
from tests.tiny import write_sd1

REGISTRY = built_in()
ASKED = GenerationRequest(
    prompt="an apple", negative_prompt="blue", checkpoint="tiny", seed=7, steps=2
)
WIDE = replace(ASKED, width=320, height=64, steps=1)
"""40 cells wide: more than the smallest tile."""
ELSEWHERE = torch.device("cpu", 0)
"""The CPU, told to Placing as another device: so everything really runs."""
Condition = Callable[[nn.Module, tuple[Any, ...]], bool]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    write_sd1(folder / "models" / "Stable-diffusion" / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def house(root: Path) -> House:
    settings = default_settings(root)
    catalog = Catalog(settings)
    store = Store(settings, catalog)
    store.placing = Placing(CPU, move=lambda module, device: None)
    return House(REGISTRY, catalog, store)


@pytest.fixture(autouse=True)
def plain(house: House) -> Iterator[None]:
    yield
    house.store.placing.device, house.store.placing.tiles = CPU, "automatic"


def model_of(house: House) -> Checkpoint:
    return exhausted(house.store.loaded("tiny"))


@contextmanager
def failing(
    part: nn.Module, when: Condition, error: Exception | None = None
) -> Iterator[list[int]]:
    """`part` has no memory when `when` says so of it and of what it is given; counts the calls."""
    calls: list[int] = []

    def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
        calls.append(prompts(given))
        if when(module, given):
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    handle = part.register_forward_pre_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def prompts(given: tuple[Any, ...]) -> int:
    """Rows of context that a U-Net is given, or rows of whatever else is."""
    rows = given[2] if len(given) > 2 else given[0] if given else ()
    return len(rows)


def first(times: int) -> Condition:
    left = [times]

    def when(module: nn.Module, given: tuple[Any, ...]) -> bool:
        left[0] -= 1
        return left[0] >= 0

    return when


def notes(events: list[Event]) -> list[str]:
    return [e.text for e in events if isinstance(e, Note) and e.kind == "memory"]


def picture(events: list[Event]) -> bytes:
    (done,) = [e for e in events if isinstance(e, ImageDone)]
    return done.image.tobytes()


def last(events: list[Event]) -> Tensor:
    return [e.state.latents for e in events if isinstance(e, Step)][-1]


# the network


@pytest.mark.parametrize(
    "error", [None, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_without_room_for_both_prompts_they_are_asked_in_turn(
    house: House, error: Exception | None
) -> None:
    expected = list(generate(ASKED, house))
    with failing(model_of(house).network, lambda _, given: prompts(given) > 1, error) as calls:
        events = list(generate(ASKED, house))
    assert calls == [2, 1, 1, 1, 1]  # once it is known, no call is made in vain
    (note,) = notes(events)
    assert "one prompt after another" in note
    assert isinstance(events[[type(e) for e in events].index(Note) - 1], Step)
    # Guidance makes roundings larger, at first noise levels' worth of them.
    torch.testing.assert_close(last(events), last(expected), rtol=2e-3, atol=2e-3)
    assert picture(list(generate(ASKED, house))) == picture(expected)  # together again


def test_other_errors_are_not_tried_again(house: House) -> None:
    wrong = RuntimeError("shapes differ")
    with (
        failing(model_of(house).network, first(1), wrong) as calls,
        pytest.raises(RuntimeError, match="shapes differ"),
    ):
        list(generate(ASKED, house))
    assert len(calls) == 1


@pytest.mark.parametrize("short", ["medvram", "lowvram", "prompts"])
def test_where_memory_is_short_nothing_is_kept_from_call_to_call(short: Any) -> None:
    kept: list[weakref.ref[Words] | None] = []

    def network(x: Tensor, timestep: Tensor, context: Tensor, *_: Any, **told: Any) -> Tensor:
        words = told["attending"].words
        kept.append(None if words is None else weakref.ref(words))
        return torch.zeros(len(context), 4, 2, 2)

    placing = Placing(CPU)
    predictor = Predictor(network, Prediction.EPS, Schedule(torch.linspace(0.1, 10, 20)))
    ask = asking(placing, 8, lambda memory: None)
    prompts = [Conditioning(torch.randn(1, 5, 4)), Conditioning(torch.randn(1, 5, 4))]
    given = predictor, torch.randn(1, 4, 2, 2), torch.tensor(2.0), prompts
    ask(*given)
    ask(*given)
    first, second = kept
    assert first is not None and second is not None and first() is second() is not None
    if short == "prompts":
        placing.thrift = replace(placing.thrift, apart=short)
    else:
        placing.memory = short
    ask(*given)
    assert set(kept[2:]) == {None} and first() is None


def test_the_steps_come_in_order_each_once() -> None:
    moved: list[str] = []
    placing = Placing(CPU, move=lambda module, device: None)
    placing.device = ELSEWHERE

    def tighten(memory: Any) -> None:
        moved.append(memory)
        placing.tighten(memory)

    said = list(network_measures(placing, 2, 2, tighten))
    keys = ("prompt after", "image after", "medvram", "lowvram")
    assert [key in text for key, text in zip(keys, said, strict=True)] == [True] * 4
    assert list(network_measures(placing, 2, 2, tighten)) == []
    said = list(vae_measures(placing, 2, 128, 8, tighten))
    keys = ("image after", "768", "512", "256")
    assert [key in text for key, text in zip(keys, said, strict=True)] == [True] * 4
    assert moved == ["medvram", "lowvram"]
    placing.ease()
    assert placing.memory == "plenty" and placing.thrift.tile is None
    assert [t for t in vae_measures(placing, 1, 32, 8, tighten) if "tiles" in t] == []


# parts off the device


def crowded(placing: Placing, most: int) -> Condition:
    return lambda *_: len(placing._here) > most


@pytest.mark.parametrize("policy", ["medvram", "lowvram"])
def test_without_room_beside_the_network_other_parts_leave(house: House, policy: str) -> None:
    expected, placing, model = picture(list(generate(ASKED, house))), house.store.placing, None
    model = model_of(house)
    placing.device = ELSEWHERE
    for part in (model.network, model.vae, model.text):
        placing._here.add(part)
    tight = {"medvram": ("medvram", "lowvram"), "lowvram": ("lowvram",)}[policy]
    alone = replace(ASKED, negative_prompt="", cfg_scale=1.0)
    usual = picture(list(generate(alone, house)))
    with failing(model.network, lambda *_: placing.memory not in tight):
        events = list(generate(alone, house))
    assert [text.rpartition("(")[2] for text in notes(events)] == (
        ["medvram)"] if policy == "medvram" else ["medvram)", "lowvram)"]
    )
    assert picture(events) == usual
    assert placing.memory == "plenty"
    assert not placing._here  # they come back when they are used
    assert picture(list(generate(ASKED, house))) == expected


def test_what_loras_replaced_leaves_and_comes_back_too(root: Path) -> None:
    """As Placing tells it: every weight lies where its network does."""
    where: dict[int, torch.device] = {}
    placing = Placing(
        CPU, move=lambda m, d: where.update(dict.fromkeys(map(id, m.parameters()), d))
    )
    model = read(root, placing)
    placing.device = ELSEWHERE
    placing.need(model.network)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    factors = {f"{layer}.lora_down.weight": torch.ones(2, 32)}
    factors[f"{layer}.lora_up.weight"] = torch.ones(64, 2)
    use = Use(lora("ink", factors, {}))
    model.wear([use])
    worn = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    assert any(not torch.equal(worn[name], before[name]) for name in worn)
    model._tighten("medvram")
    assert all(torch.equal(t, worn[n]) for n, t in model.network.state_dict().items())
    placing.need(model.network)
    placing.ease()
    placing.need(model.network)
    model.wear(())
    assert all(torch.equal(t, before[n]) for n, t in model.network.state_dict().items())
    assert {where[id(p)] for p in model.network.parameters()} == {ELSEWHERE}


def test_a_part_that_comes_halfway_goes_back() -> None:
    done: list[str] = []

    def move(module: nn.Module, device: torch.device) -> None:
        done.append(device.type)
        if device != CPU:
            raise torch.OutOfMemoryError("CUDA out of memory")

    placing, part = Placing(torch.device("cuda"), "plenty", move), nn.Linear(2, 2)
    with pytest.raises(torch.OutOfMemoryError):
        placing.need(part)
    assert done == ["cuda", "cpu"] and part not in placing._here


# the VAE


def read(root: Path, placing: Placing, vae: Any = "float32") -> Checkpoint:
    file = Catalog(default_settings(root)).checkpoint("tiny")
    return exhausted(read_checkpoint(file, placing, Precisions("float32", vae, False)))


def latents(*sides: int, images: int = 1) -> Tensor:
    return torch.randn(images, 4, *sides, generator=torch.Generator().manual_seed(1))


def larger_than(cells: int) -> Condition:
    return lambda _, given: max(given[0].shape[-2:]) > cells


def test_a_picture_that_does_not_fit_is_decoded_and_encoded_in_tiles(root: Path) -> None:
    model = read(root, Placing(CPU))
    given = latents(40, 12, images=2)
    scale = model.family.latent_scale
    with torch.inference_mode(), failing(model.vae.decoder, larger_than(32)) as calls:
        decoded = model.decode(given)
        assert calls[0] == 2 and set(calls[1:]) == {1}
        texts = [note.text for note in model.taken_notes()]
        assert "one image after another" in texts[0]
        assert "tiles of 256 pixels, so the picture is slightly another" in texts[-1]
        wanted = [tiled(model.vae.decode, one / scale, Cells(1, 8), 32) for one in given.split(1)]
        assert torch.equal(decoded, torch.cat(wanted))
    model.placing.ease()
    with torch.inference_mode(), failing(model.vae.encoder, larger_than(256)):
        mean = model.encode(decoded)
        assert mean.shape == given.shape
        assert len(model.taken_notes()) == 2
    model.placing.ease()
    with torch.inference_mode():
        whole = model.decode(given)
        assert float((whole - decoded).square().mean().sqrt()) < 0.2 * float(whole.std())
    assert model.taken_notes() == ()


def test_where_parts_can_leave_the_picture_stays_whole(root: Path) -> None:
    placing = Placing(CPU, move=lambda module, device: None)
    model = read(root, placing)
    given = latents(40, 8)
    with torch.inference_mode():
        whole = model.decode(given)
        placing.device = ELSEWHERE
        with failing(model.vae.decoder, crowded(placing, 1)):
            assert torch.equal(model.decode(given), whole)
    (note,) = model.taken_notes()
    assert "medvram" in note.text


@pytest.mark.parametrize(("tiles", "count"), [("automatic", 1), ("never", 0)])
def test_tiles_are_chosen_ahead_where_the_whole_would_not_fit(
    root: Path, tiles: Tiles, count: int
) -> None:
    """A tile takes 17 MB of the 40 that are free."""
    model = read(root, Placing(CPU, tiles=tiles, free=lambda _: 40 * 2**20))
    with torch.inference_mode(), failing(model.vae.decoder, lambda *_: False) as calls:
        model.decode(latents(64, 64))
        assert len(calls) == (9 if count else 1)
        said = [note.text for note in model.taken_notes()]
        assert len(said) == count
        if count:
            assert (
                "would take about 51 MB of memory, and 40 MB are free" in said[0]
                and "tiles of 256" in said[0]
            )
        model.decode(latents(8, 8))
    assert model.taken_notes() == ()


def test_tiles_that_the_settings_ask_for_are_said(root: Path) -> None:
    model = read(root, Placing(CPU, tiles="always"))
    with torch.inference_mode(), failing(model.vae.decoder, larger_than(64)) as calls:
        model.decode(latents(72, 8))
    assert len(calls) == 2
    assert [note.text for note in model.taken_notes()] == [
        "the VAE works in tiles of 512 pixels, as the settings say"
    ]


def test_a_vae_that_outgrows_its_precision_in_little_memory(root: Path) -> None:
    model = read(root, Placing(CPU), "float16")
    with torch.inference_mode():
        model.vae.post_quant_conv.weight *= 3000.0
        with failing(model.vae.decoder, larger_than(32)):
            pixels = model.decode(latents(40, 8) * 20)
    assert torch.isfinite(pixels).all()
    assert [note.kind for note in model.taken_notes()] == ["memory", "precision"]
    assert {p.dtype for p in model.vae.parameters()} == {torch.float16}
    with torch.inference_mode(), pytest.raises(NotFinite):
        model.vae.decoder.conv_out.weight.fill_(float("nan"))
        model.decode(latents(40, 8))


def test_edges_that_meet_do_so_in_tiles(root: Path) -> None:
    model = read(root, Placing(CPU))
    given = latents(8, 40)
    with torch.inference_mode(), seamless(model.vae):
        whole = model.decode(given, edgeless=True)
        with failing(model.vae.decoder, larger_than(32)):
            around, cut = model.decode(given, edgeless=True), model.decode(given)
    edges = [..., [0, 1, -2, -1]]
    errors = [float((one - whole)[tuple(edges)].square().mean().sqrt()) for one in (around, cut)]
    assert errors[0] < 0.5 * errors[1]


# whole runs


def test_a_run_in_tiles_is_recorded_and_replayed_with_its_note(
    house: House, tmp_path: Path
) -> None:
    expected = list(generate(WIDE, house))
    path = tmp_path / "run.trace"
    request = replace(WIDE, record=Record.STEPS)
    model = model_of(house)
    for poor in (False, True):
        path.unlink(missing_ok=True)
        with (
            failing(model.network, lambda _, given: poor and prompts(given) > 1),  # noqa: B023
            failing(model.vae.decoder, larger_than(32)),
        ):
            events = list(recorded(generate(request, house), path))
        assert poor or torch.equal(last(events), last(expected))
        assert len(notes(events)) == 1 + poor
        assert "tiles of 256 pixels" in notes(events)[-1]
        again = list(replayed(path, REGISTRY))
        assert [type(e) for e in again] == [type(e) for e in events]
        assert notes(again) == notes(events) and torch.equal(last(again), last(events))
    assert picture(list(generate(WIDE, house))) == picture(expected)


def test_when_nothing_helps_it_is_said_and_the_next_run_is_as_ever(house: House) -> None:
    expected, model = picture(list(generate(ASKED, house))), model_of(house)
    hint = r"painting at 64x64.* GB are free now; ask for a smaller picture"
    with failing(model.network, lambda *_: True), pytest.raises(OutOfMemory, match=hint) as caught:
        list(generate(ASKED, house))
    assert caught.value.__context__ is None
    with (
        failing(model.vae.decoder, lambda *_: True),
        pytest.raises(OutOfMemory, match="decoding at 320x64"),
    ):
        list(generate(WIDE, house))
    events = list(generate(ASKED, house))
    assert picture(events) == expected
    assert notes(events) == []


def test_stopping_after_any_event_of_a_poor_run_leaves_the_house_as_it_was(house: House) -> None:
    expected, model = picture(list(generate(ASKED, house))), model_of(house)
    placing = house.store.placing
    for after in range(1, 20):
        with failing(model.network, lambda _, given: prompts(given) > 1):
            events = generate(ASKED, house)
            ended = len([event for _, event in zip(range(after), events, strict=False)]) < after
            events.close()  # type: ignore[attr-defined]
        assert placing.thrift.apart == "nothing" and placing.taken_notes() == ()
        if ended:
            break
    else:
        raise AssertionError("the run never ended")
    assert picture(list(generate(ASKED, house))) == expected


def test_what_a_failed_call_held_is_let_go() -> None:
    held: list[Any] = []

    class Large:
        pass

    def call() -> int:
        import weakref

        large = Large()
        if not held:
            held.append(weakref.ref(large))
            raise MemoryError
        assert held[0]() is None, "the first call's tensors are still there"
        return 1

    from core.models.sparing import Work

    assert kept_trying(call, iter(["less"]), Work("trying", 8, 8), Placing(CPU)) == 1
