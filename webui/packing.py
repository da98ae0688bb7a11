"""Numbers for the page: a short JSON head, then the arrays themselves, little-endian.

`<u32 length of head> head (JSON, padded with spaces to 4 bytes) arrays, each padded to 4 bytes`.
The head's "arrays" says of each: name, type ("f2" or "f4"), shape, and where behind the head.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastapi.responses import Response

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["f2", "f4"]
MEDIA_TYPE = "application/octet-stream"


def packed(facts: Mapping[str, Any], arrays: Mapping[str, tuple[Kind, Tensor]]) -> bytes:
    """`arrays`: name -> (half or single precision, tensor on the CPU)."""
    told: dict[str, Any] = {}
    bodies: list[bytes] = []
    at = 0
    for name, (kind, tensor) in arrays.items():
        number = tensor.detach().half() if kind == "f2" else tensor.detach().float()
        body = _padded(number.contiguous().numpy().tobytes(), b"\0")
        told[name] = {"type": kind, "shape": list(tensor.shape), "at": at}
        bodies.append(body)
        at += len(body)
    head = _padded(json.dumps({**facts, "arrays": told}).encode(), b" ")
    return b"".join([struct.pack("<I", len(head)), head, *bodies])


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % 4)


def binary(
    facts: Mapping[str, Any],
    arrays: Mapping[str, tuple[Kind, Tensor]],
    headers: Mapping[str, str] | None = None,
) -> Response:
    return Response(packed(facts, arrays), media_type=MEDIA_TYPE, headers=dict(headers or {}))
