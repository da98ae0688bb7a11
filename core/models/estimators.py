"""Networks that say something of a picture: how near its places are, where people are, how they
stand. transformers' classes, filled from one safetensors file with its `config.json` beside it.

Nothing is downloaded and no code of a file is run: transformers is given numbers and tensors alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import FileError, RequestError, VitrineError
from core.models.files import read_header, read_tensors
from core.models.kinds import Kind, place_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from core.models.catalog import Catalog, ModelFile

CLASSES: Mapping[Kind, Mapping[str, str]] = {
    Kind.DEPTH: {
        "depth_anything": "DepthAnythingForDepthEstimation",
        "dpt": "DPTForDepthEstimation",
        "zoedepth": "ZoeDepthForDepthEstimation",
        "glpn": "GLPNForDepthEstimation",
    },
    Kind.POSE: {"vitpose": "VitPoseForPoseEstimation"},
    Kind.DETECTOR: {
        "rt_detr": "RTDetrForObjectDetection",
        "rt_detr_v2": "RTDetrV2ForObjectDetection",
        "yolos": "YolosForObjectDetection",
    },
}
"""Kind → `model_type` of a config.json → transformers' class."""
WANTED: Mapping[Kind, str] = {
    Kind.DEPTH: "Depth Anything (V2 Small is 100 MB), DPT, ZoeDepth or GLPN",
    Kind.POSE: "ViTPose (vitpose-base-simple is 340 MB)",
    Kind.DETECTOR: "RT-DETR (rtdetr_r18vd is 80 MB) or YOLOS",
}
ELSEWHERE = (
    "use_timm_backbone",
    "use_pretrained_backbone",
    "backbone",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "auto_map",
)
"""Keys of a config.json that ask for what is not in its folder: weights, or code."""
WHOLE_PICTURE = "whole picture"
"""A detector's name that stands for none: one person fills the picture."""
MAX_JSON = 2**20
MAX_LAYERS = 200


@dataclass(frozen=True, eq=False)
class Estimator:
    """A network from a folder, float32, on the CPU."""

    name: str
    network: PreTrainedModel
    config: Any
    prepared: Mapping[str, Any]
    """How pictures were made ready for it: its `preprocessor_config.json`; {} without one."""


def settled(settings: object, catalog: Catalog, where: str) -> dict[str, Any]:
    """A preprocessor's settings with the models that will be asked by name.

    Raises:
        RequestError, FileError: as `chosen`.
    """
    values = dict(vars(settings))
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        if "kind" in field.metadata:
            kind, name = Kind(field.metadata["kind"]), field.name
            file = chosen(catalog, kind, values[name], where + name)
            values[name] = WHOLE_PICTURE if file is None else file.name
    return values


def chosen(catalog: Catalog, kind: Kind, name: str, field: str) -> ModelFile | None:
    """The model of that name; "": the first that can be used. None: a detector is not asked.

    Raises:
        RequestError: there is none; says what is wanted, or what there is.
        FileError: it can't be used.
    """
    is_detector = kind is Kind.DETECTOR
    if is_detector and name.strip().casefold() == WHOLE_PICTURE:
        return None
    if name:
        return catalog.file(kind, name, field)
    there = catalog.files(kind)
    usable = (file for file in there if file.path.suffix.lower() == ".safetensors")
    first = next(usable, next(iter(there), None))
    if first is None and not is_detector:
        raise RequestError(
            f"this guide is made by {kind.with_article}, and there is none in {place_of(kind)}; "
            f"{wanted(kind)}",
            field,
        )
    return first


def wanted(kind: Kind) -> str:
    """What to put where, for somebody who has none of a kind."""
    return (
        f"put a folder with {WANTED[kind]} into {place_of(kind)}: its config.json and "
        "model.safetensors, as transformers has them"
    )


def read_estimator(path: Path, kind: Kind) -> Estimator:
    """The network of a safetensors file.

    Raises:
        FileError: it is no such file or lacks tensors, or its config.json is missing, damaged, or
            of a network that is not known here; says what is wanted.
    """
    import torch

    name = f"{path.parent.name}/{path.name}"
    if path.suffix.lower() != ".safetensors":
        raise FileError(f"{name} may run code when it is read; a model.safetensors is wanted here")
    header = read_header(path)
    config, cls = _described(path, kind)
    with _senseless(name, kind):
        with torch.device("meta"):
            empty = cls(config)
        largest = sum(p.numel() for p in empty.parameters())
        there = sum(info.end - info.start for info in header.tensors.values())
        if largest > there:  # a number takes a byte at least
            raise FileError(f"{name} is too small for the {kind} that its config.json describes")
        weights = dict(read_tensors(header, {n: n for n in header.tensors}))
        network = _filled(cls, config, weights, name, kind)
    network.eval().requires_grad_(False)
    return Estimator(name, network, config, _json_beside(path, "preprocessor_config.json"))


def _described(path: Path, kind: Kind) -> tuple[Any, Any]:
    """transformers' configuration and class for a file."""
    import transformers

    name = path.parent.name
    if not (path.parent / "config.json").is_file():
        raise FileError(
            f"{name}/{path.name} can't be used without the config.json that it was published with; "
            "put it beside it"
        )
    told = _json_beside(path, "config.json")
    which = told.get("model_type")
    if not isinstance(which, str) or which not in CLASSES[kind]:
        known = ", ".join(CLASSES[kind])
        raise FileError(
            f"{name}/config.json is of {str(which)[:40]!r}, which is no {kind} that is known here; "
            f"there are: {known}"
        )
    for key, value in _entries(told):
        if (key in ELSEWHERE and value) or (key == "model_type" and "timm" in str(value)):
            raise FileError(
                f"{name}/config.json asks for what is not in its folder "
                f"({key}: {str(value)[:40]}); choose one that is whole"
            )
        if key.endswith(("layers", "depths")) and isinstance(value, int) and value > MAX_LAYERS:
            raise FileError(f"{name}/config.json asks for {value:,} {key}, which can't be")
    with _senseless(name, kind):
        config = transformers.AutoConfig.for_model(**told)
    return config, getattr(transformers, CLASSES[kind][which])


def _entries(told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value of a table and of the tables and lists in it."""
    for key, value in told.items():
        yield key, value
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield from _entries(one)
            else:
                yield key, one


def _filled(
    cls: Any, config: Any, weights: Mapping[str, Tensor], name: str, kind: Kind
) -> PreTrainedModel:
    """A network with a file's tensors; transformers knows what older files call them."""
    import torch

    with _quiet():
        network, told = cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
    if missing := sorted(told["missing_keys"]):
        few = ", ".join(missing[:3])
        raise FileError(f"{name}: the {kind} lacks {len(missing)} tensors: {few}")
    return network


@contextlib.contextmanager
def _senseless(name: str, kind: Kind) -> Iterator[None]:
    """What numbers that fit nothing end in, as a sentence; transformers has kinds of its own."""
    try:
        yield
    except VitrineError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise FileError(f"{name}: no {kind} can be made of it ({said})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers' own reports of loading are for those who train; they are put back after."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _json_beside(path: Path, name: str) -> dict[str, Any]:
    """A table beside a file; {} where there is none. Raises FileError where it can't be read."""
    beside = path.parent / name
    if not beside.is_file():
        return {}
    try:
        if beside.stat().st_size > MAX_JSON:
            raise ValueError("it is too large")
        told = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path.parent.name}/{name} can't be read: {error}") from error
    return told
