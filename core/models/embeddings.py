"""Files of textual inversion → embeddings: torch's, safetensors, and pictures with one inside.

Torch is imported when it is needed, not before; no code in a file runs.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from core.adapters.names import titled
from core.errors import AdapterError, FileError, VitrineError
from core.models.adapters import tensors_of
from core.models.catalog import Catalog, ModelFile
from core.models.files import Header
from core.models.kinds import Kind, misplaced
from core.models.layouts import read_file_header
from core.request import Emphasis
from core.text.embeddings import MAX_VECTORS, Embedding, fitting
from core.text.prompt import lifted
from core.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("clip_l", "clip_g")
"""SDXL's two, in the order of its encoders."""
MAX_PICTURED = 64 * 2**20
"""Bytes of JSON that a picture may unfold into."""
MAX_WIDTH = 8192


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding on disk, as far as its header tells."""

    embedding: Embedding
    path: Path


_Version: TypeAlias = tuple[Path, int, float]


class Shelf:
    """The embeddings of a catalog; each file's header is read once for each version of it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._seen: dict[_Version, EmbeddingFile | None] = {}

    def files(self) -> tuple[EmbeddingFile, ...]:
        """By name. What is no embedding, or damaged, is left out; the models page says why."""
        known, seen = self._seen, {}
        for file in self._catalog.files(Kind.EMBEDDING):
            version = file.path, file.size, file.modified
            seen[version] = known[version] if version in known else _inspected(file)
        self._seen = seen
        return tuple(found for found in seen.values() if found is not None)


def _inspected(file: ModelFile) -> EmbeddingFile | None:
    try:
        embedding = inspect_embedding(file.path, Path(file.name).name)
    except VitrineError:
        return None
    return None if embedding is None else EmbeddingFile(embedding, file.path)


def inspect_embedding(path: Path, name: str | None = None) -> Embedding | None:
    """What an embedding's header tells; None for a picture without one inside.

    Args:
        name: what prompts call it; None: the file's stem.

    Raises:
        FileError: it can't be read, or is of another kind.
        AdapterError: it is none, or damaged.
    """
    if _is_picture(path):
        pictured = _pictured(path)
        shapes = None if pictured is None else [_list_shape(path, rows) for rows in pictured]
    else:
        header = read_file_header(path)
        shapes = [header.tensors[key].shape for key in _keys(header)]
    return None if shapes is None else _described(path, name or path.stem, shapes)


def read_embedding(path: Path, name: str | None = None) -> tuple[Tensor, ...]:
    """Its vectors for each text encoder, (n d) float32.

    Raises:
        FileError, AdapterError: as `inspect_embedding`; also for NaN and infinity.
    """
    import torch

    if _is_picture(path):
        pictured = _pictured(path)
        if pictured is None:
            raise AdapterError(f"{path.name} is a picture without an embedding inside")
        for rows in pictured:
            _list_shape(path, rows)  # raises for what is no table of numbers
        tensors = [torch.tensor(rows, dtype=torch.float32) for rows in pictured]
    else:
        header = read_file_header(path)
        keys = _keys(header)
        stored = tensors_of(header.renamed({key: key for key in keys}))
        tensors = [stored[key].float() for key in keys]
    _described(path, name or path.stem, [tuple(tensor.shape) for tensor in tensors])
    for tensor in tensors:
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path.name} is damaged: it holds NaN or infinity")
    return tuple(tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors)


def _keys(header: Header) -> list[str]:
    """The tensors that are vectors: one, or one for each of SDXL's encoders."""
    names = list(header.tensors)
    if set(PARTS) <= set(names):
        return list(PARTS)
    known = [n for n in names if n == "emb_params" or n.startswith("string_to_param.")]
    if known:
        return ["string_to_param.*"] if "string_to_param.*" in known else known[:1]
    if problem := misplaced(header, Kind.EMBEDDING):
        raise FileError(problem)
    if len(names) != 1:
        few = ", ".join(sorted(names)[:3]) or "none"
        raise AdapterError(
            f"{header.path.name} must hold one embedding and holds {len(names)} tensors: {few}"
        )
    return names


def _described(path: Path, name: str, shapes: Sequence[tuple[int, ...]]) -> Embedding:
    rows = [(1, *shape) if len(shape) == 1 else shape for shape in shapes]
    counts = {shape[0] for shape in rows}
    if any(len(s) != 2 or not 1 <= s[1] <= MAX_WIDTH for s in rows) or len(counts) != 1:
        shown = ", ".join(" × ".join(map(str, shape)) or "a number" for shape in shapes)
        raise AdapterError(f"{path.name} is no embedding: its tensors are {shown}")
    (count,) = counts
    if not 1 <= count <= MAX_VECTORS:
        raise AdapterError(
            f"{path.name} has {count} vectors; a chunk of the prompt has room for {MAX_VECTORS}"
        )
    return Embedding(name, count, tuple(shape[1] for shape in rows))


# --- what a request needs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What encoding needs of embeddings: see `core.text.encode.encode`."""

    tokenizer: Tokenizer
    vectors: Mapping[str, tuple[Tensor, ...]]
    used: tuple[EmbeddingFile, ...]
    """In the order of their coming."""
    notes: tuple[str, ...]
    """Sentences for a person: of embeddings that do not fit this model or shadow a word."""


def known(
    tokenizer: Tokenizer,
    widths: tuple[int, ...],
    files: Iterable[EmbeddingFile],
    texts: Sequence[tuple[str, bool]],
    steps: int,
    emphasis: Emphasis = Emphasis.ORIGINAL,
) -> Known:
    """The embeddings that some prompts use; only their files are read.

    Args:
        widths: of the model's text encoders.
        files: every embedding there is.
        texts: (prompt, whether it is a negative one).

    Raises:
        FileError, AdapterError: as `read_embedding`.
    """
    by_name = {file.embedding.name: file for file in files}
    fit = {n: f for n, f in by_name.items() if fitting(f.embedding.widths, widths) is not None}
    misfit = [file.embedding for name, file in by_name.items() if name not in fit]
    knowing = tokenizer.knowing(file.embedding for file in fit.values())

    def used_by(reader: Tokenizer) -> dict[str, None]:
        return {
            name: None
            for text, negative in texts
            for name in reader.embeddings_in(
                lifted(text)[0], steps, negative=negative, emphasis=emphasis
            )
        }

    vectors, used = _Vectors(fit, widths), used_by(knowing)
    notes = [
        _misfit(by_name[name].embedding, widths) for name in used_by(tokenizer.knowing(misfit))
    ]
    for name in used:
        vectors.read(name)
        if tokenizer.is_ordinary(name):
            notes.append(f"the embedding {name!r} stands in for the ordinary word {name!r}")
    return Known(knowing, vectors, tuple(fit[name] for name in used), tuple(notes))


class _Vectors(dict[str, "tuple[Tensor, ...]"]):
    """Vectors by name, read when they are first asked for: which wordings a walk comes to depends
    on how its sampler counts steps."""

    def __init__(self, files: Mapping[str, EmbeddingFile], widths: tuple[int, ...]) -> None:
        super().__init__()
        self._files = files
        self._widths = widths

    def __missing__(self, name: str) -> tuple[Tensor, ...]:
        self.read(name)
        return self[name]

    def read(self, name: str) -> None:
        file = self._files[name]
        parts = read_embedding(file.path, name)
        chosen = fitting(tuple(part.shape[1] for part in parts), self._widths)
        if chosen is None or parts[0].shape[0] != file.embedding.count:
            raise AdapterError(f"{file.path.name} has changed since it was looked at")
        self[name] = tuple(parts[i] for i in chosen)


def _misfit(embedding: Embedding, widths: tuple[int, ...]) -> str:
    def shown(numbers: tuple[int, ...]) -> str:
        return " and ".join(map(str, numbers))

    return (
        f"the embedding {embedding.name!r} was not used: its vectors are "
        f"{shown(embedding.widths)} wide ({made_for(embedding)}), and this model reads "
        f"{shown(widths)}; its name was read as words"
    )


def made_for(embedding: Embedding) -> str:
    """The family an embedding was made for, by its widths."""
    if embedding.widths in ((768, 1280), (768,), (1024,)):
        return titled(sum(embedding.widths))
    return "a model of its own kind"


# --- embeddings inside pictures ------------------------------------------------------------------

_TEXT = "sd-ti-embedding"
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"RIFF", b"\xff\xd8\xff")


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(_PICTURES)
    except OSError:
        return False  # the reader of other files says what is wrong


def _pictured(path: Path) -> list[Any] | None:
    """The vectors in a picture, as lists of numbers; None: it has none.

    A1111 writes them as JSON: in base64 into a PNG's text, or into the low four bits of two blocks
    of pixels, left and right of the picture. The latter outlives anything that keeps the pixels.
    """
    from core.images.pixels import opened

    with opened(path) as picture:
        text = picture.info.get(_TEXT)
        if isinstance(text, str):
            try:
                raw: bytes | None = base64.b64decode(text)
            except ValueError as error:
                raise AdapterError(f"{path.name}: the embedding in it is damaged") from error
        else:
            raw = hidden_bytes(picture.convert("RGB").tobytes(), *picture.size)
    if raw is None:
        return None
    try:
        table = json.loads(raw)
        params = table["string_to_param"]
        value = params.get("*", next(iter(params.values())))
        return [value["TORCHTENSOR"] if isinstance(value, dict) else value]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration) as e:
        raise AdapterError(f"{path.name}: the embedding in it is damaged") from e


def _list_shape(path: Path, rows: Any) -> tuple[int, ...]:
    """(n, d) of n lists of d numbers each."""
    is_table = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    widths = {len(row) for row in rows} if is_table else set()
    numbers = is_table and all(type(x) in (int, float) for row in rows for x in row)
    if len(widths) != 1 or not numbers:
        raise AdapterError(f"{path.name}: the embedding in it is damaged")
    return len(rows), widths.pop()


def hidden_bytes(rgb: bytes, width: int, height: int) -> bytes | None:
    """What A1111 hid in the pixels of a picture; None: nothing.

    From the picture with its black border cropped, the first and the last column that are black in
    their low four bits part it in three. In the low bits of the outer ones lie the low and the
    high halves of the bytes, deflated, each under a fixed sequence of pseudo-random numbers.
    """
    import torch

    pixels = torch.frombuffer(bytearray(rgb), dtype=torch.uint8).reshape(height, width, 3)
    lit = (pixels > 0).all(dim=2)
    rows, columns = (torch.nonzero(lit.any(dim=dim)).flatten() for dim in (1, 0))
    if not len(rows):
        return None
    halves = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    dark = torch.nonzero(halves.sum(dim=(0, 2)) == 0).flatten()
    if len(dark) < 2:
        return None
    low, high = halves[:, : dark[0]].flatten(), halves[:, dark[-1] + 1 :].flatten()
    if low.numel() != high.numel() or not low.numel():
        return None
    sequence = _sequence(low.numel())
    joined = ((high ^ sequence) << 4) | (low ^ sequence)
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(joined.numpy().tobytes(), MAX_PICTURED)
    except zlib.error:
        return None
    return found if unpacking.eof else None


def _sequence(count: int) -> Tensor:
    """The low four bits of x mod 255 for x = 1664525 x + 1013904223 mod 2³², from 0 on."""
    import torch

    factor, summand, mask = 1664525, 1013904223, 2**32 - 1
    states = torch.tensor([summand])
    while len(states) < count:
        # So many steps at once are one step with other numbers; products wrap at 2⁶⁴, unharmed.
        states = torch.cat((states, (states * factor + summand) & mask))
        factor, summand = factor * factor & mask, (factor * summand + summand) & mask
    return (states[:count] % 255 & 0x0F).to(torch.uint8)
