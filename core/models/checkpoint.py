"""One model, ready to use: its parts on a device, read from a single file tensor by tensor."""

from __future__ import annotations

import functools
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from core.errors import FileError, NotFinite
from core.events import Loading
from core.models.catalog import CheckpointFile, VAEFile
from core.models.family import (
    UNET,
    VAE,
    Card,
    Family,
    TextPart,
    read_card,
    unet_config,
    vae_config,
)
from core.models.files import Header, read_tensors
from core.models.layouts import read_model_header, read_vae_header
from core.nn.blocks import timestep_embedding
from core.nn.unet import UNet
from core.nn.vae import VAE as VAENetwork
from core.request import GenerationRequest
from core.sampling.conditioning import Conditioning, PromptOverTime
from core.sampling.prediction import Prediction
from core.sampling.schedule import ALIGNED_SD1, Schedule, scaled_linear
from core.text.encode import encode
from core.text.encoders import SideBySide, TextEncoder, clip_text_model, open_clip_text_model
from core.text.prompt import lifted
from core.text.tokenizer import Tokenizer

INPUTS = {4: "plain", 9: "inpainting", 5: "depth"}
"""Input channels of the U-Nets that are understood."""
NUMBER_WIDTH = 256
"""Width of the embedding of each number in XL's vector."""
DERIVED = ("position_ids",)
"""Endings of tensors that are computed, never read: in some merges they are damaged."""
LEFTOVER = ("loss.", "model_ema.", "logit_scale")
"""Beginnings, within a part, of what training left in some files."""


@dataclass(frozen=True)
class Checkpoint:
    """The parts of one model, in evaluation mode, without gradients."""

    name: str
    family: Family
    network: UNet
    vae: VAENetwork
    text: TextEncoder | SideBySide
    tokenizer: Tokenizer
    schedule: Schedule
    prediction: Prediction
    fingerprint: str
    """SHA-256 of the file, hexadecimal."""
    device: torch.device
    dtype: torch.dtype
    """Of U-Net and text encoder; the VAE is float32."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c h w) of a picture of so many pixels."""
        shrink = self.vae.config.shrink
        return self.vae.config.latent_channels, height // shrink, width // shrink

    def prompts(
        self, request: GenerationRequest, steps: int
    ) -> tuple[PromptOverTime, PromptOverTime]:
        """Prompt and negative prompt of a resolved request, as the U-Net is told them."""
        assert request.width and request.height
        positive, negative = encode(
            lifted(request.prompt)[0],
            lifted(request.negative_prompt)[0],
            self.text,
            steps,
            tokenizer=self.tokenizer,
            emphasis=request.emphasis,
            clip_skip=request.clip_skip,
        )
        if self.family.empty_is_zero and not request.negative_prompt:
            negative = negative.mapped(Conditioning.zeroed)
        concat = self._concat(request.width, request.height)
        told = []
        for prompt, is_negative in ((positive, False), (negative, True)):
            numbers = self.family.numbers
            given = numbers and numbers(request.width, request.height, is_negative)
            told.append(prompt.mapped(functools.partial(_completed, numbers=given, concat=concat)))
        return told[0], told[1]

    def decode(self, latents: Tensor) -> Tensor:
        """(b c h w) as the U-Net sees them -> (b 3 H W) float32 pixels, about [-1, 1].

        Raises:
            NotFinite: the VAE answered with NaN or infinity.
        """
        pixels = self.vae.decode(latents.float() / self.family.latent_scale)
        if not torch.isfinite(pixels).all():
            raise NotFinite(f"the VAE of {self.name} decoded to values that are no numbers")
        return pixels

    def encode(self, pixels: Tensor) -> Tensor:
        """(b 3 H W) in [-1, 1] -> (b c h w): the mean, as the U-Net sees it."""
        return self.vae.encode(pixels)[0] * self.family.latent_scale

    def _concat(self, width: int, height: int) -> Tensor | None:
        """What an inpainting or depth U-Net is given beside the latents when there is no picture.

        Inpainting: a mask that repaints all, and the latents of even grey. Depth: an even depth.
        """
        extra = self.network.config.in_channels - self.vae.config.latent_channels
        if extra == 0:
            return None
        _, rows, columns = self.latent_shape(width, height)
        if extra == 1:
            return torch.zeros(1, 1, rows, columns, device=self.device)
        grey = self.encode(torch.zeros(1, 3, height, width, device=self.device))
        return torch.cat((torch.ones_like(grey[:, :1]), grey), dim=1)


def _completed(
    conditioning: Conditioning, numbers: tuple[float, ...] | None, concat: Tensor | None
) -> Conditioning:
    """With the numbers embedded behind the pooled text, and what goes beside the latents.

    Each number becomes 256 sinusoids, like a timestep; arXiv:2307.01952, section 2.2.
    """
    pooled = conditioning.pooled
    if numbers is not None:
        assert pooled is not None
        embedded = timestep_embedding(torch.tensor(numbers, device=pooled.device), NUMBER_WIDTH)
        pooled = torch.cat((pooled, rearrange(embedded, "n d -> 1 (n d)")), dim=-1)
    return replace(conditioning, pooled=pooled, concat=concat)


def read_checkpoint(
    file: CheckpointFile,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype,
    vae_file: VAEFile | None = None,
) -> Generator[Loading, None, Checkpoint]:
    """Yields how far it is, returns the checkpoint. Nothing is kept if it is closed early.

    `vae_file` takes the place of the VAE inside.

    Raises:
        FileError: the file is cut off, or tensors are missing; names the first few.
    """
    header = read_model_header(file.path)
    family, card = file.family, file.card
    with torch.device("meta"):
        network = UNet(unet_config(header, family.heads, card))
    _check_channels(network, file)
    vae = yield from _read_vae(header, card, vae_file, device)
    prefixes = [part.prefix(header) for part in family.text]
    reader = _Reader(header, (UNET, *(p for p in prefixes if p)))
    yield from reader.filled(network, UNET, "U-Net", dtype, device)
    yield Loading("the text encoder's code", 0, 0)  # transformers: seconds, the first time
    encoders = []
    for part, prefix in zip(family.text, prefixes, strict=True):
        assert prefix is not None  # the family would not have matched
        weights = yield from reader.read(prefix, "text encoder", dtype)
        encoders.append(text_encoder_of(part, weights, card.text.get("heads")))
    text = encoders[0] if len(encoders) == 1 else SideBySide(encoders)
    return Checkpoint(
        name=file.name,
        family=family,
        network=network.eval().requires_grad_(False),
        vae=vae.eval().requires_grad_(False),
        text=text.to(device).eval().requires_grad_(False),
        tokenizer=Tokenizer(),
        schedule=scaled_linear(
            zero_terminal_snr="ztsnr" in header.tensors, aligned=family.aligned or ALIGNED_SD1
        ),
        prediction=_prediction(file, header, network),
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
    )


def _read_vae(
    header: Header, card: Card, vae_file: VAEFile | None, device: torch.device
) -> Generator[Loading, None, VAENetwork]:
    """The VAE of its own file, or the one inside."""
    if vae_file is not None:
        header = read_vae_header(vae_file.path)
        card = read_card(header)
    elif not any(name.startswith(VAE) for name in header.tensors):
        raise FileError(f"{header.path.name} has no VAE inside; choose one from models/VAE")
    with torch.device("meta"):
        vae = VAENetwork(vae_config(header, card))
    yield from _Reader(header, (VAE,)).filled(vae, VAE, "VAE", torch.float32, device)
    return vae


def _check_channels(network: UNet, file: CheckpointFile) -> None:
    channels = network.config.in_channels
    if channels not in INPUTS:
        there = ", ".join(f"{n} ({what})" for n, what in INPUTS.items())
        raise FileError(
            f"{file.path.name}: its U-Net takes {channels} channels; this version knows {there}"
        )


def text_encoder_of(
    part: TextPart, weights: Mapping[str, Tensor], heads: int | None
) -> TextEncoder:
    build = open_clip_text_model if part.layout == "open_clip" else clip_text_model
    return build(weights, heads, layer=part.layer, final_norm=part.final_norm, pooled=part.pooled)


def _prediction(file: CheckpointFile, header: Header, network: UNet) -> Prediction:
    """What the network predicts: a .yaml beside the file says, or its keys, or its weights."""
    said = file.prediction or _said_by_yaml(file.path.with_suffix(".yaml"))
    if said is not None:
        return Prediction(said)
    if "v_pred" in header.tensors:
        return Prediction.V
    if file.family.may_predict_v and network.config.in_channels == 4:
        block = network.output_blocks[-1]
        assert isinstance(block, nn.ModuleList)
        bias = block[1].transformer_blocks[0].norm1.bias  # type: ignore[union-attr, index]
        # Stability's v-models have a far wider spread here (ComfyUI found this mark).
        return Prediction.V if float(bias.float().std(correction=0)) > 0.09 else Prediction.EPS
    return Prediction.EPS


def _said_by_yaml(path: Path) -> str | None:
    """`parameterization` of an original configuration file, if there is one beside the model."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path.name} beside the checkpoint can't be read: {error}") from error
    found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    if found is None:
        return None
    return found[1] if found[1] in set(Prediction) else None


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
        # A 1×1 convolution may be stored as the linear layer it is, and the other way round.
        weights = {
            name: tensor.reshape(wanted[name])
            if name in wanted and _alike(tensor.shape, wanted[name])
            else tensor
            for name, tensor in weights.items()
        }
        if wrong := [name for name in wanted if weights[name].shape != wanted[name]]:
            raise FileError(f"{path}: the {part} has tensors of wrong shapes: {_few(wrong)}")
        if unknown := [name for name in weights if name not in wanted]:
            raise FileError(f"{path}: the {part} has unknown tensors: {_few(unknown)}")
        placed = {name: weights[name].to(device) for name in wanted}
        module.load_state_dict(placed, assign=True)


def _alike(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """The same but for ones at the end."""
    longest = max(len(shape), len(wanted))
    padded = [(*one, *[1] * (longest - len(one))) for one in (shape, wanted)]
    return padded[0] == padded[1]


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
