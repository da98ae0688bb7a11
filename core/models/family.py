"""What a family of checkpoints is: how it is recognised, its numbers, how one is built.

Recognition reads names and shapes from headers only, without torch. Numbers come from the shapes
of the weights themselves, so a small model in the same layout takes the same path as a full one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from core.errors import FileError
from core.models.files import Header
from core.models.kinds import Kind, kind_of, misplaced

if TYPE_CHECKING:
    from core.nn.unet import UNetConfig
    from core.nn.vae import VAEConfig

UNET = "model.diffusion_model."
VAE = "first_stage_model."
MAX_COUNT = 100
"""Blocks of one sort in a network."""
CONFIG_KEY = "vitrine.config"
"""Metadata key of a JSON table for what can't be read off shapes: groups, head widths, size."""


@dataclass(frozen=True)
class TextPart:
    """One text encoder inside a file, and how its family reads it."""

    prefixes: tuple[str, ...]
    """Where its weights may lie; the first that is there counts."""
    layout: Literal["hf", "open_clip"] = "hf"
    layer: int = -1
    """Which layer's output is read, from the end."""
    final_norm: bool = True
    pooled: bool = False

    def prefix(self, header: Header) -> str | None:
        """Where it lies in this file; None if it does not."""
        places = (p for p in self.prefixes if any(name.startswith(p) for name in header.tensors))
        return next(places, None)

    def width(self, header: Header) -> int:
        """Features of what it gives; 0 if it is not in this file."""
        prefix = self.prefix(header)
        if prefix is None:
            return 0
        embeddings = (
            info.shape[-1]
            for name, info in header.tensors.items()
            if name.startswith(prefix) and name.endswith("token_embedding.weight") and info.shape
        )
        return next(embeddings, 0)


@dataclass(frozen=True)
class Family:
    """One family of models."""

    name: str
    title: str
    size: int
    """Pixels on each side that the published models paint best."""
    matches: Callable[[Header], bool]
    """Whether a U-Net is one of this family's; text encoders and VAE may be elsewhere."""
    text: tuple[TextPart, ...]
    """Its text encoders; several are read side by side."""
    latent_scale: float
    """Latents as the U-Net sees them are the VAE's times this."""
    heads: int | None = None
    """Attention heads of the U-Net; None: channels / 64."""
    numbers: Callable[[int, int, bool], tuple[float, ...]] | None = None
    """(width, height, is negative) -> what its U-Net is told beside the pooled text; XL only."""
    empty_is_zero: bool = False
    """Whether an empty negative prompt is encoded as zeros."""
    may_predict_v: bool = False
    """Whether its files predict eps or v without saying so in their keys."""
    aligned: tuple[float, ...] | None = None
    """Levels of the align-your-steps schedule, where they are its own."""
    like: str = ""
    """Name of the family whose LoRAs and guides fit it, where they are not its own."""

    @property
    def fits(self) -> str:
        """What is said of LoRAs and guides that are made for it."""
        return self.like or self.name


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself in its metadata; everything is optional."""

    size: int | None = None
    unet: Mapping[str, int] = field(default_factory=dict)
    vae: Mapping[str, int] = field(default_factory=dict)
    text: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, int | float] = field(default_factory=dict)
    """Values of request fields that suit it: cfg_scale, steps."""
    description: str = ""
    concepts: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


_DEFAULTS: tuple[tuple[str, type[int] | type[float]], ...] = (("cfg_scale", float), ("steps", int))


def read_card(header: Header) -> Card:
    """The card in a file's metadata; an empty one where there is none.

    Raises:
        FileError: there is one, and it is not what it should be.
    """
    return card_of(header.metadata.get(CONFIG_KEY), header.path.name)


def card_of(text: str | None, file: str) -> Card:
    """The card that a JSON text describes; `file` is what errors call it.

    Raises:
        FileError: it is not what it should be.
    """
    if text is None:
        return Card()
    try:
        values = json.loads(text)
        numbers = {
            part: {str(k): int(v) for k, v in dict(values.get(part, {})).items()}
            for part in ("unet", "vae", "text")
        }
        size = values.get("size")
        return Card(
            size=None if size is None else int(size),
            defaults={name: kind(values[name]) for name, kind in _DEFAULTS if name in values},
            description=str(values.get("description", "")),
            concepts=tuple(map(str, values.get("concepts", ()))),
            examples=tuple(map(str, values.get("examples", ()))),
            **numbers,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise FileError(f"{file}: its {CONFIG_KEY} can't be read: {error}") from error


def unet_config(header: Header, heads: int | None, card: Card, prefix: str = UNET) -> UNetConfig:
    """The U-Net's numbers, from the shapes of its weights.

    Raises:
        FileError: tensors of a U-Net are missing.
    """
    from core.nn.unet import UNetConfig

    shape = _shapes(header, prefix)
    names = [name[len(prefix) :] for name in header.tensors if name.startswith(prefix)]
    channels, in_channels = shape("input_blocks.0.0.weight")[:2]
    levels: list[list[tuple[int, int]]] = [[]]
    for n in range(1, _count(names, r"input_blocks\.(\d+)\.")):
        if header.shape(f"{prefix}input_blocks.{n}.0.op.weight"):
            levels.append([])
            continue
        width = shape(f"input_blocks.{n}.0.out_layers.3.weight")[0]
        depth = _count(names, rf"input_blocks\.{n}\.1\.transformer_blocks\.(\d+)\.")
        levels[-1].append((width, depth))
    if not all(levels) or len({len(level) for level in levels}) != 1:
        raise FileError(
            f"{header.path.name}: its U-Net's levels are not alike; this is no known one"
        )
    first = next(
        (n for n in sorted(names) if n.endswith("transformer_blocks.0.attn2.to_k.weight")), None
    )
    if first is None:
        raise FileError(
            f"{header.path.name}: its U-Net has no cross-attention, so it reads no text"
        )
    projection = first.replace("transformer_blocks.0.attn2.to_k.weight", "proj_in.weight")
    vector = header.shape(prefix + "label_emb.0.0.weight")
    head_width = card.unet.get("head_width")
    return UNetConfig(
        in_channels=in_channels,
        out_channels=shape("out.2.weight")[0],
        channels=channels,
        multipliers=tuple(level[0][0] // channels for level in levels),
        blocks=len(levels[0]),
        depths=tuple(level[0][1] for level in levels),
        middle_depth=_count(names, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        context=shape(first)[1],
        heads=None if head_width else heads,
        head_width=head_width or 64,
        linear_projection=len(shape(projection)) == 2,
        vector=vector[1] if vector else None,
        groups=card.unet.get("groups", 32),
    )


def vae_config(header: Header, card: Card, prefix: str = VAE) -> VAEConfig:
    """The autoencoder's numbers, from the shapes of its weights.

    Raises:
        FileError: tensors of a VAE are missing.
    """
    from core.nn.vae import VAEConfig

    shape = _shapes(header, prefix)
    names = [name[len(prefix) :] for name in header.tensors if name.startswith(prefix)]
    channels = shape("encoder.conv_in.weight")[0]
    levels = _count(names, r"encoder\.down\.(\d+)\.")
    return VAEConfig(
        channels=channels,
        multipliers=tuple(
            shape(f"encoder.down.{i}.block.0.conv1.weight")[0] // channels for i in range(levels)
        ),
        blocks=_count(names, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=shape("decoder.conv_in.weight")[1],
        groups=card.vae.get("groups", 32),
    )


def _shapes(header: Header, prefix: str) -> Callable[[str], tuple[int, ...]]:
    def shape(name: str) -> tuple[int, ...]:
        found = header.shape(prefix + name)
        if found is None:
            raise FileError(f"{header.path.name}: the tensor {prefix + name} is missing")
        return found

    return shape


def _count(names: list[str], pattern: str) -> int:
    """One more than the highest number that `pattern` finds at the start of a name; 0 for none.

    Raises:
        ValueError: more than any network has.
    """
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    count = max(found, default=-1) + 1
    if count > MAX_COUNT:
        raise ValueError(f"its names count up to {count:,}")
    return count


def recognised(header: Header, families: Sequence[Family]) -> Family:
    """The family of a checkpoint.

    Raises:
        FileError: says what the file is instead, as far as its names tell.
    """
    for family in families:
        if family.matches(header):
            return family
    if (sentence := misplaced(header, Kind.CHECKPOINT)) is not None:
        raise FileError(sentence)
    name = header.path.name
    if any(tensor.startswith(UNET) for tensor in header.tensors):
        raise FileError(f"{name} has a U-Net of no family that this version reads")
    if kind_of(header) is Kind.CHECKPOINT:
        raise FileError(f"{name} has no U-Net inside, so it can't paint")
    first = ", ".join(sorted(header.tensors)[:3]) or "none"
    raise FileError(f"{name} is no checkpoint of a known family; its first tensors are: {first}")
