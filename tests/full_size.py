"""Files of real size: every name and shape of a manifest, with small random weights.

Written tensor by tensor, so nothing but the file itself is large.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMATS = Path(__file__).parent / "formats"
WHOLE = {"I64": torch.int64, "I32": torch.int32}
REAL = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
MARK_OF_V = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
"""By its spread the v-models of SD 2.x are told from the others."""


def manifest(name: str) -> dict[str, Any]:
    """Name → [shape, format] of every tensor of a real file."""
    with gzip.open(FORMATS / f"{name}.json.gz", "rt") as file:
        keys: dict[str, Any] = json.load(file)
    del keys["__info__"]
    return keys


def write_full_size(path: Path, name: str, real: str | None = None) -> int:
    """Every tensor of a manifest; returns the file's bytes.

    Args:
        real: the format of all that is not whole numbers; None: the manifest's own.
    """
    tensors = [
        (key, tuple(shape), real if real and dtype in REAL else dtype)
        for key, (shape, dtype) in manifest(name).items()
    ]
    header: dict[str, Any] = {}
    end = 0
    for key, shape, dtype in tensors:
        begin, end = end, end + math.prod(shape) * (WHOLE | REAL)[dtype].itemsize
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for key, shape, dtype in tensors:
            wide = name == "sd21-v" and key == MARK_OF_V
            for part in _numbers(key, shape, dtype, wide):
                file.write(part.view(torch.uint8).numpy())
        return file.tell()


def _numbers(key: str, shape: tuple[int, ...], dtype: str, wide: bool) -> Iterator[Tensor]:
    """The values of a tensor, in parts: matrices that keep the size of what goes through them,
    ones for norms, zeros for biases."""
    count = math.prod(shape)
    if dtype in WHOLE:
        yield torch.zeros(count, dtype=WHOLE[dtype])
    elif wide:
        yield _random()[:count].to(REAL[dtype])
    elif len(shape) < 2:
        yield torch.full((count,), float(key.endswith(".weight")), dtype=REAL[dtype])
    else:
        spread = 1 / math.prod(shape[1:]) ** 0.5
        random = (_random() * spread).to(REAL[dtype])
        for begin in range(0, count, len(random)):
            yield random[: count - begin]


@functools.cache
def _random() -> Tensor:
    """A prime number of values, so rows that repeat do not stand below each other."""
    return torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
