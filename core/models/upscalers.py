"""Files of networks that enlarge pictures, and enlarging with them tile by tile.

Recognised by names and shapes, like every model. Latents are enlarged here too, without weights.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import FileError, NotFinite, OutOfMemory, RequestError, named
from core.images.pixels import MAX_PIXELS, MAX_SIDE, of_levels, pixels
from core.images.resize import stretched
from core.models.files import Header, read_tensors
from core.models.layouts import read_file_header
from core.nn.upscale import CompactConfig, CompactNet, RRDBConfig, RRDBNet

if TYPE_CHECKING:
    from PIL import Image

KNOWN = (
    "ESRGAN and Real-ESRGAN (RRDBNet, in its old and new names), "
    "and Real-ESRGAN's compact network (SRVGGNetCompact)"
)
SCALES = (1, 2, 4, 8, 16)
MOST_PASSES = 3
"""A1111 enlarges a picture with one network so many times at most."""

LATENT_MODES = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}
"""A1111's name -> interpolation, whether antialiased."""


@dataclass(frozen=True)
class Upscaler:
    """A network that enlarges pictures, ready to be asked."""

    name: str
    """The file's, without its ending."""
    network: nn.Module
    scale: int
    device: torch.device
    dtype: torch.dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        """(b 3 H W) in [0, 1] -> (b 3 H·scale W·scale) float32 on the CPU, not clamped.

        Raises:
            NotFinite: the network answered with NaN or infinity.
        """
        answer = self.network(pixels.to(self.device, self.dtype)).float().cpu()
        if not torch.isfinite(answer).all():
            raise NotFinite(
                f"{self.name} answered with values that are no numbers; float32 precision may help"
            )
        return answer


def read_upscaler(path: Path, device: torch.device, dtype: torch.dtype) -> Upscaler:
    """The network in a .safetensors, .pth or .pt file.

    Raises:
        FileError: it can't be read, or is of another kind; says which kinds there are.
    """
    header = read_file_header(path)
    config, names = recognised(header)
    with torch.device("meta"):
        network = RRDBNet(config) if isinstance(config, RRDBConfig) else CompactNet(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {new: header.tensors[old].shape for old, new in names.items()}
    if wrong := [n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n)]:
        raise _unknown(
            header, f"{len(wrong)} of its tensors are not as there, {min(wrong)!r} first"
        )
    weights = {name: tensor.to(device, dtype) for name, tensor in read_tensors(header, names)}
    network.load_state_dict(weights, assign=True)
    network.eval().requires_grad_(False)
    return Upscaler(path.stem, network, config.scale, device, dtype)


def recognised(header: Header) -> tuple[RRDBConfig | CompactConfig, dict[str, str]]:
    """The numbers of the network in a file, and file's name -> the network's for each tensor.

    Raises:
        FileError: it is no network that is known here.
    """
    names = {name: _modern(name.removeprefix("module.")) for name in header.tensors}
    shapes = {new: header.tensors[old].shape for old, new in names.items()}
    if "body.0.rdb1.conv1.weight" not in shapes and "model.0.weight" in shapes:
        names = _from_old(header, names)
        shapes = {new: header.tensors[old].shape for old, new in names.items()}
    if all(len(shapes.get(name, ())) == 4 for name in ("conv_first.weight", "conv_last.weight")):
        return _rrdb_config(header, shapes), names
    if len(shapes.get("body.0.weight", ())) == 4 and len(shapes.get("body.1.weight", ())) == 1:
        return _compact_config(header, shapes), names
    raise _unknown(header)


NEW_NAMES = (
    (r"^RRDB_trunk\.(\d+)\.RDB([123])\.", r"body.\1.rdb\2."),
    (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."),
    (r"^HRconv\.", "conv_hr."),
)
"""The names of ESRGAN's second edition -> Real-ESRGAN's."""


def _modern(name: str) -> str:
    for pattern, new in NEW_NAMES:
        name = re.sub(pattern, new, name)
    return name


def _from_old(header: Header, names: dict[str, str]) -> dict[str, str]:
    """ESRGAN's first edition counts its layers, doublings and activations included.

    Behind the blocks (1) come three numbers for each doubling, the convolution in the middle; then
    a convolution, its activation, and the last convolution.
    """
    layers = {int(n[1]) for name in names.values() if (n := re.match(r"model\.(\d{1,4})\.", name))}
    last = max(layers)
    places = {0: "conv_first", last - 2: "conv_hr", last: "conv_last"}
    places |= {3 * n: f"conv_up{n}" for n in range(1, (last - 4) // 3 + 1)}
    if last < 4 or layers != {1, *places}:
        raise _unknown(header)
    renamed = {}
    for old, name in names.items():
        if match := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB([123])\.(conv\d)\.0\.(\w+)", name):
            renamed[old] = f"body.{match[1]}.rdb{match[2]}.{match[3]}.{match[4]}"
        elif match := re.fullmatch(r"model\.1\.sub\.\d+\.(\w+)", name):
            renamed[old] = f"conv_body.{match[1]}"
        elif match := re.fullmatch(r"model\.(\d{1,4})\.(\w+)", name):
            renamed[old] = f"{places[int(match[1])]}.{match[2]}"
        else:
            renamed[old] = name
    return renamed


Shapes: TypeAlias = dict[str, tuple[int, ...]]


def _rrdb_config(header: Header, shapes: Shapes) -> RRDBConfig:
    width, channels = shapes["conv_first.weight"][:2]
    growth = shapes.get("body.0.rdb1.conv1.weight", (0,))[0]
    unshuffle = math.isqrt(channels // 3)
    doublings = _count(shapes, r"conv_up(\d+)\.weight")
    config = RRDBConfig(
        width=width,
        growth=growth,
        blocks=_count(shapes, r"body\.(\d+)\.rdb1\.conv1\.weight"),
        doublings=doublings,
        unshuffle=unshuffle,
    )
    if shapes["conv_last.weight"][0] != 3 or channels != 3 * unshuffle**2:
        raise _unknown(header, f"it takes {channels} channels, not three colours")
    if not growth or not config.blocks or not unshuffle:
        raise _unknown(header)
    if 2**doublings % unshuffle or config.scale not in SCALES:
        raise _unknown(header, f"it enlarges {2**doublings}/{unshuffle} times")
    return config


def _compact_config(header: Header, shapes: Shapes) -> CompactConfig:
    last = max(int(n[1]) for name in shapes if (n := re.match(r"body\.(\d{1,4})\.", name)))
    out = shapes.get(f"body.{last}.weight", (0,))[0]
    scale = math.isqrt(out // 3)
    if out != 3 * scale**2 or not 1 <= scale <= max(SCALES):
        raise _unknown(header, f"it answers with {out} channels, not with three colours")
    return CompactConfig(
        width=shapes["body.0.weight"][0], convolutions=(last - 2) // 2, scale=scale
    )


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


def _unknown(header: Header, reason: str = "") -> FileError:
    why = f" ({reason})" if reason else ""
    return FileError(
        f"{header.path.name} is no upscaler that is understood here{why}; those that are: {KNOWN}"
    )


Progress: TypeAlias = tuple[int, int]
"""Tiles done, tiles in all."""


@torch.inference_mode()
def upscaled(
    upscaler: Upscaler,
    picture: Image.Image,
    width: int,
    height: int,
    tile: int = 192,
    overlap: int = 32,
) -> Generator[Progress, None, Image.Image]:
    """The picture enlarged to exactly `width` × `height`; yields how far it is.

    Asked again while the picture is too small, MOST_PASSES times at most, then Lanczos to the size.

    Args:
        tile: pixels of the picture, on each side, that the network sees at once; halved once
            where memory does not suffice.
        overlap: pixels that neighbouring tiles share. They blend over the middle half of it; so
            nothing shows a tile's edge if the network looks no further than a quarter.

    Raises:
        RequestError: the picture would become too large, on the way or at the end.
        NotFinite: the network answered with NaN or infinity.
        OutOfMemory: also smaller tiles are too large for the device.
    """
    _check_size(upscaler, width, height)
    for _ in range(MOST_PASSES):
        before = picture.size
        _check_size(upscaler, picture.width * upscaler.scale, picture.height * upscaler.scale)
        picture = yield from _enlarged(upscaler, picture, tile, overlap)
        if picture.size == before or (picture.width >= width and picture.height >= height):
            break
    return picture if picture.size == (width, height) else stretched(picture, width, height)


def _check_size(upscaler: Upscaler, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise RequestError(
            f"with {upscaler.name} the picture would become {width} × {height}; a side may have "
            f"{MAX_SIDE:,} pixels, the whole {MAX_PIXELS:,}"
        )


def _enlarged(
    upscaler: Upscaler, picture: Image.Image, tile: int, overlap: int
) -> Generator[Progress, None, Image.Image]:
    """`_enlarged_once`, and once more in smaller pieces where memory does not suffice."""
    # Left before the second attempt, since an error at hand holds on to the tensors of the first.
    with contextlib.suppress(torch.OutOfMemoryError):
        return (yield from _enlarged_once(upscaler, picture, tile, overlap))
    tile, overlap = max(tile // 2, 1), overlap // 2
    try:
        return (yield from _enlarged_once(upscaler, picture, tile, overlap))
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{upscaler.name} does not fit into the device's memory, not even with tiles of "
            f"{tile} × {tile} pixels"
        ) from error


def _enlarged_once(
    upscaler: Upscaler, picture: Image.Image, tile: int, overlap: int
) -> Generator[Progress, None, Image.Image]:
    """The picture `upscaler.scale` times larger."""
    source = (pixels(picture) + 1) / 2
    scale = upscaler.scale
    rows = _spans(source.shape[1], tile, overlap)
    columns = _spans(source.shape[2], tile, overlap)
    down, across = _shares(rows, overlap, scale), _shares(columns, overlap, scale)
    levels = torch.empty(3, source.shape[1] * scale, source.shape[2] * scale, dtype=torch.uint8)
    # One row of tiles is held as numbers; what the next one adds nothing to is done.
    carried = torch.zeros(3, 0, levels.shape[2])
    for i, (top, bottom) in enumerate(rows):
        band = torch.zeros(3, (bottom - top) * scale, levels.shape[2])
        for j, (left, right) in enumerate(columns):
            answer = upscaler(source[None, :, top:bottom, left:right])[0]
            band[:, :, left * scale : right * scale] += answer * across[j]
            yield i * len(columns) + j + 1, len(rows) * len(columns)
        band *= down[i][:, None]
        band[:, : carried.shape[1]] += carried
        below = rows[i + 1][0] if i + 1 < len(rows) else bottom
        ready = (below - top) * scale
        done = (band[:, :ready] * 255).round_().clamp_(0, 255).to(torch.uint8)
        levels[:, top * scale : below * scale] = done
        carried = band[:, ready:]
    return of_levels(levels)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of equal tiles over a length, neighbours sharing `overlap` pixels or more."""
    if length <= tile:
        return [(0, length)]
    step = max(1, tile - overlap)
    count = math.ceil((length - tile) / step)
    starts = [round(n * (length - tile) / count) for n in range(count + 1)]
    return [(start, start + tile) for start in starts]


def _shares(spans: list[tuple[int, int]], overlap: int, scale: int) -> list[Tensor]:
    """For each tile its share of each of its pixels; at every pixel they add up to 1."""
    length = spans[-1][1] * scale
    edge, rise = overlap * scale / 4, max(overlap * scale / 2, 1e-6)
    weights, total = [], torch.zeros(length)
    for start, end in spans:
        place = torch.arange(start * scale, end * scale) + 0.5
        weight = torch.ones(len(place))
        if start > 0:
            weight = weight * ((place - start * scale - edge) / rise).clamp(0, 1)
        if end * scale < length:
            weight = weight * ((end * scale - place - edge) / rise).clamp(0, 1)
        weights.append(weight)
        total[start * scale : end * scale] += weight
    pairs = zip(spans, weights, strict=True)
    return [weight / total[start * scale : end * scale] for (start, end), weight in pairs]


def latent_upscaled(latents: Tensor, rows: int, columns: int, mode: str) -> Tensor:
    """(b c h w) -> (b c rows columns), by one of A1111's names in LATENT_MODES.

    Raises:
        RequestError: there is no such mode; says which there are.
    """
    interpolation, antialias = named(LATENT_MODES, mode, "latent upscaler", "enlarge.upscaler")
    return functional.interpolate(
        latents, size=(rows, columns), mode=interpolation, antialias=antialias
    )
