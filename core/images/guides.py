"""What is made of a picture before it guides a run: edges, lines, colours, depth, poses. No torch;
the same picture and settings give the same guide, so the page can show it beforehand.

Most need no weights. Those that do ask `Estimates` first, and what it is made of is not known here.
Where a guide is transparent the network is told to invent (the inpainting ControlNet's -1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from core.errors import RequestError, named
from core.images.edges import canny, gradients
from core.images.pixels import in_rgb
from core.images.poses import Person, drawn
from core.request import Json, read_json

Levels: TypeAlias = NDArray[np.uint8]
Make: TypeAlias = Callable[[Image.Image, Any, Image.Image | None], Image.Image]
"""(RGB picture, settings, mask of mode L and its size or None) -> guide of the same size.

One that asks a network is given what that said of the picture in its place.
"""


class Estimates(Protocol):
    """Networks that say something of a picture. For the engine's thread alone.

    Files are named as in the catalog; "" is the first that there is. Both raise RequestError where
    there is none, with what is wanted and where it belongs, and FileError for a damaged one.
    """

    def depth(self, picture: Image.Image, estimator: str) -> Image.Image:
        """As large as the picture, of mode F: 0 is the farthest, 255 the nearest."""

    def people(
        self, picture: Image.Image, estimator: str, detector: str, sure: float
    ) -> tuple[Person, ...]:
        """All that are seen; points that are less sure (0 to 1) than `sure` are left out."""


Ask: TypeAlias = Callable[[Estimates, Image.Image, Any], Image.Image]
"""(networks, RGB picture, settings) -> what a guide is made of."""


def number(default: float, low: float, high: float, step: float, label: str, help: str) -> Any:
    """A field of a settings dataclass, with inclusive bounds and its words on the page."""
    words = {"low": low, "high": high, "step": step, "label": label, "help": help, "choices": ()}
    return field(default=default, metadata=words)


def switch(default: bool, label: str, help: str) -> Any:
    """A field that is on or off."""
    words = {"low": None, "high": None, "step": None, "label": label, "help": help, "choices": ()}
    return field(default=default, metadata=words)


def model(kind: str, label: str, help: str) -> Any:
    """A field that names a model of a kind in the catalog; "": the first there is."""
    words = {"low": None, "high": None, "step": None, "label": label, "help": help, "choices": ()}
    return field(default="", metadata={**words, "kind": kind})


@dataclass(frozen=True)
class NoSettings:
    """For what has nothing to set."""


@dataclass(frozen=True)
class Canny:
    low: int = number(100, 1, 255, 1, "Low threshold", "Weaker edges are dropped.")
    high: int = number(200, 1, 255, 1, "High threshold", "An edge needs one pixel as strong.")


@dataclass(frozen=True)
class SoftEdges:
    gain: float = number(1.0, 0.1, 8, 0.1, "Gain", "Times that edges are strengthened.")
    blur: float = number(1.0, 0, 16, 0.5, "Blur", "Pixels by which the picture is blurred first.")


@dataclass(frozen=True)
class Scribble:
    level: int = number(127, 0, 255, 1, "Darkness", "Darker than this is a line.")
    thicken: int = number(0, 0, 16, 1, "Thicken", "Pixels by which lines grow.")


@dataclass(frozen=True)
class Threshold:
    level: int = number(127, 0, 255, 1, "Level", "Lighter than this becomes white.")


@dataclass(frozen=True)
class Blur:
    sigma: float = number(9.0, 0, 64, 0.5, "Sigma", "How far colours spread, in pixels.")


@dataclass(frozen=True)
class Tile:
    shrink: float = number(1.0, 1, 8, 0.1, "Down sampling", "Times smaller, and back; 1: as it is.")


@dataclass(frozen=True)
class Recolour:
    gamma: float = number(1.0, 0.1, 2, 0.01, "Gamma", "Below 1 lightens what is dark.")


@dataclass(frozen=True)
class Segments:
    colours: int = number(16, 2, 256, 1, "Colours", "So many flat colours are left.")


@dataclass(frozen=True)
class Depth:
    near_cut: float = number(0, 0, 49, 1, "Cut near", "Percent of the nearest shown as white.")
    far_cut: float = number(0, 0, 49, 1, "Cut far", "Percent of the farthest shown as black.")
    far_is_white: bool = switch(False, "Far is white", "For maps that are the other way round.")


@dataclass(frozen=True)
class EstimatedDepth:
    estimator: str = model("depth estimator", "Estimator", "A folder in models/Depth.")
    near_cut: float = number(0, 0, 49, 1, "Cut near", "Percent of the nearest shown as white.")
    far_cut: float = number(0, 0, 49, 1, "Cut far", "Percent of the farthest shown as black.")
    far_is_white: bool = switch(False, "Far is white", "For a guide trained the other way round.")


@dataclass(frozen=True)
class Normals:
    strength: float = number(4.0, 0.1, 64, 0.1, "Relief", "How steep the depths are taken.")
    background: int = number(0, 0, 255, 1, "Background", "Depths below this count as flat.")


@dataclass(frozen=True)
class EstimatedNormals(Normals):
    estimator: str = model("depth estimator", "Estimator", "A folder in models/Depth.")


@dataclass(frozen=True)
class Pose:
    estimator: str = model("pose estimator", "Estimator", "A folder in models/Pose.")
    detector: str = model(
        "detector of people",
        "Who finds people",
        'A folder in models/Detection, or "whole picture" where one person fills it.',
    )
    sure: float = number(0.3, 0, 1, 0.01, "Certainty", "Less certain points are not drawn.")


@dataclass(frozen=True)
class Preprocessor:
    """One way to make a guide of a picture."""

    name: str
    title: str
    help: str
    settings: type
    make: Make
    ask: Ask | None = None
    """What networks are asked first; None: nothing."""

    def __call__(
        self,
        picture: Image.Image,
        settings: Any,
        mask: Image.Image | None = None,
        estimates: Estimates | None = None,
    ) -> Image.Image:
        """The guide: RGB, or RGBA where something is to be invented; as large as the picture.

        Raises:
            RequestError, FileError: as `make` and, where a network is asked, `Estimates`.
        """
        rgb = in_rgb(picture)
        if self.ask is None:
            return self.make(rgb, settings, mask)
        if estimates is None:
            raise RequestError(f"{self.title} needs a network, and none is at hand here")
        return self.make(self.ask(estimates, rgb, settings), settings, mask)

    def checked(self, values: Mapping[str, Json], where: str = "settings.") -> Any:
        """Settings of its kind.

        Raises:
            RequestError: names the field, what was asked and what there is.
        """
        settings: Any = read_json(self.settings, values, where)
        for one in dataclasses.fields(self.settings):
            value, low, high = getattr(settings, one.name), *map(one.metadata.get, ("low", "high"))
            if low is not None and not low <= value <= high:
                raise RequestError(
                    f"{self.title}: {label(one).lower()} must lie between {low:g} and "
                    f"{high:g}, not {value}",
                    where + one.name,
                )
        return settings


def label(field: dataclasses.Field[Any]) -> str:
    """What a setting is called on the page."""
    return field.metadata.get("label") or field.name.replace("_", " ").capitalize()


def preprocessor(
    name: str,
    where: str = "preprocessor",
    there: Mapping[str, Preprocessor] | None = None,
) -> Preprocessor:
    """By name, among those that are there; None: those that ship.

    Raises:
        RequestError: there is none of that name; all are named.
    """
    return named(PREPROCESSORS if there is None else there, name, "preprocessor", where)


def _as_it_is(picture: Image.Image, settings: Any, mask: Image.Image | None) -> Image.Image:
    return picture


def _canny(picture: Image.Image, settings: Canny, mask: Image.Image | None) -> Image.Image:
    if settings.low > settings.high:
        raise RequestError(
            f"the low threshold, {settings.low}, must not lie above the high one, {settings.high}",
            "settings.low",
        )
    return _of_grey(canny(_grey(picture), settings.low, settings.high))


def _soft_edges(picture: Image.Image, settings: SoftEdges, mask: Image.Image | None) -> Image.Image:
    if settings.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(settings.blur))
    across, down = gradients(_grey(picture).astype(np.float32))
    # A step from black to white slopes by 4 · 255 under Sobel's weights.
    return _of_grey(_rounded(np.hypot(across, down) / 4 * settings.gain))


def _scribble(picture: Image.Image, settings: Scribble, mask: Image.Image | None) -> Image.Image:
    lines = np.asarray(picture).min(axis=2) < settings.level
    drawn = Image.fromarray(lines.astype(np.uint8) * 255)
    if settings.thicken:
        drawn = drawn.filter(ImageFilter.MaxFilter(2 * settings.thicken + 1))
    return drawn.convert("RGB")


def _threshold(picture: Image.Image, settings: Threshold, mask: Image.Image | None) -> Image.Image:
    return _of_grey(np.where(_grey(picture) > settings.level, 255, 0).astype(np.uint8))


def _blur(picture: Image.Image, settings: Blur, mask: Image.Image | None) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(settings.sigma))


def _tile(picture: Image.Image, settings: Tile, mask: Image.Image | None) -> Image.Image:
    if settings.shrink == 1:
        return picture
    small = tuple(max(1, round(side / settings.shrink)) for side in picture.size)
    shrunk = picture.resize(small, Image.Resampling.BOX)  # type: ignore[arg-type]
    return shrunk.resize(picture.size, Image.Resampling.BICUBIC)


def _inverted(picture: Image.Image, settings: Any, mask: Image.Image | None) -> Image.Image:
    return Image.fromarray(255 - np.asarray(picture))


def _recoloured(picture: Image.Image, settings: Recolour, mask: Image.Image | None) -> Image.Image:
    return _of_grey(_rounded(255 * (_grey(picture) / 255) ** settings.gamma))


def _segments(picture: Image.Image, settings: Segments, mask: Image.Image | None) -> Image.Image:
    flat = picture.quantize(
        settings.colours, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE
    )
    return flat.convert("RGB")


def _hidden(picture: Image.Image, settings: Any, mask: Image.Image | None) -> Image.Image:
    if mask is None:
        raise RequestError("this guide needs a mask of what is painted anew", "mask")
    shown = np.where(np.asarray(mask) < 128, 255, 0).astype(np.uint8)
    guide = picture.copy()
    guide.putalpha(Image.fromarray(shown))
    return guide


def _depth(
    picture: Image.Image, settings: Depth | EstimatedDepth, mask: Image.Image | None
) -> Image.Image:
    levels = _depths(picture)
    if settings.far_is_white:
        levels = 255 - levels
    far, near = np.percentile(levels, (settings.far_cut, 100 - settings.near_cut))
    return _of_grey(_rounded((levels - far) * (255 / max(near - far, 1e-6))))


def _normals(picture: Image.Image, settings: Normals, mask: Image.Image | None) -> Image.Image:
    """Red faces left, green up, blue the viewer: ControlNet 1.1's colours."""
    levels = _depths(picture)
    across, down = (slope / 8 for slope in gradients(levels))
    flat = levels < settings.background
    left, up = (np.where(flat, 0, slope) * settings.strength / 16 for slope in (across, down))
    faces = np.stack((left, up, np.ones_like(left)), axis=-1)
    faces /= np.linalg.norm(faces, axis=-1, keepdims=True)
    return Image.fromarray(_rounded(faces * 127.5 + 127.5))


def _depth_of(estimates: Estimates, picture: Image.Image, settings: Any) -> Image.Image:
    return estimates.depth(picture, settings.estimator)


def _figures_in(estimates: Estimates, picture: Image.Image, settings: Pose) -> Image.Image:
    found = estimates.people(picture, settings.estimator, settings.detector, settings.sure)
    return drawn(found, picture.size)


def _depths(picture: Image.Image) -> NDArray[np.float32]:
    """(H W), 0 to 255: a map that was drawn has whole levels, an estimated one has not."""
    levels = np.asarray(picture) if picture.mode == "F" else _grey(picture)
    return levels.astype(np.float32)


def _grey(picture: Image.Image) -> Levels:
    """(H W) brightness, ITU-R 601."""
    return np.asarray(picture.convert("L"))


def _of_grey(levels: Levels) -> Image.Image:
    return Image.fromarray(levels).convert("RGB")


def _rounded(levels: NDArray[Any]) -> Levels:
    return levels.round().clip(0, 255).astype(np.uint8)


_ALL = (
    Preprocessor("none", "None", "The picture is a guide already.", NoSettings, _as_it_is),
    Preprocessor("canny", "Canny edges", "Thin white outlines on black.", Canny, _canny),
    Preprocessor(
        "soft_edges",
        "Soft edges",
        "Outlines as grey ridges, strong ones lighter.",
        SoftEdges,
        _soft_edges,
    ),
    Preprocessor(
        "scribble",
        "Scribble from drawing",
        "Dark lines on paper become white on black.",
        Scribble,
        _scribble,
    ),
    Preprocessor("threshold", "Threshold", "Light is white, dark is black.", Threshold, _threshold),
    Preprocessor("blur", "Blur", "Only the large shapes and colours stay.", Blur, _blur),
    Preprocessor("tile", "Tile", "The picture with its finest details lost.", Tile, _tile),
    Preprocessor(
        "invert", "Invert", "Black lines on white become white on black.", NoSettings, _inverted
    ),
    Preprocessor(
        "recolour", "Recolour", "Brightness alone; colours are made up.", Recolour, _recoloured
    ),
    Preprocessor("segments", "Flat colours", "Regions of one colour each.", Segments, _segments),
    Preprocessor(
        "inpaint",
        "Inpaint",
        "The picture, with what is masked left to the network.",
        NoSettings,
        _hidden,
    ),
    Preprocessor(
        "depth", "Depth map", "A map you have, spread over the whole range.", Depth, _depth
    ),
    Preprocessor(
        "normals",
        "Normals from depth",
        "Which way each place of a depth map faces.",
        Normals,
        _normals,
    ),
    Preprocessor(
        "estimated_depth",
        "Depth, estimated",
        "A network of models/Depth says how near each place is; near is white.",
        EstimatedDepth,
        _depth,
        _depth_of,
    ),
    Preprocessor(
        "estimated_normals",
        "Normals, estimated",
        "Which way each place faces, by what a network of models/Depth says.",
        EstimatedNormals,
        _normals,
        _depth_of,
    ),
    Preprocessor(
        "pose",
        "Pose",
        "Stick figures of the people; networks of models/Pose and models/Detection find them.",
        Pose,
        _as_it_is,
        _figures_in,
    ),
)
PREPROCESSORS: Mapping[str, Preprocessor] = {one.name: one for one in _ALL}
