"""Networks that say something of a picture: read, asked, and followed by a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.engine.answers import answered
from core.engine.engine import MakeGuide
from core.errors import FileError, RequestError
from core.events import Event, Step
from core.generate import House, generate
from core.images.guides import preprocessor
from core.models.estimating import depth_map, people_boxes, preparing, stance, widened
from core.models.estimators import WHOLE_PICTURE, Estimator, read_estimator
from core.models.kinds import Kind
from core.models.placing import Placing
from core.request import ControlUse, GenerationRequest
from core.resolve import resolve
from core.trace import progress_of, recorded
from tests.core import estimators as tiny
from tests.core.test_controls import control_net, house_in
from tests.core.test_controls import save as save_tensors
from tests.tiny import write_sd1

SIZE = 64
DEPTHS = ("dpt", "depth_anything", "glpn", "zoedepth")


def noisy(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("estimators")
    models = root / "models"
    write_sd1(models / "Stable-diffusion/tiny.safetensors")
    net = control_net().state_dict()
    tensors = {"control_model." + n: t for n, t in net.items()}
    save_tensors(models / "ControlNet/net.safetensors", tensors)
    for kind in DEPTHS:
        tiny.save(tiny.depth_network(kind), models / "Depth" / kind)
    tiny.save(tiny.pose_network(), models / "Pose/vitpose")
    return root


@pytest.fixture(scope="module")
def house(root: Path) -> House:
    return house_in(root)


@pytest.fixture
def asked(house: House) -> GenerationRequest:
    assert house.inputs is not None
    use = ControlUse(
        model="net",
        picture=house.inputs.add(noisy()),
        preprocessor="estimated_depth",
        settings={"estimator": "dpt/model"},
    )
    request = GenerationRequest(
        prompt="a red apple",
        checkpoint="tiny",
        seed=7,
        steps=4,
        width=SIZE,
        height=SIZE,
        sampler="euler",
        controls=(use,),
    )
    return resolve(request, house.catalog, house.registry)


def depth_of(root: Path, kind: str) -> Estimator:
    return read_estimator(root / "models/Depth" / kind / "model.safetensors", Kind.DEPTH)


def ask(net: Estimator) -> Any:
    def asking(given: torch.Tensor, **more: torch.Tensor) -> Any:
        with torch.inference_mode():
            return net.network(given, **more)

    return asking


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DEPTHS)
def test_a_network_that_is_read_answers_as_the_one_that_was_saved(kind: str, root: Path) -> None:
    net, given = depth_of(root, kind), torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        wanted = tiny.depth_network(kind)(given).predicted_depth
    assert torch.equal(ask(net)(given).predicted_depth, wanted)
    assert wanted.std() > 1e-6


def test_reading_says_nothing_and_leaves_transformers_as_it_was(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    depth_of(root, "dpt")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr().err == ""


def changed(**entries: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_names(folder: Path) -> None:
    save_tensors(folder / "model.safetensors", {"dpt.embeddings.cls_token": torch.ones(1, 1, 32)})


def lacking(folder: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["head.head.4.weight"]
    save_tensors(folder / "model.safetensors", tensors)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "can't be used without the config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json can't be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "it is no table"),
        (changed(model_type="bert"), "'bert', which is no depth estimator that is known here"),
        (changed(use_timm_backbone=True), r"asks for what is not in its folder \(use_timm"),
        (changed(backbone="microsoft/resnet-50"), "asks for what is not in its folder"),
        (changed(backbone_config={"model_type": "timm_backbone"}), "not in its folder"),
        (changed(attn_implementation="somebody/kernels"), "not in its folder"),
        (changed(quantization_config={"quant_method": "x"}), "not in its folder"),
        (changed(num_hidden_layers=10**9), "which can't be"),
        (changed(hidden_size=2**14), "is too small for the depth estimator"),
        (changed(hidden_size="many"), "no depth estimator can be made of it"),
        (changed(fusion_hidden_size=9), "no depth estimator can be made of it|lacks"),
        (cut, "is cut off"),
        (other_names, "is too small"),
        (lacking, r"lacks 1 tensors: head\.head\.4\.weight"),
    ],
)
def test_what_is_damaged_is_refused_in_a_sentence(
    damage: Any, sentence: str, tmp_path: Path
) -> None:
    path = tiny.save(tiny.depth_network("dpt"), tmp_path / "dpt")
    damage(path.parent)
    with pytest.raises(FileError, match=sentence):
        read_estimator(path, Kind.DEPTH)


def test_a_pickle_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "dpt/pytorch_model.bin"
    path.parent.mkdir()
    path.write_bytes(b"\x80\x02cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(FileError, match=r"may run code .* model\.safetensors is wanted"):
        read_estimator(path, Kind.DEPTH)


# --- depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("size", [(64, 64), (80, 48)])
def test_a_depth_map_is_as_large_as_its_picture_over_the_whole_range(
    kind: str, size: tuple[int, int], root: Path
) -> None:
    net = depth_of(root, kind)
    found = np.asarray(depth_map(net, ask(net), noisy(size=size)))
    assert found.shape == size[::-1]
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, pytest.approx(255, abs=1e-3))


@pytest.mark.parametrize(("kind", "turned"), [("dpt", False), ("glpn", True), ("zoedepth", True)])
def test_near_is_white_whether_a_network_answers_with_nearness_or_distance(
    kind: str, turned: bool, root: Path
) -> None:
    class Answer:
        predicted_depth = torch.linspace(1, 3, 32)[None, None].expand(1, 32, 32)

    found = np.asarray(depth_map(depth_of(root, kind), lambda given: Answer, noisy()))
    assert bool(found[:, 0].mean() > found[:, -1].mean()) is turned


@pytest.mark.parametrize("kind", ["dpt", "depth_anything", "zoedepth"])
@pytest.mark.parametrize("size", [(64, 64), (100, 60), (60, 100), (640, 480)])
def test_a_picture_is_shown_at_the_size_transformers_shows_it(
    kind: str, size: tuple[int, int], root: Path
) -> None:
    from transformers.models.dpt import image_processing_pil_dpt as dpt
    from transformers.models.zoedepth import image_processing_pil_zoedepth as zoe

    made = {
        "dpt": dpt.DPTImageProcessorPil(),
        "depth_anything": dpt.DPTImageProcessorPil(
            size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14
        ),
        "zoedepth": zoe.ZoeDepthImageProcessorPil(do_pad=False, ensure_multiple_of=32),
    }[kind]
    wanted = made(noisy(size=size), return_tensors="np")["pixel_values"][0].shape[1:]
    assert preparing(depth_of(root, kind), noisy()).size(*size) == wanted[::-1]


def test_pixels_are_those_of_transformers(root: Path) -> None:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    seen = []

    def watched(given: torch.Tensor) -> Any:
        seen.append(given)
        return ask(net)(given)

    net, picture = depth_of(root, "dpt"), noisy(size=(100, 60))
    depth_map(net, watched, picture)
    wanted = DPTImageProcessorPil()(picture, return_tensors="pt")["pixel_values"]
    assert (seen[0] - wanted).abs().max() < 1e-5


def test_a_file_beside_it_says_how_pictures_are_made_ready(tmp_path: Path) -> None:
    path = tiny.save(tiny.depth_network("dpt"), tmp_path / "dpt")
    beside = path.parent / "preprocessor_config.json"
    beside.write_text(json.dumps({"size": {"height": 64, "width": 96}, "image_mean": [0, 0, 0]}))
    net = read_estimator(path, Kind.DEPTH)
    with pytest.raises(FileError, match="colours of"):
        preparing(replace(net, prepared={"image_std": "red"}), noisy())
    with pytest.raises(FileError, match="size of"):
        preparing(replace(net, prepared={"size": {"height": 10**6, "width": 1}}), noisy())
    beside.write_text(json.dumps({"size": {"height": 64, "width": 96}}))
    assert preparing(read_estimator(path, Kind.DEPTH), noisy()).size(10, 10) == (96, 64)


# --- poses ---------------------------------------------------------------------------------------


def test_a_person_is_shown_to_the_network_as_transformers_shows_one(root: Path) -> None:
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    net = read_estimator(root / "models/Pose/vitpose/model.safetensors", Kind.POSE)
    picture, box, seen = smooth((160, 120)), (40.0, 20.0, 50.0, 80.0), []

    def watched(given: torch.Tensor, **more: torch.Tensor) -> Any:
        seen.append(given)
        return ask(net)(given, **more)

    person = stance(net, watched, picture, box, sure=-10)
    processor = VitPoseImageProcessorPil(size={"height": 64, "width": 48})
    given = processor(picture, boxes=[[list(box)]], return_tensors="pt")
    assert (seen[0] - given["pixel_values"]).abs().mean() < 0.02
    with torch.inference_mode():
        answer = net.network(given["pixel_values"])
    (points,) = processor.post_process_pose_estimation(answer, boxes=[[list(box)]])[0]
    step = widened(box, 48 / 64)[1][0] / 11  # between two places of a map
    nose, first = person.points[0], points["keypoints"][0]
    assert nose is not None
    assert max(abs(a - float(b)) for a, b in zip(nose, first, strict=True)) < 2 * step


def smooth(size: tuple[int, int]) -> Image.Image:
    return noisy(size=(8, 6)).resize(size, Image.Resampling.BICUBIC)


def test_a_point_is_where_its_map_is_highest(root: Path) -> None:
    """The middle of the map of a whole picture is the middle of the picture."""
    net = read_estimator(root / "models/Pose/vitpose/model.safetensors", Kind.POSE)

    class Answer:
        heatmaps = torch.zeros(1, 17, 17, 13)

    Answer.heatmaps[0, :, 8, 6] = 0.9
    person = stance(net, lambda given: Answer, noisy(), (0, 0, SIZE, SIZE), sure=0.5)
    assert all(point == pytest.approx((SIZE / 2, SIZE / 2)) for point in person.points)
    unsure = stance(net, lambda given: Answer, noisy(), (0, 0, SIZE, SIZE), sure=0.95)
    assert set(unsure.points) == {None}


def test_a_network_of_other_points_is_refused(tmp_path: Path) -> None:
    path = tiny.save(tiny.pose_network(labels=21), tmp_path / "hand")
    net = read_estimator(path, Kind.POSE)
    with pytest.raises(FileError, match="finds 21 points; a figure needs COCO's 17"):
        stance(net, ask(net), noisy(), (0, 0, SIZE, SIZE), 0.3)


def test_a_detector_gives_its_boxes_in_pixels(tmp_path: Path) -> None:
    net = read_estimator(tiny.save(tiny.detector(), tmp_path / "detr"), Kind.DETECTOR)

    class Answer:
        logits = torch.tensor([[[3.0, -9], [-9, 3], [1, -9]]])
        pred_boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25], [0.1] * 4, [0.25, 0.5, 0.5, 1]]])

    found = people_boxes(net, lambda given: Answer, noisy(size=(80, 40)))
    assert found == [(20, 15, 40, 10), (0, 0, 40, 40)]
    assert ask(net)(torch.rand(1, 3, 640, 640)).logits.shape == (1, 10, 2)
    yolos = read_estimator(tiny.save(tiny.yolos(), tmp_path / "yolos"), Kind.DETECTOR)
    assert isinstance(people_boxes(yolos, ask(yolos), noisy(size=(80, 40))), list)
    cats = read_estimator(tiny.save(tiny.detector("cat"), tmp_path / "cats"), Kind.DETECTOR)
    with pytest.raises(FileError, match="finds no people; it was trained to find: cat, dog"):
        people_boxes(cats, lambda given: Answer, noisy())


# --- runs ----------------------------------------------------------------------------------------


def steps(events: Iterator[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def use_of(asked: GenerationRequest, **change: Any) -> GenerationRequest:
    return replace(asked, controls=(replace(asked.controls[0], **change),))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("estimated_depth", {"estimator": "depth_anything/model", "near_cut": 5}),
        ("estimated_normals", {"estimator": "glpn/model"}),
        ("pose", {"sure": 0.0}),
    ],
)
def test_a_run_follows_it_replays_and_resumes_exactly(
    name: str, settings: dict[str, Any], asked: GenerationRequest, house: House, tmp_path: Path
) -> None:
    request = use_of(asked, preprocessor=name, settings=settings)
    request = resolve(request, house.catalog, house.registry)
    assert GenerationRequest.from_json(request.to_json()) == request
    plain = steps(generate(use_of(asked, preprocessor="none", settings={}), house))
    whole = steps(generate(request, house))
    assert not torch.equal(whole[-1].state.latents, plain[-1].state.latents)
    events = generate(request, house)
    for event in recorded(events, tmp_path / "trace"):
        if isinstance(event, Step) and event.state.index == 2:
            break
    events.close()  # type: ignore[attr-defined]
    progress = progress_of(tmp_path / "trace", house.registry)
    resumed = steps(generate(request, house, progress=progress))
    assert torch.equal(resumed[-1].state.latents, whole[-1].state.latents)


def test_the_request_says_which_network_was_asked(asked: GenerationRequest, house: House) -> None:
    def settled(name: str) -> Any:
        request = resolve(use_of(asked, preprocessor=name, settings={}), *catalog)
        return request.controls[0].settings

    catalog = house.catalog, house.registry
    assert settled("estimated_depth")["estimator"] == "depth_anything/model"
    assert settled("pose")["estimator"] == "vitpose/model"
    assert settled("pose")["detector"] == WHOLE_PICTURE
    with pytest.raises(RequestError, match=r"no depth estimator named 'x'; .*dpt/model"):
        resolve(use_of(asked, settings={"estimator": "x"}), *catalog)


def test_a_preview_is_the_guide_of_the_run(asked: GenerationRequest, house: House) -> None:
    (use,) = asked.controls
    seen = answered(MakeGuide(use, SIZE, SIZE), lambda id: None, house)  # type: ignore[arg-type, return-value]
    one, net = preprocessor(use.preprocessor), house.store.controlling.estimating
    wanted = one(noisy(), one.checked(use.settings), None, net)
    assert seen.mode == "RGB" and seen.tobytes() == wanted.tobytes()
    assert len(set(seen.tobytes())) > 100


def test_what_is_missing_is_named_with_its_place(asked: GenerationRequest, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_sd1(models / "Stable-diffusion/tiny.safetensors")
    save_tensors(models / "ControlNet/net.safetensors", {"control_model.x": torch.ones(1)})
    house = house_in(tmp_path)
    for name, sentence in (
        ("estimated_depth", r"none in models/Depth; put a folder with Depth Anything"),
        ("pose", r"none in models/Pose; put a folder with ViTPose .*config\.json and model\.safe"),
    ):
        request = use_of(asked, preprocessor=name, settings={})
        with pytest.raises(RequestError, match=sentence) as caught:
            resolve(request, house.catalog, house.registry)
        assert caught.value.field == "controls[0].settings.estimator"


def test_a_detector_that_sees_nobody_says_so(
    asked: GenerationRequest, root: Path, tmp_path: Path
) -> None:
    house = house_in(tmp_path)
    tiny.save(tiny.detector(), tmp_path / "models/Detection/detr")
    tiny.save(tiny.pose_network(), tmp_path / "models/Pose/vitpose")
    net = house.store.controlling.estimating
    with torch.inference_mode(), pytest.raises(RequestError, match="no person is seen"):
        net.people(noisy(), "", "", 0.3)
    with torch.inference_mode():
        assert len(net.people(noisy(), "", WHOLE_PICTURE, 0.0)) == 1


def test_a_network_is_on_the_device_while_it_is_asked(house: House) -> None:
    """A device of its own stands for a graphics card: where everything is moved is written down."""
    from core.models.estimating import Estimating

    moves: list[str] = []
    device = torch.device("meta")
    placing = Placing(device, move=lambda part, to: moves.append(to.type))
    net = Estimating(house.catalog, placing, lambda key, read: read())
    with pytest.raises(FileError, match="it can't be asked"):  # a moved one would be
        net.depth(noisy(), "dpt/model")
    assert moves == ["meta", "cpu"]
