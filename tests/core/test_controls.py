"""The laws of runs that a picture guides: ControlNets, T2I-Adapters and IP-Adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from core.engine.answers import answered
from core.engine.engine import LookInside
from core.engine.job import Job
from core.engine.looking import Inside
from core.errors import AdapterError, RequestError
from core.events import Event, ImageDone, Loaded, Note, Step
from core.generate import House, Progress, generate
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.models.family import UNET
from core.models.store import Store
from core.nn.controlnet import ControlNet
from core.nn.ip_adapter import IPAdapter, ProjectionConfig, sites
from core.nn.t2i_adapter import AdapterConfig, T2IAdapter
from core.nn.unet import UNet
from core.registry import built_in
from core.request import (
    ControlUse,
    During,
    Enlarge,
    GenerationRequest,
    Hearing,
    LoraUse,
    Refine,
    StartImage,
)
from core.resolve import resolve
from core.settings import default_settings
from core.trace import progress_of, recorded
from tests.tiny import (
    below,
    checkpoint_tensors,
    sd1_tensors,
    seeded,
    tiny_unet,
    unet_config_of,
    write_checkpoint,
    write_sd1,
)

SIZE = 64
STEPS = 4
ONCE = 2
"""Steps where how many there are does not matter."""
CONFIG = unet_config_of("sd1")
ENCODER = {"width": 32, "projection": 24, "layers": 3}
KINDS = ("net", "adapter", "ip", "ip_plus")


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path)


def control_net(family: str = "sd1") -> ControlNet:
    net = seeded(ControlNet(unet_config_of(family)), 4)
    assert isinstance(net, ControlNet)
    return net


def t2i_adapter(family: str = "sd1") -> T2IAdapter:
    config = unet_config_of(family)
    widths = tuple(config.channels * m for m in config.multipliers)
    numbers = AdapterConfig(1, 8, widths)
    if family == "sdxl":
        numbers = AdapterConfig(3, 16, (*widths, widths[-1]))
    net = seeded(T2IAdapter(numbers), 6)
    assert isinstance(net, T2IAdapter)
    return net


def ip_adapter(plus: bool, family: str = "sd1") -> IPAdapter:
    unet = tiny_unet(unet_config_of(family))
    config = ProjectionConfig(ENCODER["projection"], unet.config.context, 4)
    if plus:
        config = ProjectionConfig(ENCODER["width"], unet.config.context, 6, inner=64, layers=2)
    net = seeded(IPAdapter(config, [width for _, width in sites(unet)]), 8)
    assert isinstance(net, IPAdapter)
    return net


def image_encoder() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=ENCODER["width"],
        projection_dim=ENCODER["projection"],
        intermediate_size=64,
        num_hidden_layers=ENCODER["layers"],
        num_attention_heads=1,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    return seeded(CLIPVisionModelWithProjection(config), 9)


def house_in(root: Path) -> House:
    settings = default_settings(root)
    catalog = Catalog(settings)
    store = Store(settings, catalog)
    return House(built_in(), catalog, store, Inputs(root / "inputs"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    models = root / "models"
    write_sd1(models / "Stable-diffusion/tiny.safetensors")
    write_checkpoint(
        models / "Stable-diffusion/inpainting.safetensors", checkpoint_tensors("sd1", 9)
    )
    write_checkpoint(models / "Stable-diffusion/xl.safetensors", checkpoint_tensors("sdxl"))
    folder = models / "ControlNet"
    net = control_net().state_dict()
    save(folder / "net.safetensors", {"control_model." + n: t for n, t in net.items()})
    own = tiny_unet().state_dict()
    difference = {"control_model." + n: t - own[n] if n in own else t for n, t in net.items()}
    save(folder / "difference.safetensors", difference | {"difference": torch.zeros(1)})
    xl = control_net("sdxl").state_dict()
    save(folder / "xl.safetensors", {"control_model." + n: t for n, t in xl.items()})
    save(folder / "adapter.safetensors", dict(t2i_adapter().state_dict()))
    save(folder / "xl_adapter.safetensors", dict(t2i_adapter("sdxl").state_dict()))
    save(folder / "xl_ip.safetensors", dict(ip_adapter(True, "sdxl").state_dict()))
    save(folder / "ip.safetensors", dict(ip_adapter(False).state_dict()))
    save(folder / "ip_plus.safetensors", dict(ip_adapter(True).state_dict()))
    save(models / "clip_vision/tower.safetensors", dict(image_encoder().state_dict()))
    down = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_"
    lora = {down + "down.weight": torch.ones(2, 32) * 0.1, down + "up.weight": torch.ones(32, 2)}
    save(models / "Lora/style.safetensors", lora)
    return house_in(root)


def noisy(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.fixture(scope="module")
def picture(house: House) -> str:
    assert house.inputs is not None
    return house.inputs.add(noisy(3))


@pytest.fixture(scope="module")
def asked(picture: str) -> GenerationRequest:
    return GenerationRequest(
        prompt="a red apple",
        negative_prompt="blue",
        checkpoint="tiny",
        seed=7,
        steps=STEPS,
        width=SIZE,
        height=SIZE,
        sampler="dpmpp_2m",
    )


def guided(request: GenerationRequest, *uses: ControlUse) -> GenerationRequest:
    return replace(request, controls=uses)


def end(request: GenerationRequest, house: House) -> Tensor:
    """The latents that a run ends with; of each request and house once."""
    key = id(house), json.dumps(request.to_json(), sort_keys=True)
    if key not in ENDS:
        ENDS[key] = steps(generate(request, house))[-1].state.latents
    return ENDS[key]


ENDS: dict[tuple[int, str], Tensor] = {}


def steps(events: Iterator[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def difference(one: Tensor, two: Tensor) -> float:
    return ((one - two).abs().max() / two.abs().max()).item()


@pytest.mark.parametrize("model", KINDS)
def test_a_guide_acts_and_at_weight_0_leaves_every_bit(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    use = ControlUse(model=model, picture=picture)
    plain = end(asked, house)
    assert difference(end(guided(asked, use), house), plain) > 1e-3
    assert torch.equal(end(guided(asked, replace(use, weight=0.0)), house), plain)


@pytest.mark.parametrize("model", KINDS)
def test_a_guide_that_ends_where_it_starts_leaves_every_bit(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    use = ControlUse(model=model, picture=picture, start=0.5, end=0.5)
    assert torch.equal(end(guided(asked, use), house), end(asked, house))


@pytest.mark.parametrize("model", ["net", "adapter"])
def test_two_halves_of_a_weight_are_the_whole(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    use = ControlUse(model=model, picture=picture)
    half = replace(use, weight=0.5)
    one = replace(asked, steps=1)
    whole, halves = end(guided(one, use), house), end(guided(one, half, half), house)
    assert difference(halves, whole) < 1e-5  # summed residuals may lie otherwise in memory


@pytest.mark.parametrize(
    ("start", "last", "calls"), [(0, 1, 4), (0, 0.5, 2), (0.25, 0.75, 2), (0.5, 1, 2), (0, 0.3, 2)]
)
def test_start_and_end_count_the_calls_they_should(  # type: ignore[no-untyped-def]
    start: float,
    last: float,
    calls: int,
    asked: GenerationRequest,
    picture: str,
    house,
    monkeypatch,
) -> None:
    seen = []
    forward = ControlNet.forward

    def counted(self, *args, **options):  # type: ignore[no-untyped-def]
        seen.append(len(args[0]))
        return forward(self, *args, **options)

    monkeypatch.setattr(ControlNet, "forward", counted)
    use = ControlUse(model="net", picture=picture, start=start, end=last)
    request = replace(guided(asked, use), sampler="euler")
    assert len(steps(generate(request, house))) == STEPS + 1
    assert seen == [2] * calls  # prompt and negative prompt together


@pytest.mark.parametrize("model", KINDS)
def test_until_it_begins_a_run_is_as_without_it(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    use = ControlUse(model=model, picture=picture, start=0.5)
    with_it = steps(generate(guided(asked, use), house))
    without = steps(generate(asked, house))
    equal = [
        torch.equal(a.state.latents, b.state.latents) for a, b in zip(with_it, without, strict=True)
    ]
    assert equal == [True, True, True, False, False]


@pytest.mark.parametrize("at", range(1, STEPS))
def test_a_run_with_guides_resumes_exactly_from_every_step(
    at: int, asked: GenerationRequest, picture: str, house: House, tmp_path: Path
) -> None:
    uses = [
        ControlUse(model=model, picture=picture, end=0.75, hearing=Hearing.CONTROL)
        for model in ("net", "adapter", "ip")
    ]
    request = replace(guided(asked, *uses), seed=11)
    whole = end(request, house)
    events = generate(request, house)
    for event in recorded(events, tmp_path / "trace"):
        if isinstance(event, Step) and event.state.index == at:
            break
    events.close()  # type: ignore[attr-defined]
    progress: Progress = progress_of(tmp_path / "trace", house.registry)
    resumed = steps(generate(request, house, progress=progress))
    assert resumed[0].state.index == at + 1
    assert torch.equal(resumed[-1].state.latents, whole)


@pytest.mark.parametrize("model", KINDS)
def test_a_step_is_looked_into_with_its_guide_and_without(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    request = guided(asked, ControlUse(model=model, picture=picture, end=0.5))
    job = Job(resolve(request, house.catalog, house.registry), "me")
    for event in generate(job.request, house):
        job.publish(event)
    for index in range(STEPS):
        with_it, without = (
            answered(LookInside(job.id, 0, index, without_guides=left_out), lambda _: job, house)
            for left_out in (False, True)
        )
        assert isinstance(with_it, Inside) and isinstance(without, Inside)
        recorded_one = next(
            event.estimates[0]
            for event in job.events()
            if isinstance(event, Step) and event.estimates and event.state.index == index + 1
        )
        assert torch.equal(with_it.guided(with_it.cfg_scale), recorded_one)
        assert torch.equal(with_it.conds[0], without.conds[0]) is (index >= STEPS / 2)


@pytest.mark.parametrize("model", KINDS)
def test_a_batch_with_guides_equals_its_singles(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    request = guided(replace(asked, steps=ONCE), ControlUse(model=model, picture=picture))
    both = [
        event.image.tobytes()
        for event in generate(replace(request, images=2), house)
        if isinstance(event, ImageDone)
    ]
    singles = [
        event.image.tobytes()
        for seed in (7, 8)
        for event in generate(replace(request, seed=seed), house)
        if isinstance(event, ImageDone)
    ]
    assert both == singles


def test_a_file_of_differences_guides_as_the_whole_one_also_with_a_lora(
    asked: GenerationRequest, picture: str, house: House
) -> None:
    request = replace(asked, loras=(LoraUse(name="style"),))
    list(generate(request, house))  # the LoRA is on when the differences are read
    whole, difference_ = (
        end(guided(request, ControlUse(model=model, picture=picture)), house)
        for model in ("net", "difference")
    )
    assert difference(difference_, whole) < 1e-5
    assert difference(end(request, house), whole) > 1e-3


@pytest.mark.parametrize("hearing", Hearing)
@pytest.mark.parametrize("model", ["net", "adapter"])
def test_who_is_heard_changes_the_run(
    model: str, hearing: Hearing, asked: GenerationRequest, picture: str, house: House
) -> None:
    use, asked = ControlUse(model=model, picture=picture), replace(asked, steps=ONCE)
    ends = {other: end(guided(asked, replace(use, hearing=other)), house) for other in Hearing}
    others = [difference(ends[hearing], ends[other]) for other in Hearing if other is not hearing]
    assert min(others) > 1e-5


def test_a_mask_of_nothing_leaves_the_run_and_a_white_one_changes_nothing(
    asked: GenerationRequest, picture: str, house: House
) -> None:
    assert house.inputs is not None
    black, white = (
        house.inputs.add(Image.new("RGB", (SIZE, SIZE), colour)) for colour in ("black", "white")
    )
    asked = replace(asked, steps=ONCE)
    for model in KINDS:
        use = ControlUse(model=model, picture=picture)
        plain, whole = end(asked, house), end(guided(asked, use), house)
        assert difference(end(guided(asked, replace(use, mask=black)), house), plain) < 1e-5
        assert difference(end(guided(asked, replace(use, mask=white)), house), whole) < 1e-5


@pytest.mark.parametrize("model", KINDS)
def test_guides_work_from_a_picture_masked_and_enlarged(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    assert house.inputs is not None
    hole = Image.new("L", (SIZE, SIZE), 0)
    hole.paste(255, (8, 8, 40, 48))
    mask = house.inputs.add(hole)
    start = StartImage(picture=picture, strength=0.6)
    masked = replace(start, mask=mask, only_masked=True, padding=4)
    more = Enlarge(scale=1.5, strength=0.5, steps=2)
    asked = replace(asked, steps=ONCE)
    for request in (
        replace(asked, start=start),
        replace(asked, start=replace(masked, only_masked=False)),
        replace(asked, start=masked),
        replace(asked, start=masked, checkpoint="inpainting"),
        replace(asked, enlarge=more),
        replace(asked, start=start, enlarge=more),
    ):
        use = ControlUse(model=model, picture=picture if request.start is None else None)
        assert difference(end(guided(request, use), house), end(request, house)) > 1e-4


def test_a_guide_acts_in_the_passes_it_is_for(
    asked: GenerationRequest, picture: str, house: House
) -> None:
    request = replace(asked, enlarge=Enlarge(scale=1.5, strength=0.5, steps=3))
    use = ControlUse(model="net", picture=picture)
    plain = steps(generate(request, house))
    for during, first, second in ((During.FIRST, True, False), (During.SECOND, False, True)):
        changed = steps(generate(guided(request, replace(use, during=during)), house))
        firsts = [
            torch.equal(a.state.latents, b.state.latents)
            for a, b in zip(changed, plain, strict=True)
            if a.pass_index == 0
        ]
        assert all(firsts) is not first
        assert (changed[-1].pass_index, plain[-1].pass_index) == (1, 1)
        if second:
            assert not torch.equal(changed[-1].state.latents, plain[-1].state.latents)


def test_the_inpainting_guide_hides_what_is_masked(
    asked: GenerationRequest, picture: str, house: House
) -> None:
    assert house.inputs is not None
    hole = Image.new("L", (SIZE, SIZE), 0)
    hole.paste(255, (16, 16, 48, 48))
    start = StartImage(picture=picture, mask=house.inputs.add(hole), strength=0.8)
    request = replace(asked, start=start)
    use = ControlUse(model="net", preprocessor="inpaint")
    hidden = end(guided(request, use), house)
    shown = end(guided(request, replace(use, preprocessor="none")), house)
    assert difference(hidden, shown) > 1e-4
    with pytest.raises(RequestError, match="needs a mask"):
        end(guided(replace(request, start=replace(start, mask=None)), use), house)


def test_an_xl_guide_on_sd1_is_refused_in_a_sentence(
    asked: GenerationRequest, picture: str, house: House
) -> None:
    with pytest.raises(AdapterError, match=r"xl\.safetensors was made for"):
        end(guided(asked, ControlUse(model="xl", picture=picture)), house)
    on_xl = replace(asked, checkpoint="xl")
    request = guided(on_xl, ControlUse(model="xl", picture=picture))
    assert difference(end(request, house), end(on_xl, house)) > 1e-4


@pytest.mark.parametrize("model", [*KINDS, "xl", "xl_adapter", "xl_ip"])
def test_guides_fit_sizes_that_do_not_halve_evenly(
    model: str, asked: GenerationRequest, picture: str, house: House
) -> None:
    assert house.inputs is not None
    half = Image.new("L", (SIZE, SIZE), 0)
    half.paste(255, (0, 0, SIZE // 2, SIZE))
    request = replace(asked, width=72, height=40, steps=1)
    if model.startswith("xl"):
        request = replace(request, checkpoint="xl")
    use = ControlUse(model=model, picture=picture, mask=house.inputs.add(half))
    assert difference(end(guided(request, use), house), end(request, house)) > 1e-5


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"model": "nothing"}, "controls[0].model", "no ControlNet named 'nothing'"),
        ({"weight": -1.0}, "controls[0].weight", "between 0 and 10"),
        ({"start": 1.5}, "controls[0].start", "between 0 and 1"),
        ({"picture": None}, "controls[0].picture", "a guide needs a picture"),
        ({"picture": "x"}, "controls[0].picture", "SHA-256"),
        ({"preprocessor": "x"}, "controls[0].preprocessor", "no preprocessor named 'x'"),
        (
            {"preprocessor": "canny", "settings": {"low": 999}},
            "controls[0].settings.low",
            "between 1 and 255",
        ),
        ({"encoder": "x"}, "controls[0].encoder", "no image encoder named 'x'"),
    ],
)
def test_what_can_not_be_guided_is_refused_with_its_field(
    change: dict[str, object],
    field: str,
    sentence: str,
    asked: GenerationRequest,
    picture: str,
    house: House,
) -> None:
    use = replace(ControlUse(model="net", picture=picture), **change)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=sentence) as caught:
        end(guided(asked, use), house)
    assert caught.value.field == field


def test_an_ip_adapter_without_its_encoder_says_which_one_is_wanted(
    asked: GenerationRequest, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    write_sd1(models / "Stable-diffusion/tiny.safetensors")
    save(models / "ControlNet/ip.safetensors", dict(ip_adapter(False).state_dict()))
    house = house_in(tmp_path)
    assert house.inputs is not None
    use = ControlUse(model="ip", picture=house.inputs.add(noisy(1)))
    with pytest.raises(RequestError, match=r"gives 24 features.*models/clip_vision"):
        end(guided(asked, use), house)


def test_guides_stay_in_the_request_through_json(asked: GenerationRequest, picture: str) -> None:
    use = ControlUse(
        model="net",
        picture=picture,
        preprocessor="canny",
        settings={"low": 10},
        hearing=Hearing.PROMPT,
        during=During.SECOND,
    )
    request = guided(asked, use, replace(use, weight=0.3))
    assert GenerationRequest.from_json(request.to_json()) == request


def test_a_guide_that_does_not_fit_the_second_model_ends_there_and_says_so(
    asked: GenerationRequest, picture: str, house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    write_sd1(folder / "Stable-diffusion/tiny.safetensors")
    wide = tiny_unet(replace(CONFIG, channels=64)).state_dict()
    write_checkpoint(
        folder / "Stable-diffusion/other.safetensors", sd1_tensors() | below(UNET, wide)
    )
    save(
        folder / "ControlNet/net.safetensors",
        {"control_model." + n: t for n, t in control_net().state_dict().items()},
    )
    other = house_in(tmp_path)
    assert other.inputs is not None
    use = ControlUse(model="net", picture=other.inputs.add(noisy(3)))
    request = replace(guided(asked, use), refine=Refine(checkpoint="other", switch_at=0.5))
    events = list(generate(request, other))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert sum(isinstance(event, Loaded) for event in events) == 2
    assert any("from the switch on" in text for text in notes)


def test_the_unet_of_a_guided_run_keeps_every_weight(
    asked: GenerationRequest, picture: str, house: House
) -> None:
    before = tiny_unet().state_dict()
    uses = (ControlUse(model=model, picture=picture) for model in ("net", "ip"))
    list(generate(guided(replace(asked, steps=1), *uses), house))
    steps_ = house.store.loaded("tiny")
    try:
        while True:
            next(steps_)
    except StopIteration as found:
        network = found.value.network
    assert isinstance(network, UNet)
    assert all(torch.equal(network.state_dict()[n], t) for n, t in before.items())
