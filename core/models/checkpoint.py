"""One model, ready to use: its parts on a device, read from a single file tensor by tensor."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import FileError, NotFinite
from core.events import Loading
from core.models.catalog import CheckpointFile
from core.models.family import UNET, VAE, Family, unet_config, vae_config
from core.models.files import Header, read_header, read_tensors
from core.nn.unet import UNet
from core.nn.vae import VAE as VAENetwork
from core.sampling.prediction import Prediction
from core.sampling.schedule import Schedule, scaled_linear
from core.text.encoders import TextEncoder, clip_text_model
from core.text.tokenizer import Tokenizer

DERIVED = ("position_ids",)
"""Endings of tensors that are computed, never read: in some merges they are damaged."""
LEFTOVER = ("loss.", "model_ema.")
"""Beginnings, within a part, of what training left in some files."""


@dataclass(frozen=True)
class Checkpoint:
    """The parts of one model, in evaluation mode, without gradients."""

    name: str
    family: Family
    network: UNet
    vae: VAENetwork
    text: TextEncoder
    tokenizer: Tokenizer
    schedule: Schedule
    prediction: Prediction
    latent_scale: float
    fingerprint: str
    """SHA-256 of the file, hexadecimal."""
    device: torch.device
    dtype: torch.dtype
    """Of U-Net and text encoder; the VAE is float32."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c h w) of a picture of so many pixels."""
        shrink = self.vae.config.shrink
        return self.vae.config.latent_channels, height // shrink, width // shrink

    def decode(self, latents: Tensor) -> Tensor:
        """(b c h w) as the U-Net sees them -> (b 3 H W) float32 pixels, about [-1, 1].

        Raises:
            NotFinite: the VAE answered with NaN or infinity.
        """
        pixels = self.vae.decode(latents.float() / self.latent_scale)
        if not torch.isfinite(pixels).all():
            raise NotFinite(f"the VAE of {self.name} decoded to values that are no numbers")
        return pixels

    def encode(self, pixels: Tensor) -> Tensor:
        """(b 3 H W) in [-1, 1] -> (b c h w): the mean, as the U-Net sees it."""
        return self.vae.encode(pixels)[0] * self.latent_scale


def read_checkpoint(
    file: CheckpointFile, fingerprint: str, device: torch.device, dtype: torch.dtype
) -> Generator[Loading, None, Checkpoint]:
    """Yields how far it is, returns the checkpoint. Nothing is kept if it is closed early.

    Raises:
        FileError: the file is cut off, or tensors are missing; names the first few.
    """
    header = read_header(file.path)
    heads, card = file.family.heads, file.card
    with torch.device("meta"):
        network = UNet(unet_config(header, heads, card))
        vae = VAENetwork(vae_config(header, card))
    reader = _Reader(header, (UNET, VAE, file.family.text_prefix))
    yield from reader.filled(network, UNET, "U-Net", dtype, device)
    yield from reader.filled(vae, VAE, "VAE", torch.float32, device)
    weights = yield from reader.read(file.family.text_prefix, "text encoder", dtype)
    text = clip_text_model(weights, heads=card.text.get("heads"))
    return Checkpoint(
        name=file.name,
        family=file.family,
        network=network.eval().requires_grad_(False),
        vae=vae.eval().requires_grad_(False),
        text=text.to(device).eval().requires_grad_(False),
        tokenizer=Tokenizer(),
        schedule=scaled_linear(),
        prediction=Prediction.EPS,
        latent_scale=file.family.latent_scale,
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
    )


class _Reader:
    """Reads the parts of one file, and counts the bytes."""

    def __init__(self, header: Header, prefixes: tuple[str, ...]) -> None:
        self._header = header
        self._names = {prefix: _names(header, prefix) for prefix in prefixes}
        wanted = [header.tensors[n] for names in self._names.values() for n in names]
        self._total = sum(info.end - info.start for info in wanted)
        self._done = 0

    def read(
        self, prefix: str, part: str, dtype: torch.dtype
    ) -> Generator[Loading, None, Mapping[str, Tensor]]:
        """The tensors below `prefix`, without it, in `dtype`."""
        weights = {}
        for name, tensor in read_tensors(self._header, self._names[prefix]):
            self._done += tensor.numel() * tensor.element_size()
            weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            if len(weights) % 32 == 0:
                yield Loading(part, self._done, self._total)
        yield Loading(part, self._done, self._total)
        return weights

    def filled(
        self,
        module: nn.Module,
        prefix: str,
        part: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Generator[Loading, None, None]:
        """Fills a module on the meta device with the tensors below `prefix`."""
        weights = yield from self.read(prefix, part, dtype)
        wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
        path = self._header.path.name
        if missing := [name for name in wanted if name not in weights]:
            raise FileError(f"{path}: the {part} lacks {len(missing)} tensors: {_few(missing)}")
        if wrong := [name for name in wanted if weights[name].shape != wanted[name]]:
            raise FileError(f"{path}: the {part} has tensors of wrong shapes: {_few(wrong)}")
        if unknown := [name for name in weights if name not in wanted]:
            raise FileError(f"{path}: the {part} has unknown tensors: {_few(unknown)}")
        placed = {name: weights[name].to(device) for name in wanted}
        module.load_state_dict(placed, assign=True)


def _names(header: Header, prefix: str) -> dict[str, str]:
    """Name in the file → name in the part that begins with `prefix`."""
    below = {name: name[len(prefix) :] for name in header.tensors if name.startswith(prefix)}
    return {
        name: short
        for name, short in below.items()
        if not short.endswith(DERIVED) and not short.startswith(LEFTOVER)
    }


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
