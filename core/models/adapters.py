"""Files of LoRAs and hypernetworks → what changes a model. Headers are checked first; no code runs.

Torch is imported when a file is read, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.adapters.kinds import KINDS, AdapterKind
from core.adapters.names import role_of
from core.errors import AdapterError, FileError
from core.models.files import Header, TensorInfo, read_tensors
from core.models.kinds import Kind, kind_of, misplaced
from core.models.layouts import read_file_header
from core.models.pickles import read_pickle_contents

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.adapters.hypernetwork import Hypernetwork
    from core.adapters.lora import Lora
    from core.models.checkpoint import Checkpoint


def read_lora(path: Path, name: str | None = None, kinds: Sequence[AdapterKind] = KINDS) -> Lora:
    """The LoRA in a file, of any kind and spelling, its tensors on the CPU as they are stored.

    Args:
        name: what errors and reports call it; None: the file's stem.
        kinds: of LoRA, that are known.

    Raises:
        FileError: no such file, cut off, inconsistent, asks for code to be run, or another kind.
        AdapterError: it is damaged, or of a kind that is not known.
    """
    from core.adapters.lora import lora

    header = read_file_header(path)
    if not any(role_of(key, kinds) for key in header.tensors):
        if problem := misplaced(header, Kind.LORA):
            raise FileError(problem)
        few = ", ".join(sorted(header.tensors)[:3]) or "none"
        raise AdapterError(f"{path.name} is no LoRA; its first tensors are: {few}")
    return lora(name or path.stem, tensors_of(header), header.metadata, kinds)


def read_hypernetwork(path: Path, name: str | None = None) -> Hypernetwork:
    """The hypernetwork in one of A1111's files.

    Raises:
        FileError, AdapterError: as `read_lora`.
    """
    from core.adapters.hypernetwork import hypernetwork

    contents = read_pickle_contents(path)
    if not isinstance(contents, Mapping):
        raise AdapterError(f"{path.name} is no hypernetwork")
    header = Header(path, dict(_infos(contents)), {})
    if kind_of(header) not in (Kind.HYPERNETWORK, None):
        raise FileError(misplaced(header, Kind.HYPERNETWORK) or "")
    tensors = tensors_of(header)
    return hypernetwork(name or path.stem, _filled(contents, tensors, ""))


def parts_of(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """A checkpoint's networks as `core.adapters.patch` calls them."""
    from core.text.encoders import SideBySide

    text = checkpoint.text
    if isinstance(text, SideBySide):
        encoders = {f"text_{i}": one for i, one in enumerate(text.encoders, start=1)}
        return {"unet": checkpoint.network, **encoders}
    return {"unet": checkpoint.network, "text": text}


def tensors_of(header: Header) -> dict[str, Tensor]:
    """All tensors of a file, which may not claim more bytes together than it has."""
    claimed = sum(info.end - info.start for info in header.tensors.values())
    if claimed > header.path.stat().st_size:
        raise FileError(f"{header.path.name} claims more numbers than the file has")
    return dict(read_tensors(header, {name: name for name in header.tensors}))


def _infos(contents: Any, prefix: str = "") -> list[tuple[str, TensorInfo]]:
    """Every tensor within tables and lists, by its way there."""
    if isinstance(contents, TensorInfo):
        return [(prefix, contents)]
    return [
        found
        for key, value in _items(contents)
        for found in _infos(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def _filled(contents: Any, tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """`contents` with each tensor in its place."""
    if isinstance(contents, TensorInfo):
        return tensors[prefix]
    if not isinstance(contents, Mapping | list | tuple):
        return contents
    filled = {
        key: _filled(value, tensors, f"{prefix}.{key}" if prefix else str(key))
        for key, value in _items(contents)
    }
    return filled if isinstance(contents, Mapping) else list(filled.values())


def _items(contents: Any) -> list[tuple[Any, Any]]:
    if isinstance(contents, Mapping):
        return list(contents.items())
    return list(enumerate(contents)) if isinstance(contents, list | tuple) else []
