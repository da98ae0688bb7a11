"""Adapters in whole runs: what they change, what they leave, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from core.errors import AdapterError, RequestError
from core.events import Event, ImageDone, Note, Step
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.store import Store
from core.nn.attention import Words
from core.registry import built_in
from core.request import GenerationRequest, LoraUse
from core.settings import default_settings
from tests.tiny import write_sd1

ASKED = GenerationRequest(
    prompt="a red apple", checkpoint="tiny", seed=7, steps=4, width=64, height=64, sampler="euler"
)
LAYERS = {
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q": "unet",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": "text",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    write_sd1(root / "models" / "Stable-diffusion" / "tiny.safetensors")
    settings = default_settings(root)
    catalog = Catalog(settings)
    house = House(built_in(), catalog, Store(settings, catalog))
    widths = _widths(house)
    folder = root / "models" / "Lora"
    for name, seed in (("one", 1), ("two", 2)):
        write_lora(folder / f"{name}.safetensors", widths, seed)
    write_lora(folder / "foreign.safetensors", {"lora_unet_nowhere_to_q": 8}, 3)
    more = {**widths, "lora_unet_input_blocks_9_1_transformer_blocks_0_attn1_to_q": 8}
    write_lora(folder / "partly.safetensors", more, 4)
    block = _model(house).network.input_blocks[1][1].transformer_blocks[0]
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_"
    shapes = {f"{name}{of}": getattr(block.attn2, f"to_{of}").weight.shape for of in "kv"}
    write_lora(folder / "words.safetensors", shapes, 6)
    embeddings = root / "embeddings"
    embeddings.mkdir()
    vectors = torch.randn(2, text_width(house), generator=torch.Generator().manual_seed(5))
    save_file({"emb_params": vectors}, embeddings / "glimmer.safetensors")
    save_file({"emb_params": vectors.repeat(1, 3)}, embeddings / "toowide.safetensors")
    return house


def write_lora(path: Path, shapes: Mapping[str, int | Sequence[int]], seed: int) -> None:
    """Of layers by their (out, in); one number stands for both."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        out, width = (shape, shape) if isinstance(shape, int) else shape
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 2, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def _model(house: House):  # type: ignore[no-untyped-def]
    loading = house.store.loaded("tiny")
    while True:
        try:
            next(loading)
        except StopIteration as end:
            return end.value


def _widths(house: House) -> dict[str, int]:
    model = _model(house)
    block = model.network.input_blocks[1][1].transformer_blocks[0]
    text = model.text.text_model.encoder.layers[0].self_attn.q_proj
    return dict(zip(LAYERS, (block.attn1.to_q.in_features, text.in_features), strict=True))


def text_width(house: House) -> int:
    (width,) = _model(house).text.widths
    return int(width)


def run(house: House, **changes: object) -> tuple[bytes, list[Event]]:
    events = list(generate(replace(ASKED, **changes), house))  # type: ignore[arg-type]
    (image,) = [event.image for event in events if isinstance(event, ImageDone)]
    return image.tobytes(), events


def notes(events: Sequence[Event]) -> dict[str, str]:
    return {event.kind: event.text for event in events if isinstance(event, Note)}


def test_a_lora_acts_says_so_and_is_gone_afterwards(house: House) -> None:
    before, _ = run(house)
    with_lora, events = run(house, prompt="a red apple <lora:one:1>")
    after, _ = run(house)
    assert before == after != with_lora
    assert notes(events) == {"applied": "LoRA one at 1: 2 layers"}


def test_a_weight_of_0_is_none_and_order_has_no_say(house: House) -> None:
    before, _ = run(house)
    assert run(house, prompt="a red apple <lora:one:0>")[0] == before
    tags = ("<lora:one:0.5>", "<lora:two:-0.3>")
    there, _ = run(house, prompt="a red apple" + "".join(tags))
    back, _ = run(house, prompt="a red apple" + "".join(reversed(tags)))
    assert max(abs(a - b) for a, b in zip(there, back, strict=True)) <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a red apple <lora:words:1:start=0.5>"},
        {"prompt": "a red apple <lora:words:1:end=0.5>"},
        {"prompt": "a [red:green:2] apple"},
        {"prompt": "a [red|green] apple AND a pear :0.5", "negative_prompt": "blue"},
        {"prompt": "a (glimmer:1.2) apple", "sampler": "heun"},
    ],
)
def test_keys_and_values_that_are_kept_change_no_bit(
    house: House, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = run(house, **changes)
    monkeypatch.setattr(Words, "made", lambda words, site, context, make: make(context))
    assert run(house, **changes)[0] == kept


def test_a_tag_and_a_part_of_the_request_are_the_same(house: House) -> None:
    tagged, _ = run(house, prompt="a red apple<lora:one:0.7>")
    asked, _ = run(house, loras=(LoraUse(name="one", weight=0.7),))
    assert tagged == asked


def test_text_and_unet_have_their_own_weights(house: House) -> None:
    both, _ = run(house, prompt="a red apple <lora:one:1>")
    found = {
        run(house, prompt=f"a red apple <lora:one:{te}:{unet}>")[0] for te, unet in ((1, 0), (0, 1))
    }
    assert len(found | {both, run(house)[0]}) == 4


@pytest.mark.parametrize(
    ("prompt", "from_step", "to_step"),
    [
        ("a red apple <lora:one:1:start=0.5>", 2, 4),
        ("a red apple [<lora:one:1>:0.5]", 2, 4),
        ("a red apple <lora:one:1:end=0.5>", 0, 2),
        ("a red apple [<lora:one:1>::0.5]", 0, 2),
        ("a red apple <lora:one:1:start=0.25:end=0.75>", 1, 3),
    ],
)
def test_a_lora_acts_between_its_steps_alone(
    prompt: str, from_step: int, to_step: int, house: House
) -> None:
    """Each interval is that of the run with it throughout, or that of the run without."""
    _, events = run(house, prompt=prompt)
    plain = _estimate_at(house, events, "a red apple")
    with_it = _estimate_at(house, events, "a red apple <lora:one:1>")
    steps = [event for event in events if isinstance(event, Step)]
    for index, step in enumerate(steps[1:]):
        wanted = with_it if from_step <= index < to_step else plain
        assert torch.equal(step.estimates[0], wanted[index])


def _estimate_at(house: House, events: Sequence[Event], prompt: str) -> list[torch.Tensor]:
    """What a run with another prompt would estimate from each of these states."""
    from core.request import Branch

    steps = [event for event in events if isinstance(event, Step)]
    found = []
    for index, step in enumerate(steps[:-1]):
        there = replace(house, stored=lambda branch, step=step: step)
        request = replace(ASKED, prompt=prompt, branch=Branch(job="run", index=index))
        first = [e for e in generate(request, there) if isinstance(e, Step)][1]
        found.append(first.estimates[0])
    return found


def test_layers_without_a_place_are_named(house: House) -> None:
    _, events = run(house, prompt="a red apple <lora:partly:1>")
    assert "2 layers, and 1 that this model has no place for" in notes(events)["unmatched"]


def test_a_lora_that_matches_nothing_is_an_error_and_changes_nothing(house: House) -> None:
    before, _ = run(house)
    with pytest.raises(AdapterError, match="foreign"):
        run(house, prompt="a red apple <lora:one:1><lora:foreign:1>")
    assert run(house)[0] == before


def test_a_lora_that_is_not_there_is_an_error_at_once(house: House) -> None:
    with pytest.raises(RequestError, match="no LoRA named 'three'"):
        run(house, prompt="a red apple <lora:three:1>")


def test_a_run_given_up_in_the_middle_leaves_no_lora_behind(house: House) -> None:
    before, _ = run(house)
    events = generate(replace(ASKED, prompt="a red apple <lora:one:1>"), house)
    for event in events:
        if isinstance(event, Step) and event.state.index == 2:
            events.close()  # type: ignore[attr-defined]
    assert run(house)[0] == before


def test_an_embedding_is_read_by_its_name(house: House) -> None:
    plain, _ = run(house)
    known, _ = run(house, prompt="a glimmer apple")
    weighed, _ = run(house, prompt="a (glimmer:1.3) apple")
    negative, _ = run(house, negative_prompt="glimmer")
    assert len({plain, known, weighed, negative}) == 4
    assert run(house)[0] == plain


def test_an_embedding_of_another_width_is_named(house: House) -> None:
    _, events = run(house, prompt="a toowide apple")
    assert "toowide" in notes(events)["embedding"]
