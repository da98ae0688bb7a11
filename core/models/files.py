"""safetensors files: the header without torch, then tensors one by one.

The header is checked before anything in it is believed. Nothing is mapped: a mapped file that is
cut off while it is read kills the process. What the tensors mean is not known here.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from core.errors import FileError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
SENSELESS = (ArithmeticError, LookupError, ValueError, TypeError)
"""What shapes that fit no network end in, where numbers are read off them."""

BYTES_OF = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header describes it; `start` and `end` count from the file's first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    file: Path


@dataclass(frozen=True)
class Header:
    """What a safetensors file, or several of one model, hold by name."""

    path: Path
    """What errors call it."""
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, None if there is none of that name."""
        info = self.tensors.get(name)
        return info.shape if info else None

    def renamed(self, names: Mapping[str, str]) -> Header:
        """Only the tensors in `names`, each under its new name."""
        tensors = {new: self.tensors[old] for old, new in names.items()}
        return Header(self.path, tensors, self.metadata)


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file.

    Raises:
        FileError: no such file, another kind of file, cut off, or inconsistent.
    """
    try:
        with path.open("rb") as file:
            return _read_header(path, file)
    except FileNotFoundError as error:
        raise FileError(f"{path.name}: there is no such file in {path.parent}") from error
    except OSError as error:
        raise FileError(f"{path.name} can't be read: {error.strerror or error}") from error


def _read_header(path: Path, file: BinaryIO) -> Header:
    size = path.stat().st_size
    start = file.read(8)
    kind = other_kind(start + file.read(256))
    if kind:
        raise FileError(f"{path.name} is not a safetensors file: it is {kind}")
    if len(start) < 8:
        raise FileError(f"{path.name} is too short for a safetensors file: {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > MAX_HEADER_BYTES or length < 2:
        raise FileError(
            f"{path.name} is not a safetensors file: its header can't be {length} bytes"
        )
    if 8 + length > size:
        raise FileError(f"{path.name} is cut off inside its header, after {size} bytes")
    file.seek(8)
    try:
        entries = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path.name}: the header can't be read: {error}") from error
    if not isinstance(entries, dict):
        raise FileError(f"{path.name}: the header is not a table of tensors")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileError(f"{path.name}: the header's metadata is not a table of texts")
    if len(entries) > MAX_TENSORS:
        raise FileError(
            f"{path.name} claims {len(entries):,} tensors; {MAX_TENSORS:,} is the limit"
        )
    tensors = {
        name: _checked(path, name, entry, 8 + length, size) for name, entry in entries.items()
    }
    _check_ranges(path, tensors)
    return Header(path, tensors, metadata)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return table


def _checked(path: Path, name: str, entry: Any, offset: int, size: int) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        plain = all(type(n) is int and n >= 0 for n in (*shape, start, end))
    except (TypeError, KeyError, ValueError) as error:
        raise FileError(f"{path.name}: the header's entry for {name!r} is malformed") from error
    if dtype not in BYTES_OF:
        raise FileError(f"{path.name}: {name!r} has the unknown number format {str(dtype)[:20]!r}")
    if not plain or end - start != math.prod(shape) * BYTES_OF[dtype]:
        raise FileError(f"{path.name}: size and shape of {name!r} do not agree")
    if offset + end > size:
        whole = shown_bytes(offset + end)
        raise FileError(f"{path.name} is cut off after {shown_bytes(size)} of at least {whole}")
    return TensorInfo(dtype, shape, offset + start, offset + end, path)


def _check_ranges(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    reached, last = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start < reached and info.end > info.start:
            raise FileError(f"{path.name}: {name!r} and {last!r} claim the same bytes")
        reached, last = max(reached, info.end), name


POINTER = "a git-lfs pointer: the real file was not downloaded"
PAGE = "an HTML page: the download went wrong"
NO_MODELS = (POINTER, PAGE)
"""What comes where a model was asked for, and is none at all."""


def other_kind(beginning: bytes) -> str | None:
    """What a file that is no safetensors file is, as far as its first bytes tell."""
    if not beginning:
        return "empty"
    if beginning.startswith(b"version https://git-lfs"):
        return POINTER
    if beginning.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return PAGE
    if beginning.startswith(b"\x80\x02"):
        return "a pickle"
    if beginning.startswith(b"PK\x03\x04"):
        return "an archive, as torch writes them"
    if beginning.startswith(b"GGUF"):
        return "a GGUF file"
    return None


def shown_bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def read_tensors(header: Header, names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """(new name, tensor) for every name in the file that `names` maps to a new one.

    In the order of the file, each read by copy into memory of its own, in the file's own dtype.

    Raises:
        FileError: the file shrank since its header was read.
    """
    import torch

    for name, info, file in _places(header, names):
        raw = torch.empty(info.end - info.start, dtype=torch.uint8)
        _fill(file, raw.numpy().data, info.file)
        yield names[name], raw.view(_torch_dtype(name, info)).reshape(info.shape)


STAGE = 8 * 2**20
"""Bytes that are read at once where numbers change their format; as many as a cache holds."""


def read_tensors_as(
    header: Header, names: Mapping[str, str], dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor, int]]:
    """(new name, tensor, bytes it has in the file), as `read_tensors`, straight to its end.

    Numbers that are not whole become `dtype`; what changes its format or its place goes through
    small stages, so beside the tensors themselves there is next to nothing in memory.

    Raises:
        FileError: the file shrank since its header was read.
    """
    import torch

    from core.nn.copies import Stages

    stages = Stages(STAGE, device)
    for name, info, file in _places(header, names):
        stored = _torch_dtype(name, info)
        wanted = dtype if stored.is_floating_point else stored
        size = info.end - info.start
        tensor = torch.empty(math.prod(info.shape), dtype=wanted, device=device)
        if wanted is stored and device.type == "cpu":
            _fill(file, tensor.view(torch.uint8).numpy().data, info.file)
        else:
            stages.pour(tensor, stored, functools.partial(_fill, file, path=info.file))
        yield names[name], tensor.reshape(info.shape), size


def _places(header: Header, names: Mapping[str, str]) -> Iterator[tuple[str, TensorInfo, BinaryIO]]:
    """Each name and its file, which stands where the tensor begins; in the order of the file."""
    by_file: dict[Path, list[str]] = {}
    for name in sorted(names, key=lambda name: header.tensors[name].start):
        by_file.setdefault(header.tensors[name].file, []).append(name)
    for path, wanted in by_file.items():
        with path.open("rb", buffering=0) as file:
            for name in wanted:
                info = header.tensors[name]
                file.seek(info.start)
                yield name, info, file


def _torch_dtype(name: str, info: TensorInfo) -> torch.dtype:
    import torch

    dtypes = {
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F32": torch.float32,
        "F64": torch.float64,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
    if info.dtype not in dtypes:
        raise FileError(f"{info.file.name}: {name!r} holds {info.dtype} numbers")
    return dtypes[info.dtype]


def _fill(file: Any, buffer: memoryview, path: Path) -> None:
    """Reads until the buffer is full; one read may return less."""
    while len(buffer):
        count = file.readinto(buffer)
        if not count:
            raise FileError(f"{path.name} was cut off while it was read")
        buffer = buffer[count:]


def tensors_begin(path: Path) -> int:
    """Where the tensors of a safetensors file begin; 0 for a file of another kind.

    What follows is what the hashes of LoRAs in A1111's text are made of.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or other_kind(start):
        return 0
    (length,) = struct.unpack("<Q", start)
    return 8 + length if length <= MAX_HEADER_BYTES else 0
