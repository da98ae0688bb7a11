"""On which device networks run, and in which number format: by device and by what files hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from core.errors import RequestError
from core.models.family import UNET, Family
from core.models.files import Header
from core.settings import Precision


def chosen_device(name: str) -> torch.device:
    """ "automatic" is CUDA, else MPS, else the CPU.

    Raises:
        RequestError: there is no such device here.
    """
    if name == "automatic":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"the device {name!r} can't be used here: {error}") from error
    return device


def has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@dataclass(frozen=True)
class Precisions:
    """What the settings say of number formats, on a device."""

    network: Precision
    vae: Precision
    has_bfloat16: bool
    """Whether the device computes with it as fast as with float16."""

    def of_network(self, device: torch.device, family: Family, stored: str) -> torch.dtype:
        """Of U-Net and text encoder.

        On a CPU float32. On a GPU what the file holds, if that is half as long; bfloat16 where the
        file leaves it open, and for SD 2.x, whose attention outgrows float16.

        Args:
            stored: the safetensors name of the U-Net's format in the file.
        """
        if self.network != "automatic":
            return _named(self.network)
        if device.type == "cpu":
            return torch.float32
        outgrows = family.may_predict_v
        if self.has_bfloat16 and (stored != "F16" or outgrows):
            return torch.bfloat16
        return torch.float16

    def of_vae(self, device: torch.device, family: Family) -> torch.dtype:
        """On a GPU half as long as float32, unless that were float16 for an XL model, whose VAE
        outgrows it."""
        if self.vae != "automatic":
            return _named(self.vae)
        if device.type == "cpu" or self.network == "float32":
            return torch.float32
        if self.has_bfloat16:
            return torch.bfloat16
        return torch.float32 if family.numbers else torch.float16

    def usual(self, device: torch.device) -> torch.dtype:
        """What a network runs in unless its file says otherwise."""
        if self.network != "automatic":
            return _named(self.network)
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if self.has_bfloat16 else torch.float16


def stored_format(header: Header) -> str:
    """The format that most of a U-Net's numbers are stored in."""
    counts: Counter[str] = Counter()
    for name, info in header.tensors.items():
        if name.startswith(UNET):
            counts[info.dtype] += info.end - info.start
    return counts.most_common(1)[0][0] if counts else ""


def _named(precision: Precision) -> torch.dtype:
    dtype = getattr(torch, precision)
    assert isinstance(dtype, torch.dtype)
    return dtype
