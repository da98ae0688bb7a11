"""Files of ControlNets, T2I-Adapters and IP-Adapters: recognised, and filled for one U-Net.

All three lie in the same folders and are told apart by names and shapes. What is understood keeps
its original names; diffusers' are mapped to them.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import AdapterError, FileError
from core.models.files import Header, read_tensors
from core.models.kinds import Kind, misplaced
from core.models.layouts import read_file_header, unet_names
from core.nn.controlnet import ControlNet
from core.nn.ip_adapter import IPAdapter, ProjectionConfig, sites
from core.nn.t2i_adapter import AdapterConfig, T2IAdapter
from core.nn.unet import UNet

PREFIX = "control_model."
DIFFERENCE = "difference"
"""A key that says: what a U-Net has too is stored as the difference from it."""
FAMILY_OF_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1280: "the SDXL refiner"}
ADAPTER_INPUTS = {64: (1, 8), 192: (3, 8), 256: (1, 16), 768: (3, 16)}
"""Channels behind a T2I-Adapter's unshuffling → (channels of the picture, side of the square)."""
KNOWN = "ControlNet, T2I-Adapter, and IP-Adapter (base and plus)"
REFUSED = {
    "lora_controlnet": "a Control-LoRA",
    "control_add_embedding.linear_1.weight": "a union ControlNet",
    "task_embedding": "a union ControlNet",
    "body.0.in_conv.weight": "a light T2I-Adapter",
    "adapter.body.0.in_conv.weight": "a light T2I-Adapter",
    "image_proj.proj.0.weight": "an IP-Adapter for faces",
    "image_proj.perceiver_resampler.proj_in.weight": "an IP-Adapter for face identities",
}
"""Names that mark kinds which are known of, and not understood."""


MARK_PLACE, MARK_BYTES = 2**20, 2**16
"""Where the bytes lie that a file is marked by, and how many."""


class Guiding(enum.StrEnum):
    """What a file that guides is."""

    CONTROLNET = "ControlNet"
    T2I_ADAPTER = "T2I-Adapter"
    IP_ADAPTER = "IP-Adapter"


@dataclass(frozen=True)
class GuideFile:
    """A recognised file."""

    kind: Guiding
    header: Header
    """Its tensors under the names that our networks carry."""
    is_difference: bool = False


def read_guide_file(path: Path) -> GuideFile:
    """The file's header, recognised.

    Raises:
        FileError: it can't be read, or is of another kind; says which kinds there are.
    """
    return recognised(read_file_header(path))


def recognised(header: Header) -> GuideFile:
    """What a file is, by its names. Raises FileError as `read_guide_file`."""
    names = header.tensors
    for name, what in REFUSED.items():
        if name in names:
            raise _unknown(header, f"{header.path.name} is {what}, which is not understood here")
    if any(name.startswith(PREFIX) for name in names):
        own = {old: old.removeprefix(PREFIX) for old in names if old.startswith(PREFIX)}
        is_difference = DIFFERENCE in names or PREFIX + DIFFERENCE in names
        own.pop(PREFIX + DIFFERENCE, None)
        return GuideFile(Guiding.CONTROLNET, header.renamed(own), is_difference)
    if "controlnet_cond_embedding.conv_in.weight" in names:
        return GuideFile(Guiding.CONTROLNET, header.renamed(_control_names(header)))
    if "input_hint_block.0.weight" in names:
        own = {name: name for name in names if name != DIFFERENCE}
        return GuideFile(Guiding.CONTROLNET, header.renamed(own), DIFFERENCE in names)
    bare = {old: old.removeprefix("adapter.") for old in names}
    if {"body.0.block1.weight", "body.0.resnets.0.block1.weight"} & set(bare.values()):
        return GuideFile(Guiding.T2I_ADAPTER, header.renamed(_adapter_names(bare)))
    if any(name.startswith("ip_adapter.") for name in names):
        return GuideFile(Guiding.IP_ADAPTER, header)
    raise _unknown(header, misplaced(header, Kind.CONTROLNET))


def old_mark(path: Path) -> str:
    """Eight digits that A1111's ControlNet extension shows behind a file's name.

    Of 64 kB one MiB into the file, as A1111 once marked checkpoints: fast, and seldom unique.

    Raises:
        FileError: the file can't be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(MARK_PLACE)
            return hashlib.sha256(file.read(MARK_BYTES)).hexdigest()[:8]
    except OSError as error:
        raise FileError(f"{path.name} can't be read: {error.strerror or error}") from error


def _unknown(header: Header, reason: str | None) -> FileError:
    few = ", ".join(sorted(header.tensors)[:3]) or "none"
    reason = reason or f"{header.path.name} guides nothing; its first tensors are: {few}"
    return FileError(f"{reason}. What is understood: {KNOWN}")


def _control_names(header: Header) -> Mapping[str, str]:
    """diffusers' names of a ControlNet → the original's."""
    blocks = [n for n in header.tensors if re.match(r"controlnet_cond_embedding\.blocks\.\d", n)]
    last = len(blocks) + 2  # each has a weight and a bias, and stands for two numbers
    rules = (
        (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
        (r"^controlnet_mid_block\.", "middle_block_out.0."),
        (r"^controlnet_cond_embedding\.conv_in\.", "input_hint_block.0."),
        (r"^controlnet_cond_embedding\.conv_out\.", f"input_hint_block.{last}."),
    )
    renamed = {}
    for old, name in unet_names(header.tensors).items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        if match := re.match(r"controlnet_cond_embedding\.blocks\.(\d{1,3})\.(\w+)$", name):
            name = f"input_hint_block.{2 * int(match[1]) + 2}.{match[2]}"
        renamed[old] = name
    return renamed


def _adapter_names(bare: Mapping[str, str]) -> Mapping[str, str]:
    """diffusers' names of a T2I-Adapter, two blocks a level, → the original's."""

    def original(name: str) -> str:
        if match := re.match(r"body\.(\d{1,3})\.resnets\.(\d)\.(.+)", name):
            return f"body.{2 * int(match[1]) + int(match[2])}.{match[3]}"
        if is_diffusers and (match := re.match(r"body\.(\d{1,3})\.in_conv\.(.+)", name)):
            return f"body.{2 * int(match[1])}.in_conv.{match[2]}"
        return name

    is_diffusers = any(".resnets." in name for name in bare.values())
    return {old: original(name) for old, name in bare.items()}


def control_net(file: GuideFile, unet: UNet) -> ControlNet:
    """The ControlNet of a file on the meta device, with the numbers of `unet`.

    Raises:
        AdapterError: it was made for another kind of U-Net; FileError: it is no whole ControlNet.
    """
    header, config = file.header, unet.config
    path = header.path.name
    _check_text(path, _text_width(header), unet)
    _check_width(path, header.shape("input_blocks.0.0.weight"), unet)
    names = list(header.tensors)
    depths = tuple(
        _depth(names, rf"input_blocks\.{1 + (config.blocks + 1) * level}\.1\.")
        for level in range(len(config.multipliers))
    )
    vector = header.shape("label_emb.0.0.weight")
    if (vector is None) != (config.vector is None):
        raise AdapterError(
            f"{path} does not fit this checkpoint: only one of them is told about sizes, as SDXL is"
        )
    first, last = header.shape("input_blocks.0.0.weight"), header.shape("input_hint_block.0.weight")
    assert first is not None
    if last is None or len(last) != 4:
        raise FileError(f"{path} lacks the part that reads a picture (input_hint_block)")
    return ControlNet(
        replace(
            config,
            in_channels=first[1],
            depths=depths,
            middle_depth=_depth(names, r"middle_block\.1\."),
        ),
        hint_channels=last[1],
        hint_widths=_hint_widths(header),
    )


def _hint_widths(header: Header) -> tuple[int, ...]:
    """Channels of the convolutions that read a picture, each width once."""
    widths, number = [], 0
    while (shape := header.shape(f"input_hint_block.{number}.weight")) is not None:
        widths.append(shape[0])
        number += 4
    # 0, 4, 8, 12 are the widths; the last convolution, 14, leads to the U-Net's own.
    return tuple(widths)


def t2i_adapter(file: GuideFile, unet: UNet) -> T2IAdapter:
    """The T2I-Adapter of a file on the meta device.

    Raises:
        AdapterError: it was made for another kind of U-Net; FileError: it is no whole one.
    """
    header, path = file.header, file.header.path.name
    first = header.shape("conv_in.weight")
    if first is None or first[1] not in ADAPTER_INPUTS:
        raise FileError(f"{path} is no T2I-Adapter that is understood here")
    channels, unshuffle = ADAPTER_INPUTS[first[1]]
    is_xl = unet.config.vector is not None
    if (unshuffle == 16) != is_xl:
        made, has = ("SDXL", "is not") if unshuffle == 16 else ("SD 1.x", "is")
        raise AdapterError(
            f"{path} was made for {made}, and this checkpoint {has} of SDXL's kind; "
            "choose one that was made for it"
        )
    _check_width(path, header.shape("conv_in.weight"), unet)
    names = list(header.tensors)
    count = 1 + max(int(n[1]) for name in names if (n := re.match(r"body\.(\d{1,3})\.", name)))
    widths = tuple((header.shape(f"body.{i}.block1.weight") or (0,))[0] for i in range(0, count, 2))
    return T2IAdapter(AdapterConfig(channels, unshuffle, widths))


def ip_adapter(file: GuideFile, unet: UNet) -> IPAdapter:
    """The IP-Adapter of a file on the meta device.

    Raises:
        AdapterError: it was made for another kind of U-Net; FileError: it is no whole one.
    """
    header, path = file.header, file.header.path.name
    config = projection_config(header)
    _check_text(path, config.context, unet)
    return IPAdapter(config, [width for _, width in sites(unet)])


def projection_config(header: Header) -> ProjectionConfig:
    """The numbers of what makes tokens of a picture. Raises FileError where it is not known."""
    plain, latents = header.shape("image_proj.proj.weight"), header.shape("image_proj.latents")
    norm = header.shape("image_proj.norm.weight")
    if plain is not None and norm is not None and len(plain) == 2:
        return ProjectionConfig(plain[1], norm[0], plain[0] // norm[0])
    first, last = (
        header.shape("image_proj.proj_in.weight"),
        header.shape("image_proj.norm_out.weight"),
    )
    if latents is not None and first is not None and last is not None:
        layers = _depth(list(header.tensors), r"image_proj\.layers\.", "")
        return ProjectionConfig(first[1], last[0], latents[1], first[0], layers)
    raise FileError(f"{header.path.name} is an IP-Adapter of a kind that is not understood here")


def filled(
    network: nn.Module,
    file: GuideFile,
    dtype: torch.dtype,
    base: Mapping[str, Tensor] | None = None,
) -> None:
    """Fills a network on the meta device, on the CPU.

    Args:
        base: the U-Net's tensors, which a file of differences is added to.

    Raises:
        FileError: tensors are missing, unknown or of other shapes; names the first few.
    """
    header, path = file.header, file.header.path.name
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if missing := sorted(wanted.keys() - header.tensors.keys()):
        raise FileError(f"{path}: the {file.kind} lacks {len(missing)} tensors: {_few(missing)}")
    if unknown := sorted(header.tensors.keys() - wanted.keys()):
        raise FileError(f"{path}: the {file.kind} has unknown tensors: {_few(unknown)}")
    wrong = [n for n, shape in wanted.items() if not _alike(header.tensors[n].shape, shape)]
    if wrong:
        raise AdapterError(f"{path} does not fit this checkpoint: {_few(wrong)} have other shapes")
    weights = {}
    for name, tensor in read_tensors(header, {name: name for name in wanted}):
        whole = tensor.reshape(wanted[name]).float()
        if file.is_difference and base is not None and name in base:
            whole = whole + base[name].detach().to("cpu", torch.float32)
        weights[name] = whole.to(dtype)
    network.load_state_dict(weights, assign=True)
    network.eval().requires_grad_(False)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _alike(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """The same but for ones at the end: a linear layer may be stored as a 1×1 convolution."""
    longest = max(len(shape), len(wanted))
    padded = [(*one, *[1] * (longest - len(one))) for one in (shape, wanted)]
    return padded[0] == padded[1]


def _depth(names: list[str], start: str, inside: str = r"transformer_blocks\.") -> int:
    """One more than the highest number behind `start`."""
    found = (re.match(rf"{start}{inside}(\d{{1,3}})\.", name) for name in names)
    return max((int(match[1]) for match in found if match), default=-1) + 1


def _text_width(header: Header) -> int | None:
    """Features of the text that a ControlNet reads; None where it reads none."""
    names = (n for n in sorted(header.tensors) if n.endswith("attn2.to_k.weight"))
    return next((header.tensors[name].shape[-1] for name in names), None)


def _check_text(path: str, width: int | None, unet: UNet) -> None:
    own = unet.config.context
    if width is None or width == own:
        return
    made, has = (FAMILY_OF_WIDTH.get(w, f"text of width {w}") for w in (width, own))
    raise AdapterError(f"{path} was made for {made}, and this checkpoint is of {has}")


def _check_width(path: str, shape: tuple[int, ...] | None, unet: UNet) -> None:
    if shape is None or len(shape) != 4:
        raise FileError(f"{path} lacks the convolution it begins with")
    if shape[0] != unet.config.channels:
        raise AdapterError(
            f"{path} was made for a network of {shape[0]} channels, and this checkpoint's has "
            f"{unet.config.channels}"
        )
