"""Headers of torch's own files (.ckpt, .pt, .bin): names, shapes and places, and nothing is run.

The one room that calls `torch.load`, and only with `weights_only`. Under torch's fake tensors it
reads the table of contents alone; the numbers are then read from their places in the file like
those of any other, by `files.read_tensors`.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import FileError
from core.models.files import Header, TensorInfo
from core.models.old_pickles import BEGINNING, outline

DTYPES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
INSIDE = ("state_dict", "params_ema", "params", "model")
"""Under which names training frameworks put the weights."""
MAX_RECORDS = 100_000
MAX_NESTING = 6


class Stub:
    """Stands for classes of training frameworks that real checkpoints mention."""

    def __init__(self, *values: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Parameters(dict[str, Any]):
    """Stands for torch's ParameterDict, which embeddings of A1111 mention."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping) and isinstance(state.get("_parameters"), Mapping):
            self.update(state["_parameters"])


KNOWN_STRANGERS: Mapping[str, type] = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": Stub,
    "torch.nn.modules.container.ParameterDict": Parameters,
}
"""What real files carry, and what is made of it; anything else foreign is refused."""


def read_pickle_header(path: Path) -> Header:
    """The header of a torch file.

    Raises:
        FileError: it is damaged, holds something other than weights, or asks for code to be run.
    """
    found = read_pickle_contents(path)
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    tensors = dict(_tensors(found))
    if not tensors:
        raise FileError(f"{path.name} holds no weights")
    return Header(path, tensors, {})


def read_pickle_contents(path: Path) -> Any:
    """Everything in a torch file, in its tables and lists, with a TensorInfo for each tensor.

    Raises:
        FileError: as `read_pickle_header`.
    """
    if not is_old(path):
        _check_records(path)
        return _placed(path, _loaded(path), "", 0)
    places = outline(path)
    found = _loaded(path)
    tensors = [tensor for _, tensor in _fake_tensors(found)]
    claimed = [(t.untyped_storage().nbytes(), t.element_size()) for t in tensors]
    try:
        with path.open("rb") as file:
            starts = tuple(places.located(file, claimed, path.stat().st_size))
    except (KeyError, ValueError, struct.error) as error:
        raise FileError(f"{path.name} is cut off or damaged: {error}") from error
    for tensor, start in zip(tensors, starts, strict=True):
        tensor.untyped_storage()._checkpoint_offset = start
    return _placed(path, found, "", 0)


def is_old(path: Path) -> bool:
    """Whether it is no archive but a bare pickle, as torch before 1.6 wrote them."""
    try:
        with path.open("rb") as file:
            return file.read(2) == BEGINNING[:2]
    except OSError:
        return False  # whoever reads on says what is wrong


def _placed(path: Path, found: Any, name: str, depth: int) -> Any:
    """Texts, numbers and truths as they are; None for what else there may be."""
    if hasattr(found, "untyped_storage"):
        return _place(path, name, found)
    if isinstance(found, Mapping | list | tuple) and depth >= MAX_NESTING:
        return None
    if isinstance(found, Mapping):
        return {k: _placed(path, v, f"{name}.{k}", depth + 1) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return [_placed(path, v, f"{name}.{i}", depth + 1) for i, v in enumerate(found)]
    return found if isinstance(found, str | int | float | bool) else None


def _fake_tensors(found: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every tensor of torch's with its name, in the order of the file."""
    if hasattr(found, "untyped_storage"):
        yield prefix, found
    elif depth < MAX_NESTING and isinstance(found, Mapping | list | tuple):
        items = found.items() if isinstance(found, Mapping) else enumerate(found)
        for key, value in items:
            yield from _fake_tensors(value, f"{prefix}.{key}", depth + 1)


def _tensors(found: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, TensorInfo]]:
    """Every tensor with its name: `768.0.linear.0.weight` within tables and lists."""
    if isinstance(found, TensorInfo):
        yield prefix, found
    elif depth < MAX_NESTING and isinstance(found, Mapping | list | tuple):
        items = found.items() if isinstance(found, Mapping) else enumerate(found)
        for key, value in items:
            name = f"{prefix}.{key}" if prefix else str(key)
            yield from _tensors(value, name, depth + 1)


def _check_records(path: Path) -> None:
    """The archive is whole, and its records lie in it as they are: not compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise FileError(
            f"{path.name} is cut off or damaged: its table of contents, at the end, can't be read"
        ) from error
    if len(records) > MAX_RECORDS:
        raise FileError(f"{path.name} has {len(records):,} records; {MAX_RECORDS:,} is the limit")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise FileError(f"{path.name} is a compressed archive, not a checkpoint")


def _loaded(path: Path) -> Any:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    strangers: list[Any] = [(stub, name) for name, stub in KNOWN_STRANGERS.items()]
    try:
        # An open file: of a path torch believes the name, and a name may lie.
        with (
            path.open("rb") as file,
            torch.serialization.safe_globals(strangers),
            FakeTensorMode(),
        ):
            return torch.load(file, weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        if kind != "UnpicklingError":
            raise FileError(f"{path.name} can't be read as a torch file ({kind})") from error
        # torch's own advice, to switch the check off, is not repeated here.
        raise FileError(
            f"{path.name} asks for code to be run when it is opened, so it was not opened; "
            "ask for a .safetensors version"
        ) from error


def _place(path: Path, name: str, tensor: Any) -> TensorInfo:
    """Where a tensor's numbers lie in the file."""
    dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    storage = tensor.untyped_storage()
    offset = getattr(storage, "_checkpoint_offset", None)
    if dtype is None or offset is None:
        raise FileError(f"{path.name}: {name!r} is stored in a way that is not known here")
    if not tensor.is_contiguous():
        raise FileError(f"{path.name}: {name!r} is stored transposed; save the file anew")
    start = offset + tensor.storage_offset() * tensor.element_size()
    end = start + tensor.numel() * tensor.element_size()
    if tensor.storage_offset() < 0 or end > offset + storage.nbytes() or end > path.stat().st_size:
        raise FileError(f"{path.name}: {name!r} claims more numbers than the file has")
    return TensorInfo(dtype, tuple(tensor.shape), start, end, path)
