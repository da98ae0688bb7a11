"""How LoRA files spell the layers they change, and which model they were made for. Torch-free.

A layer's name with underscores for dots can't be taken apart again (`to_out_0`, `proj_in`). So
names are never parsed: a network's own layers are spelled in every known way, and a file's names
are looked up among those.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.adapters.kinds import KINDS, SHARED, AdapterKind

Shape = tuple[int, ...]

TITLES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1280: "the SDXL refiner"}
"""Families by the width of the text that their cross-attention reads."""

_OTHERS = (
    ("double_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("joint_", "SD 3"),
    ("lora_prior_", "Stable Cascade"),
)
"""Parts of names that only models of other kinds have."""

_OLD_NAMES = (
    (r"\.processor\.to_([qkv])_lora\.", r".to_\1.lora."),
    (r"\.processor\.to_out_lora\.", r".to_out.0.lora."),
    (r"\.self_attn\.to_([qkv])_lora\.", r".self_attn.\1_proj.lora."),
    (r"\.self_attn\.to_out_lora\.", r".self_attn.out_proj.lora."),
)
"""diffusers' first spellings."""


def role_of(name: str, kinds: Sequence[AdapterKind] = KINDS) -> tuple[str, str] | None:
    """A tensor's (layer as the file spells it, what it is of the layer's change); None: it is
    of none of `kinds`."""
    for old, new in _OLD_NAMES:
        name = re.sub(old, new, name)
    endings = (*SHARED, *(ending for kind in kinds for ending in kind.endings))
    pattern, roles = _compiled(endings)
    found = pattern.fullmatch(name)
    if found is None:
        return None
    return found["layer"], roles[found.lastindex or 0]


@functools.lru_cache(maxsize=16)
def _compiled(
    endings: tuple[tuple[str, str], ...],
) -> tuple[re.Pattern[str], Mapping[int, str]]:
    """One expression for all endings, and the role of each of its groups.

    The groups of roles hold no others, so the last one that matched is the role.
    """
    roles = {index: role for index, (_, role) in enumerate(endings, start=2)}
    parts = "|".join(f"({ending})" for ending, _ in endings)
    return re.compile(f"(?P<layer>.+?)(?:{parts})"), roles


def unet_spellings(paths: Iterable[str]) -> Iterator[str]:
    """Every way in which files spell a U-Net's layer, from its original and diffusers' path."""
    for path in paths:
        flat = path.replace(".", "_")
        yield from (f"lora_unet_{flat}", f"lycoris_{flat}")
        for beginning in _UNET:
            yield beginning + path


_UNET = (
    "unet.",
    "",
    "base_model.model.",
    "unet.base_model.model.",
    "diffusion_model.",
    "model.diffusion_model.",
)


def text_spellings(path: str, number: int | None) -> Iterator[str]:
    """Every way in which files spell a text encoder's layer.

    Args:
        path: in transformers' names, with `text_model.` before it.
        number: 1 or 2 where a model has two encoders; None where it has one.
    """
    kohya = f"lora_te{number or ''}_"
    diffusers = "text_encoder_2." if number == 2 else "text_encoder."
    for spelled in (path, path.removeprefix("text_model.")):
        yield kohya + spelled.replace(".", "_")
        yield diffusers + spelled
        yield f"{diffusers}base_model.model.{spelled}"
    if number is None:
        yield path


@dataclass(frozen=True)
class Base:
    """The model a file was made for, as far as names, shapes and metadata tell."""

    title: str | None = None
    context: int | None = None
    """Width of the text its cross-attention reads, where the shapes show it for certain."""


def base_of(
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
    kinds: Sequence[AdapterKind] = KINDS,
) -> Base:
    """From the layers' shapes where they tell, else from their names or what the trainer wrote."""
    for mark, title in _OTHERS:
        if any(mark in name for name in shapes):
            return Base(title)
    layers: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        if role := role_of(name, kinds):
            layers.setdefault(role[0], {})[role[1]] = shape
    measured = _measured(layers, r"attn2[._]to_[kv]$")
    if measured is None and _named_like_xl(layers):
        return Base(TITLES[2048])
    measured = measured or _measured(layers, r"self_attn[._]q_proj$")
    if measured is not None:
        return Base(titled(measured), measured)
    said = _said_width(metadata)
    return Base() if said is None else Base(titled(said))


def titled(context: int) -> str:
    """A family's title by the width of its text."""
    return TITLES.get(context, f"a model of its own kind, which reads text {context} wide")


def _measured(layers: Mapping[str, Mapping[str, Shape]], pattern: str) -> int | None:
    """How many numbers the first layer reads that is called so."""
    found = (_columns(parts) for layer, parts in layers.items() if re.search(pattern, layer))
    return next((columns for columns in found if columns), None)


def _named_like_xl(layers: Iterable[str]) -> bool:
    """Two text encoders, or several transformer blocks in a row."""
    marks = r"lora_te[12]_|text_encoder_2\.|.*(?<!single_)transformer_blocks[._][1-9]"
    return any(re.match(marks, layer) for layer in layers)


def _columns(parts: Mapping[str, Shape]) -> int | None:
    """How many numbers a layer reads, from the shapes of the parts of its change."""

    def columns(*roles: str) -> int | None:
        wide = (parts[role][1] for role in roles if len(parts.get(role, ())) > 1)
        return next(wide, None)

    if any(role.startswith("lokr") for role in parts):
        left, right = columns("lokr_w1", "lokr_w1_b"), columns("lokr_w2", "lokr_w2_b")
        return left * right if left and right else None
    return columns("down", "hada_w1_b", "diff")


def _said_width(metadata: Mapping[str, str]) -> int | None:
    """From kohya's and Stability's metadata."""
    said = " ".join(
        metadata.get(key, "").lower()
        for key in ("ss_base_model_version", "modelspec.architecture", "base_model")
    )
    marks = (("xl", 2048), ("v2", 1024), ("v1", 768), ("sd1", 768), ("sd2", 1024))
    return next((width for mark, width in marks if mark in said), None)


@dataclass(frozen=True)
class Ranks:
    """Alphas that peft writes into a file's metadata, by the part of the model."""

    config: Mapping[str, object]

    def alpha(self, layer: str) -> float | None:
        """The alpha of a layer as the file spells it; None: it says nothing."""
        part = layer.split(".", 1)[0]
        patterns = self.config.get(f"{part}.alpha_pattern")
        if isinstance(patterns, Mapping):
            for pattern, alpha in patterns.items():
                if layer.endswith(f".{pattern}") and _is_number(alpha):
                    return float(alpha)
        alpha = self.config.get(f"{part}.lora_alpha")
        return float(alpha) if _is_number(alpha) else None  # type: ignore[arg-type]

    def stabilised(self, layer: str) -> bool:
        """Whether alpha is divided by the root of the rank; arXiv:2312.03732."""
        return self.config.get(layer.split(".", 1)[0] + ".use_rslora") is True


def ranks_of(metadata: Mapping[str, str]) -> Ranks:
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        config = {}
    return Ranks(config if isinstance(config, dict) else {})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
