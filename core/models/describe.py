"""What a model file, and the files beside it, say of it: what it fits, its words, its faults.

Reads headers only. Without torch, but for torch's own files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core.errors import FileError
from core.models.families import FAMILIES
from core.models.family import CONFIG_KEY, UNET, VAE, Family, read_card, recognised
from core.models.files import SENSELESS, Header, other_kind
from core.models.folders import SIDECARS, Found
from core.models.kinds import Kind, misplaced
from core.models.layouts import (
    read_file_header,
    read_model_header,
    read_vae_header,
    said_prediction,
)

TOP_WORDS = 8
"""So many of the tags a LoRA was trained on most often stand for its trigger words."""
MAX_SIDECAR = 4 * 2**20
MAX_TEXT = 4000
"""Letters of a description that are kept."""


@dataclass(frozen=True)
class Facts:
    """What was read of one model; everything may be unknown."""

    base: str = ""
    """The family it is or fits: "sd1", "sd2", "sdxl", "sdxl-refiner"; or what it says instead."""
    alias: str = ""
    """Another name it goes by: a LoRA's from its training."""
    description: str = ""
    triggers: tuple[str, ...] = ()
    """Words that call it forth, the best first."""
    negative: str = ""
    """What its author puts into the negative prompt."""
    weight: float | None = None
    """Its author's preferred weight."""
    tensors_hash: str = ""
    """SHA-256 of the tensors alone, where the file says so itself."""
    problem: str = ""
    """Why it can't be used, as a sentence."""
    card: str | None = None
    """JSON of a checkpoint's card."""
    prediction: str | None = None
    lacks: tuple[str, ...] = ()
    """Parts of a checkpoint that are not inside: "text encoder", "VAE"."""
    context: int = 0
    """Width of the text that a checkpoint's U-Net reads."""
    text_width: int = 0
    """Width of what the text encoders inside give."""
    preprocessor: str = ""
    """What makes the pictures that a guide was trained on; a name of `core.images.guides`."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def facts_of_json(text: str) -> Facts | None:
    """The same facts again; None where another version wrote them."""
    try:
        values = json.loads(text)
        if values.keys() != {f.name for f in fields(Facts)}:
            return None
        tuples = {name: tuple(values[name]) for name in ("triggers", "lacks")}
        return Facts(**{**values, **tuples})
    except (ValueError, TypeError, AttributeError):
        return None


def read_facts(found: Found, families: Sequence[Family] = FAMILIES) -> Facts:
    """All that headers and sidecars say; what is wrong with the file is among it.

    Args:
        families: a checkpoint is of the first that takes it for its own.
    """
    sidecar = _sidecars(found)
    if found.kind is Kind.CHECKPOINT:
        del sidecar["base"]  # its own shapes know better
    try:
        if found.kind is Kind.CHECKPOINT:
            own = _of_checkpoint(found, families)
        else:
            own = _READERS.get(found.kind, _of_adapter)(found)
    except FileError as error:
        own = {"problem": str(error)}
    except OSError as error:
        own = {"problem": f"{found.path.name} can't be read: {error.strerror or error}"}
    except SENSELESS as error:
        own = {"problem": f"{found.path.name}: its header makes no sense ({error})"}
    return Facts(**{**own, **{name: value for name, value in sidecar.items() if value}})


# --- checkpoints, VAEs, upscalers ----------------------------------------------------------------


def _of_checkpoint(found: Found, families: Sequence[Family]) -> dict[str, Any]:
    header = read_model_header(found.path)
    family = recognised(header, families)
    read_card(header)  # raises where it is damaged
    lacks = [] if all(part.prefix(header) for part in family.text) else ["text encoder"]
    if not any(name.startswith(VAE) for name in header.tensors):
        lacks.append("VAE")
    widths = [part.width(header) for part in family.text]
    return {
        "base": family.name,
        "description": header.metadata.get("modelspec.description", "")[:MAX_TEXT],
        "card": header.metadata.get(CONFIG_KEY),
        "prediction": said_prediction(found.path),
        "lacks": tuple(lacks),
        "context": _context(header, UNET),
        "text_width": sum(widths) if all(widths) else 0,
    }


def _of_vae(found: Found) -> dict[str, Any]:
    read_vae_header(found.path)
    return {}


def _of_upscaler(found: Found) -> dict[str, Any]:
    """Many are of torch's old format, which has no table of contents: no more than a look."""
    with found.path.open("rb") as file:
        beginning = file.read(264)
    kind = other_kind(beginning[:64])
    if kind is not None and not beginning.startswith((b"\x80\x02", b"PK\x03\x04")):
        return {"problem": f"{found.path.name} is no upscaler: it is {kind}"}
    if beginning.startswith((b"\x80\x02", b"PK\x03\x04")):
        return {}
    return _of_adapter(found)


# --- what is laid over a checkpoint --------------------------------------------------------------


def _of_adapter(found: Found) -> dict[str, Any]:
    """Of a LoRA, an embedding, a hypernetwork, a ControlNet or a tiny VAE."""
    if found.path.suffix.lower() == ".png":
        return {"problem": "" if holds_embedding(found.path) else NO_EMBEDDING}
    header = read_file_header(found.path)
    if (problem := misplaced(header, found.kind)) is not None:
        return {"problem": problem}
    said_base = _said_base(header.metadata)
    return {
        "base": said_base or fitting(header),
        "alias": _plain(header.metadata.get("ss_output_name", "")),
        "description": header.metadata.get("modelspec.description", "")[:MAX_TEXT],
        "triggers": _said_triggers(header.metadata),
        "tensors_hash": _sha256_or_nothing(header.metadata.get("sshs_model_hash", "")),
        "preprocessor": _plain(header.metadata.get("vitrine.preprocessor", "")),
    }


NO_EMBEDDING = "a picture without an embedding inside"
"""The one problem that is none: pictures may lie among embeddings."""

_READERS: Mapping[Kind, Callable[[Found], dict[str, Any]]] = {
    Kind.VAE: _of_vae,
    Kind.UPSCALER: _of_upscaler,
}

_BASE_OF_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}


def fitting(header: Header) -> str:
    """The family that an adapter was made for, from the width of text it reads; "" if unknown."""
    names = header.tensors
    if any(n.startswith(("lora_te2_", "text_encoder_2.", "clip_g")) for n in names):
        return "sdxl"
    if any(n.startswith("lora_te1_") for n in names):
        return "sdxl"
    if (width := _context(header, "")) in _BASE_OF_WIDTH:
        return _BASE_OF_WIDTH[width]
    if any(n.startswith("lora_te_text_model_encoder_layers_") for n in names):
        deep = any(n.startswith("lora_te_text_model_encoder_layers_12_") for n in names)
        return "sd2" if deep else "sd1"
    if all(re.match(r"\d+\.[01]\.", name) for name in names):  # a hypernetwork, width by width
        widths = {int(name.partition(".")[0]) for name in names}
        return next((base for w, base in _BASE_OF_WIDTH.items() if w in widths), "")
    if "body.0.block1.weight" in names:  # a T2I adapter, which sees pixels in squares of 8 or 16
        channels = sum((header.shape("conv_in.weight") or ())[1:2])
        return {64: "sd1", 192: "sd1", 256: "sdxl", 768: "sdxl"}.get(channels, "")
    vectors = [info.shape for info in names.values() if len(info.shape) in (1, 2)]
    return _BASE_OF_WIDTH.get(vectors[0][-1], "") if len(names) <= 2 and vectors else ""


def _context(header: Header, prefix: str) -> int:
    """Columns of the first matrix that reads text: a weight's own, or those of its down factor."""
    pattern = re.compile(
        r"(?:attn2[._](?:processor[._])?to_[kv](?:_lora)?|to_k_ip)"
        r"\.(?:weight|lora_down\.weight|lora_A\.(?:default\.)?weight|(?:lora\.)?down\.weight"
        r"|hada_w1_b|diff)$"
    )
    for name in sorted(header.tensors):
        if name.startswith(prefix) and pattern.search(name):
            shape = header.tensors[name].shape
            if len(shape) >= 2:
                return shape[1]
    return 0


def _said_base(metadata: Mapping[str, str]) -> str:
    """What training wrote down; a name of its own where it is none of ours."""
    said = metadata.get("modelspec.architecture", "").partition("/")[0]
    said = said or metadata.get("ss_base_model_version", "")
    for pattern, base in (
        ("refiner", "sdxl-refiner"),
        (r"sdxl|diffusion-xl", "sdxl"),
        (r"^sd_v1|^sd_1|diffusion-v1", "sd1"),
        (r"^sd_v2|^sd_2|diffusion-v2", "sd2"),
    ):
        if re.search(pattern, said):
            return base
    return "" if said in ("", "unknown") else _plain(said)[:40]


def _said_triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The author's phrase, else the tags that the pictures had most often."""
    if phrase := _plain(metadata.get("modelspec.trigger_phrase", "")):
        return (phrase,)
    try:
        counts: Counter[str] = Counter()
        for tags in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            counts.update({_plain(tag): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ()
    return tuple(tag for tag, _ in counts.most_common(TOP_WORDS) if tag)


def _sha256_or_nothing(text: str) -> str:
    text = text.lower().removeprefix("0x")
    return text if re.fullmatch("[0-9a-f]{64}", text) else ""


def _plain(text: object) -> str:
    """One line of text, whatever was there."""
    return " ".join(text.split()) if isinstance(text, str) else ""


# --- files beside it -----------------------------------------------------------------------------

_SD_VERSIONS = {"SD1": "sd1", "SD2": "sd2", "SDXL": "sdxl"}


def _sidecars(found: Found) -> dict[str, Any]:
    """What the person wrote in A1111, then civitai's own, then a text; the first that says it."""
    texts = {end: _text_of(found.beside[end][0]) for end in found.beside if end in SIDECARS}
    user = _table(texts.get(".json", ""))
    civitai = _table(texts.get(".civitai.info", ""))
    model = civitai.get("model") if isinstance(civitai.get("model"), dict) else {}
    about = (
        user.get("description") or civitai.get("description") or (model or {}).get("description")
    )
    about = about or texts.get(".description.txt") or texts.get(".txt") or ""
    words = _strings([user.get("activation text")]) or _strings(civitai.get("trainedWords"))
    return {
        "base": _SD_VERSIONS.get(str(user.get("sd version")), ""),
        "description": _without_tags(str(about))[:MAX_TEXT],
        "triggers": words,
        "negative": _plain(user.get("negative text")),
        "weight": _number(user.get("preferred weight")),
    }


def _text_of(path: Path) -> str:
    """A small text; nothing where it is none. It only describes, so it may be missing."""
    try:
        if path.stat().st_size > MAX_SIDECAR:
            return ""
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _table(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _strings(values: object) -> tuple[str, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str):
        return ()
    return tuple(text for text in map(_plain, values) if text)[:50]


def _number(value: object) -> float | None:
    """A weight that was set; A1111 writes 0 where nobody did."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and value and abs(value) <= 10 else None  # type: ignore[arg-type]


def _without_tags(text: str) -> str:
    """civitai's descriptions are HTML; only their words are wanted."""
    if "<" in text:
        text = re.sub(r"<[^<>]{0,2000}>", " ", text)
        for name, letter in (("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            text = text.replace(name, letter)
    return re.sub(r"[ \t]+", " ", text).strip()


# --- embeddings inside pictures ------------------------------------------------------------------


def holds_embedding(path: Path) -> bool:
    """Whether a PNG carries an embedding, as A1111 writes them, in its text."""
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return False
        for _ in range(1000):
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                return False
            length = int.from_bytes(head[:4], "big")
            if head[4:] in (b"tEXt", b"iTXt", b"zTXt"):
                word = file.read(min(length, 80)).partition(b"\0")[0]
                if word == b"sd-ti-embedding":
                    return True
                file.seek(max(0, length - 80) + 4, 1)
            else:
                file.seek(length + 4, 1)
    return False
