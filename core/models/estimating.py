"""Asks networks what a picture shows: depth, people and their poses. For the engine's thread alone.

How a picture is made ready for each kind, and what its answers mean, is here; which files there are
is the catalog's business.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from core.errors import FileError, RequestError
from core.images.poses import Person, Point, person_of
from core.images.sights import BICUBIC, BILINEAR, Three, levels_of, mirrored, shown, window
from core.models.catalog import Catalog
from core.models.estimators import WHOLE_PICTURE, Estimator, chosen, read_estimator
from core.models.files import SENSELESS
from core.models.kinds import Kind
from core.models.placing import Placing

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and spreads of red, green and blue that pictures were normalised by in training."""
SIDES = (14, 2048)
"""Pixels that a network may be shown on a side."""
METRIC = ("zoedepth", "glpn")
"""Networks that answer with distances: near is low."""
SURE_OF_PEOPLE = 0.5
MOST_PEOPLE = 20
PADDING = 1.25
"""Times that a person's box is widened."""
COCO_POINTS = 17
KNOWN_POINTS = (COCO_POINTS, 133)
"""COCO's, and those of whole bodies, which begin with them."""


class Remembered(Protocol):
    """Keeps what was read."""

    def __call__(self, key: Hashable, read: Callable[[], T]) -> T: ...


class Estimating:
    """`core.images.guides.Estimates` by the files of the catalog."""

    def __init__(self, catalog: Catalog, placing: Placing, remembered: Remembered) -> None:
        self._catalog = catalog
        self._placing = placing
        self._remembered = remembered

    def depth(self, picture: Image, estimator: str) -> Image:
        """As `Estimates.depth`."""
        return self._asked(Kind.DEPTH, estimator, lambda net, ask: depth_map(net, ask, picture))

    def people(
        self, picture: Image, estimator: str, detector: str, sure: float
    ) -> tuple[Person, ...]:
        """As `Estimates.people`; without a detector the whole picture is one person.

        Raises:
            RequestError: also where the detector finds nobody.
        """
        boxes: Sequence[Box] = [(0.0, 0.0, float(picture.width), float(picture.height))]
        finder = chosen(self._catalog, Kind.DETECTOR, detector, "settings.detector")
        if finder is not None:
            boxes = self._asked(
                Kind.DETECTOR, finder.name, lambda net, ask: people_boxes(net, ask, picture)
            )
        if not boxes:
            raise RequestError(
                f'no person is seen in the picture; choose "{WHOLE_PICTURE}" if there is one',
                "settings.detector",
            )

        def stances(net: Estimator, ask: Ask) -> tuple[Person, ...]:
            return tuple(stance(net, ask, picture, box, sure) for box in boxes)

        return self._asked(Kind.POSE, estimator, stances)

    def _asked(self, kind: Kind, name: str, answer: Callable[[Estimator, Ask], T]) -> T:
        """An answer of the network of that name, on the device for as long as it takes."""
        file = chosen(self._catalog, kind, name, "settings.estimator")
        assert file is not None
        path = file.path
        stat = path.stat()
        key = kind, path, stat.st_size, stat.st_mtime_ns
        net: Estimator = self._remembered(key, lambda: read_estimator(path, kind))
        device = self._placing.device
        self._placing.join(net.network)

        def ask(given: Tensor, **more: Any) -> Any:
            more = {name: value.to(device) for name, value in more.items()}
            return net.network(given.to(device, torch.float32), **more)

        try:
            return answer(net, ask)
        except torch.OutOfMemoryError:
            raise
        except (*SENSELESS, RuntimeError) as error:
            said = " ".join(str(error).split())[:200]
            raise FileError(f"{net.name}: it can't be asked ({said})") from error
        finally:
            self._placing.leave(net.network)


Ask: TypeAlias = Callable[..., Any]
"""(pixels (1 3 h w), more tensors by name) -> what transformers' network answers."""


# --- depth ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparing:
    """How a picture is made ready."""

    height: int
    width: int
    keep: bool
    """Whether its shape is kept; one side is as asked then."""
    multiple: int
    means: tuple[Three, Three] | None
    resample: int
    pads: bool = False
    """Whether its edges are mirrored outwards first, as ZoeDepth was trained."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of what is shown of a picture of that size."""
        across, down = self.width / width, self.height / height
        if self.keep:
            across = down = across if abs(1 - across) < abs(1 - down) else down
        sides = (round(n * by / self.multiple) for n, by in ((width, across), (height, down)))
        least = -(-SIDES[0] // self.multiple)
        wide, high = (max(side, least) * self.multiple for side in sides)
        return min(wide, SIDES[1]), min(high, SIDES[1])


USUAL = {
    "dpt": Preparing(384, 384, False, 1, HALVES, BICUBIC),
    "depth_anything": Preparing(518, 518, True, 14, IMAGENET, BICUBIC),
    "zoedepth": Preparing(384, 512, True, 32, HALVES, BILINEAR, pads=True),
}
"""`model_type` → what holds where the file beside it says nothing."""
DIVISOR = 32
"""GLPN sees a picture at its own size, cut to whole squares of so many pixels."""


def preparing(net: Estimator, picture: Image) -> Preparing:
    """As its `preprocessor_config.json` says, and as is usual where that says nothing.

    Raises:
        FileError: a number there can't be.
    """
    told, kind = net.prepared, net.config.model_type
    if kind == "glpn":
        divisor = _whole(net, "size_divisor", DIVISOR)
        width, height = (side // divisor * divisor for side in picture.size)
        return Preparing(height, width, False, divisor, None, BILINEAR)
    usual = USUAL[kind]
    size = told.get("size")
    size = size if isinstance(size, dict) else {}
    sides = [size.get(name, getattr(usual, name)) for name in ("height", "width")]
    if not all(type(side) is int and SIDES[0] <= side <= SIDES[1] for side in sides):
        raise FileError(f"{net.name}: its preprocessor_config.json asks for a size of {sides}")
    means = told.get("image_mean", usual.means and usual.means[0])
    spreads = told.get("image_std", usual.means and usual.means[1])
    keep = told.get("keep_aspect_ratio", usual.keep)
    pads = told.get("do_pad", usual.pads) if usual.pads else False
    resample = told.get("resample", usual.resample)
    height, width = sides
    return Preparing(
        height,
        width,
        keep=bool(keep),
        multiple=_whole(net, "ensure_multiple_of", usual.multiple),
        means=(_three(net, means), _three(net, spreads)),
        resample=resample if resample in (BILINEAR, BICUBIC) else usual.resample,
        pads=bool(pads),
    )


def _whole(net: Estimator, name: str, usual: int) -> int:
    value = net.prepared.get(name, usual)
    if type(value) is not int or not 1 <= value <= 64:
        raise FileError(f"{net.name}: its preprocessor_config.json has a {name} of {value!r}")
    return value


def _three(net: Estimator, values: Any) -> Three:
    fits = isinstance(values, list | tuple) and len(values) == 3
    if not fits or not all(isinstance(value, int | float) and value for value in values):
        raise FileError(f"{net.name}: its preprocessor_config.json has colours of {values!r}")
    red, green, blue = map(float, values)
    return red, green, blue


def depth_map(net: Estimator, ask: Ask, picture: Image) -> Image:
    """Mode F, as large as the picture, over the whole range: 0 is farthest, 255 nearest."""
    how = preparing(net, picture)
    width, height = picture.size
    across, down = (int((side / 2) ** 0.5 * 3) if how.pads else 0 for side in (width, height))
    if across or down:
        picture = mirrored(picture, across, down)
    given = shown(picture, how.size(*picture.size), how.means, how.resample)
    answer = ask(given).predicted_depth.float()
    whole = functional.interpolate(
        rearrange(answer, "1 h w -> 1 1 h w"),
        size=(picture.height, picture.width),
        mode="bicubic",
    )[0, 0]
    found = whole[down : down + height, across : across + width].cpu()
    metric = net.config.model_type in METRIC
    if metric or getattr(net.config, "depth_estimation_type", "") == "metric":
        found = -found
    return levels_of(found)


# --- people --------------------------------------------------------------------------------------


DETECTOR_SIDE = {"rt_detr": 640, "rt_detr_v2": 640}
"""Pixels on each side of what a detector is shown, its shape not kept."""
YOLOS_SIDES = (512, 1333)
"""Of the shorter side, and of the longer one at most."""


def people_boxes(net: Estimator, ask: Ask, picture: Image) -> list[Box]:
    """Where people are, the surest first."""
    labels = {str(name).casefold(): number for number, name in net.config.id2label.items()}
    if "person" not in labels:
        there = ", ".join(list(labels)[:3])
        raise FileError(f"{net.name} finds no people; it was trained to find: {there}")
    width, height = picture.size
    side = DETECTOR_SIDE.get(net.config.model_type)
    if side is not None:
        answer = ask(shown(picture, (side, side), None))
        sure = answer.logits.sigmoid()
    else:
        scale = min(YOLOS_SIDES[0] / min(width, height), YOLOS_SIDES[1] / max(width, height))
        across, down = (max(16, round(length * scale)) for length in (width, height))
        answer = ask(shown(picture, (across, down), IMAGENET))
        sure = answer.logits.softmax(-1)[..., :-1]  # the last stands for nothing
    of_people = sure[0, :, labels["person"]].float().cpu()
    order = of_people.argsort(descending=True)[:MOST_PEOPLE]
    boxes = answer.pred_boxes[0].float().cpu()
    found = [boxes[i].tolist() for i in order if of_people[i] >= SURE_OF_PEOPLE]
    return [
        ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height) for x, y, w, h in found
    ]


def stance(net: Estimator, ask: Ask, picture: Image, box: Box, sure: float) -> Person:
    """How the person in a box stands: COCO's points, each where its map is highest.

    A quarter of a step towards the higher neighbour, as in arXiv:1804.06208.
    """
    if net.config.num_labels not in KNOWN_POINTS:
        raise FileError(
            f"{net.name} finds {net.config.num_labels} points; a figure needs COCO's {COCO_POINTS}"
        )
    rows, columns = net.config.backbone_config.image_size
    (left, top), (wide, high) = widened(box, columns / rows)
    seen = window(picture, (left, top), (wide, high), (columns, rows))
    experts = getattr(net.config.backbone_config, "num_experts", 1)
    more = {"dataset_index": torch.zeros(1, dtype=torch.long)} if experts > 1 else {}
    maps = ask(shown(seen, seen.size, IMAGENET), **more).heatmaps[0, :COCO_POINTS].float().cpu()
    h, w = maps.shape[-2:]
    points: list[Point | None] = []
    for one in maps:
        y, x = divmod(int(one.argmax()), w)
        if one[y, x] < sure:
            points.append(None)
            continue
        x_, y_ = x + _lean(one[y], x), y + _lean(one[:, x], y)
        points.append((left + x_ * wide / (w - 1), top + y_ * high / (h - 1)))
    return person_of(points)


def widened(box: Box, shape: float) -> tuple[Point, Point]:
    """The corner and the sides of the box of a shape (width over height) round another one."""
    left, top, wide, high = box
    middle = left + wide / 2, top + high / 2
    wide, high = max(wide, high * shape), max(high, wide / shape)
    wide, high = wide * PADDING, high * PADDING
    return (middle[0] - wide / 2, middle[1] - high / 2), (wide, high)


def _lean(line: Tensor, place: int) -> float:
    """A quarter of a step towards the higher neighbour; 0 at an end."""
    if not 0 < place < len(line) - 1:
        return 0.0
    return 0.25 * float(torch.sign(line[place + 1] - line[place - 1]))
