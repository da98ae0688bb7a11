"""A checkpoint read from its file: each part built from shapes, then filled tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from core.errors import FileError
from core.events import Loading
from core.models.catalog import CheckpointFile, VAEFile
from core.models.checkpoint import INPUTS, Checkpoint
from core.models.family import UNET, VAE, Card, TextPart, read_card, unet_config, vae_config
from core.models.files import SENSELESS, Header, read_tensors_as
from core.models.layouts import read_model_header, read_vae_header
from core.models.placing import PlacedUNet, Placing, laid_out
from core.models.precision import Precisions, stored_format
from core.nn.attention import FUSED, places_side_by_side
from core.nn.unet import UNet
from core.nn.vae import VAE as VAENetwork
from core.sampling.prediction import Prediction
from core.sampling.schedule import ALIGNED_SD1, scaled_linear
from core.text.encoders import SideBySide, TextEncoder, clip_text_model, open_clip_text_model
from core.text.tokenizer import Tokenizer

DERIVED = ("position_ids",)
"""Endings of tensors that are computed, never read: in some merges they are damaged."""
LEFTOVER = ("loss.", "model_ema.", "logit_scale")
"""Beginnings, within a part, of what training left in some files."""


@dataclass(frozen=True)
class _Source:
    """Where one part of a model is read from."""

    header: Header
    prefix: str
    card: Card

    @property
    def names(self) -> dict[str, str]:
        """Name in the file → name in the part."""
        return _names(self.header, self.prefix)

    @property
    def bytes(self) -> int:
        infos = (self.header.tensors[name] for name in self.names)
        return sum(info.end - info.start for info in infos)


def read_checkpoint(
    file: CheckpointFile,
    placing: Placing,
    precisions: Precisions,
    vae_file: VAEFile | None = None,
) -> Generator[Loading, None, Checkpoint]:
    """Yields how far it is, returns the checkpoint. Nothing is kept if it is closed early.

    `vae_file` takes the place of the VAE inside. What is missing inside is read from the file's
    donor.

    Raises:
        FileError: the file is cut off, or tensors are missing; names the first few.
    """
    header = read_model_header(file.path)
    family, device = file.family, placing.device
    dtype = precisions.of_network(device, family, stored_format(header))
    vae_dtype = precisions.of_vae(device, family)
    sources = _sources(file, header, vae_file)
    network, vae = _empty_networks(file, sources, placing)
    _check_channels(network, file)
    reader = _Reader(sum(source.bytes for source in sources.values()), placing.reads_to)
    yield from reader.filled(vae, sources[VAE], "VAE", vae_dtype)
    yield from reader.filled(network, sources[UNET], "U-Net", dtype)
    yield Loading("the text encoder's code", 0, 0)  # transformers: seconds, the first time
    encoders = []
    for part in family.text:
        source = sources[part.prefixes[0]]
        weights = yield from reader.read(source, "text encoder", dtype)
        try:
            encoders.append(text_encoder_of(part, weights, source.card.text.get("heads")))
        except (FileError, *SENSELESS, RuntimeError) as error:
            raise FileError(f"{source.header.path.name}: {error}") from error
    text = encoders[0] if len(encoders) == 1 else SideBySide(encoders)
    parts: tuple[nn.Module, ...] = (network, vae, text.to(placing.reads_to))
    for one in parts:
        placing.took(one.eval().requires_grad_(False))
    return Checkpoint(
        name=file.name,
        family=family,
        network=network,
        vae=vae,
        text=text,
        tokenizer=Tokenizer(),
        schedule=scaled_linear(
            zero_terminal_snr="ztsnr" in header.tensors, aligned=family.aligned or ALIGNED_SD1
        ),
        prediction=_prediction(file, header, network),
        version=file.version,
        device=device,
        dtype=dtype,
        vae_dtype=vae_dtype,
        placing=placing,
        remarks=file.remarks,
    )


def _empty_networks(
    file: CheckpointFile, sources: Mapping[str, _Source], placing: Placing
) -> tuple[PlacedUNet, VAENetwork]:
    """U-Net and VAE of the sizes that their weights say, without memory."""
    unet, vae = sources[UNET], sources[VAE]
    try:
        with torch.device("meta"):
            return (
                PlacedUNet(unet_config(unet.header, file.family.heads, unet.card), placing),
                VAENetwork(vae_config(vae.header, vae.card)),
            )
    except (*SENSELESS, RuntimeError) as error:
        raise FileError(
            f"{file.path.name}: the shapes of its weights fit no network known here ({error})"
        ) from error


def _sources(file: CheckpointFile, header: Header, vae_file: VAEFile | None) -> dict[str, _Source]:
    """For each part, by the first place it may have in a file, where it is read from."""
    own = _Source(header, UNET, file.card)
    given = None
    if file.donor is not None:
        given = read_model_header(file.donor.path), file.donor.card
    sources = {UNET: own}
    if vae_file is not None:
        vae_header = read_vae_header(vae_file.path)
        sources[VAE] = _Source(vae_header, VAE, read_card(vae_header))
    elif any(name.startswith(VAE) for name in header.tensors):
        sources[VAE] = _Source(header, VAE, file.card)
    elif given is not None:
        sources[VAE] = _Source(given[0], VAE, given[1])
    else:
        raise FileError(f"{file.path.name} has no VAE inside; choose one from models/VAE")
    for part in file.family.text:
        prefix, there, card = part.prefix(header), header, file.card
        if prefix is None and given is not None:
            there, card = given
            prefix = part.prefix(there)
        if prefix is None:
            raise FileError(f"{file.path.name} has no text encoder inside")
        sources[part.prefixes[0]] = _Source(there, prefix, card)
    return sources


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
    """Reads the parts of a model, and counts the bytes."""

    def __init__(self, total: int, device: torch.device) -> None:
        self._total, self._device = total, device
        self._done = 0

    def read(
        self,
        source: _Source,
        part: str,
        dtype: torch.dtype,
        places: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Generator[Loading, None, Mapping[str, Tensor]]:
        """The tensors of a part under its own names, on the device; numbers that are not whole in
        `dtype`.

        Args:
            places: where some of them go.
        """
        weights = {}
        header = source.header
        for name, tensor, size in read_tensors_as(header, source.names, dtype, self._device):
            self._done += size
            if not tensor.is_floating_point():
                raise FileError(f"{header.path.name}: the {part}'s {name} holds whole numbers")
            weights[name] = places[name].copy_(tensor) if name in places else tensor
            if len(weights) % 32 == 0:
                yield Loading(part, self._done, self._total)
        yield Loading(part, self._done, self._total)
        return weights

    def filled(
        self, module: nn.Module, source: _Source, part: str, dtype: torch.dtype
    ) -> Generator[Loading, None, None]:
        """Fills a module on the meta device."""
        wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
        stored = {short: source.header.tensors[name].shape for name, short in source.names.items()}
        path = source.header.path.name
        if missing := [name for name in wanted if name not in stored]:
            raise FileError(f"{path}: the {part} lacks {len(missing)} tensors: {_few(missing)}")
        if wrong := [name for name in wanted if not _alike(stored[name], wanted[name])]:
            raise FileError(f"{path}: the {part} has tensors of wrong shapes: {_few(wrong)}")
        if unknown := [name for name in stored if name not in wanted]:
            raise FileError(f"{path}: the {part} has unknown tensors: {_few(unknown)}")
        places = {}
        if self._device.type in FUSED:
            places = places_side_by_side(module, dtype, self._device)
        weights = yield from self.read(source, part, dtype, places)
        # A 1×1 convolution may be stored as the linear layer it is, and the other way round.
        placed = {name: weights[name].reshape(wanted[name]) for name in wanted}
        module.load_state_dict(placed, assign=True)
        laid_out(module, self._device)


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
