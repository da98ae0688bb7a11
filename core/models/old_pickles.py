"""Headers of files that torch before 1.6 wrote: names, shapes and places, and nothing is run.

Five pickles one after the other (a magic number, the version, the system, the contents, the names
of the storages), then the storages: a count of numbers as int64, and the numbers. The pickles are
read by an unpickler that knows the few names such files need and makes inert values of them; it
imports nothing, and any other name ends the reading.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import FileError
from core.models.files import TensorInfo

BEGINNING = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle: torch's magic number 0x1950a86a20f9469cfc6c."""
VERSION = 1001
MAX_CONTENTS = 64 * 2**20
"""Bytes of pickles before the numbers."""
_BYTES = {
    "Double": ("F64", 8),
    "Float": ("F32", 4),
    "Half": ("F16", 2),
    "BFloat16": ("BF16", 2),
    "Long": ("I64", 8),
    "Int": ("I32", 4),
    "Short": ("I16", 2),
    "Char": ("I8", 1),
    "Byte": ("U8", 1),
    "Bool": ("BOOL", 1),
}
"""Kind of storage -> dtype, bytes of a number."""


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class _Claimed:
    """A tensor as the contents describe it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: object) -> _Claimed:
    assert isinstance(storage, _Storage)
    return _Claimed(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


class _Table(dict[Any, Any]):
    """An OrderedDict, whose attributes (torch keeps versions there) are left out."""

    def __setstate__(self, state: object) -> None:
        pass


_NAMES: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Table,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): lambda values=(): tuple(values),
}


class _Reader(pickle.Unpickler):
    """Makes inert values of the names that weights need, and refuses all others."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin-1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.removesuffix("Storage") in _BYTES:
            return name.removesuffix("Storage")
        if (module, name) not in _NAMES:
            raise FileError(
                f"{self._path.name} asks for code to be run when it is opened "
                f"({module}.{name}), so it was not opened; ask for a .safetensors version"
            )
        return _NAMES[module, name]

    def persistent_load(self, id: Any) -> _Storage:
        match id:
            case ("storage", str(kind), str(key), str(), int(count), None):
                return _Storage(kind, key, count)
        raise FileError(f"{self._path.name} stores a tensor in a way that is not known here")


_DAMAGE = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a damaged pickle may come to."""


def read_old_contents(path: Path) -> Any:
    """What the file holds, with a TensorInfo for each tensor.

    Raises:
        FileError: it is damaged, claims more than it has, or asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(BEGINNING)) != BEGINNING:
                raise FileError(f"{path.name} is a pickle, and none of torch's")
            version, _, contents, keys = (_Reader(file, path).load() for _ in range(4))
            if version != VERSION or not isinstance(keys, list) or file.tell() > MAX_CONTENTS:
                raise FileError(f"{path.name} is of a version of torch that is not known here")
            return _placed(contents, _Places(path, _storages(file, path, keys, contents)), 0)
    except _DAMAGE as error:
        raise FileError(f"{path.name} is cut off or damaged ({type(error).__name__})") from error
    except OSError as error:
        raise FileError(f"{path.name} can't be read: {error.strerror or error}") from error


def _storages(
    file: BinaryIO, path: Path, keys: list[Any], contents: Any
) -> dict[str, tuple[int, int]]:
    """Name of a storage -> where its numbers begin and end in the file."""
    kinds = {claimed.storage.key: claimed.storage for claimed in _claims(contents, 0)}
    size, position = path.stat().st_size, file.tell()
    places = {}
    for key in keys:
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        storage = kinds[key]
        end = position + 8 + count * _BYTES[storage.kind][1]
        if count != storage.count or end > size:
            raise FileError(f"{path.name} claims more numbers than the file has")
        places[key] = position + 8, end
        position = end
    return places


MAX_NESTING = 6


def _claims(found: Any, depth: int) -> list[_Claimed]:
    if isinstance(found, _Claimed):
        return [found]
    if depth >= MAX_NESTING or not isinstance(found, Mapping | list | tuple):
        return []
    values = found.values() if isinstance(found, Mapping) else found
    return [claimed for value in values for claimed in _claims(value, depth + 1)]


@dataclass(frozen=True)
class _Places:
    path: Path
    storages: Mapping[str, tuple[int, int]]

    def of(self, claimed: _Claimed) -> TensorInfo:
        dtype, width = _BYTES[claimed.storage.kind]
        begin, end_of_storage = self.storages[claimed.storage.key]
        start = begin + claimed.offset * width
        end = start + math.prod(claimed.shape) * width
        if min(claimed.offset, *claimed.shape, 0) < 0 or end > end_of_storage:
            raise FileError(f"{self.path.name} claims more numbers than the file has")
        if claimed.stride != _contiguous(claimed.shape):
            raise FileError(f"{self.path.name} stores a tensor transposed; save the file anew")
        return TensorInfo(dtype, claimed.shape, start, end, self.path)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for side in reversed(shape):
        strides.append(step)
        step *= max(side, 1)
    return tuple(reversed(strides))


def _placed(found: Any, places: _Places, depth: int) -> Any:
    """Texts, numbers and truths as they are; None for what else there may be."""
    if isinstance(found, _Claimed):
        return places.of(found)
    if isinstance(found, Mapping | list | tuple) and depth >= MAX_NESTING:
        return None
    if isinstance(found, Mapping):
        return {key: _placed(value, places, depth + 1) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_placed(value, places, depth + 1) for value in found]
    return found if isinstance(found, str | int | float | bool) else None
