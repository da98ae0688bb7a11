"""The quick ways through oneDNN on a CPU: the one place that knows torch's private names for them.

`quick(x)` says whether they hold for a tensor; otherwise torch's public functions are called. The
answers agree to rounding. Only inference takes them: gradients do not flow through.

What they gain in float32: torch puts the weights of a convolution into oneDNN's order on every
call. With AVX512 on AMD (Zen 5) it gives linear layers to MKL, which takes a slow path there, and
its attention does neither of its two products through oneDNN. Without AVX512 (Zen 3) both are
quicker as torch has them.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from core.nn.abreast import abreast

PLAIN_BY = "VITRINE_KERNELS"
"""Environment variable; "plain" leaves everything to torch's public functions."""
CONVOLUTIONS = "oneDNN convolutions"
WORTH = 20_000
"""Queries × width from which pieces beat torch's own attention."""
SCORES = 2**21
"""Bytes of scores in one piece of attention for each thread, about a core's cache."""
ABREAST = 2**26
"""Scores of all heads from which they are worth a thread each: torch's own threads look out for
more to do for some 3 ms, on the processors that others could use."""
ROWS = 256
"""Queries of one head that attend in bfloat16 at once, if there are so many: for fewer, the keys
are read too often."""
LANES = 32
"""Numbers in bfloat16 that softmax takes at once."""
REVISION = 3
"""Counts the times that the order of sums changed: pictures differ in their last bits since."""
_DTYPES = (torch.float32, torch.bfloat16)
_NAMES = ("_linear_pointwise", "_convolution_pointwise", "_reorder_convolution_weight")


@functools.cache
def chosen() -> str:
    """What this process computes with on a CPU: "oneDNN", "oneDNN, MKL" (linear layers left to it),
    "oneDNN convolutions" (all else left as torch has it) or "plain".

    By machine and environment alone, never by a measurement: tomorrow's choice is today's.
    """
    there = torch.backends.mkldnn.is_available()
    if os.environ.get(PLAIN_BY) == "plain" or not there or not _works(torch.float32):
        return "plain"
    if not _has_avx512():
        return CONVOLUTIONS
    return "oneDNN, MKL" if _is_intel() else "oneDNN"


def told() -> str:
    """The choice, the number of threads and the revision, which decide how sums are rounded. All
    but "plain" convolves by Winograd's way where that is quicker; see `core.nn.winograd`."""
    threads = torch.get_num_threads()
    ways = chosen() if chosen() == "plain" else f"{chosen()}, Winograd"
    return f"{ways}, {threads} {'thread' if threads == 1 else 'threads'}, revision {REVISION}"


@functools.cache
def _works(dtype: torch.dtype) -> bool:
    """Whether torch has the private names, taking and giving what is expected of them.

    For bfloat16 oneDNN wants AVX512 or AMX, and refuses elsewhere.
    """
    if not all(hasattr(torch.ops.mkldnn, name) for name in _NAMES):
        return False
    try:
        with torch.inference_mode():
            x, weight = torch.ones(1, 4, 3, 3, dtype=dtype), torch.ones(4, 4, 3, 3, dtype=dtype)
            by_hand = functional.conv2d(x, weight, None, 1, 1)
            right = torch.equal(convolved(x, packed(weight), None, (1, 1), (1, 1)), by_hand)
            rows = torch.ones(2, 4, dtype=dtype)
            return right and torch.equal(_linear(rows, rows, None), functional.linear(rows, rows))
    except (RuntimeError, TypeError):
        return False


def _is_intel() -> bool:
    """MKL is quick there, so float32 linear layers stay with it."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "GenuineIntel" in platform.processor()


@dataclass(frozen=True)
class Layout:
    """What a weight is packed for. Equal layouts are equal orders in memory, and so equal bits."""

    shape: tuple[int, int, int] | None = None
    """Pictures, rows and columns of what is convolved; None: any."""
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


ANY = Layout()


def shape_matters(channels: int) -> bool:
    """Whether the best order for so many output channels is another one for other shapes.

    oneDNN goes through them in blocks as wide as it likes: with AVX512 of 64 or 48, where both
    divide them, elsewhere of 16, 24 or 32. In the wrong order it reorders the weight at every call
    (192 channels at 8² and AVX512: 12 ms instead of 0.4; 1280 at 2² and AVX2: 1.1 s instead of
    8 ms). Where one order serves every shape, a weight is packed once.
    """
    return not _has_avx512() or channels % 48 == 0


@functools.cache
def _has_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def quick(x: Tensor) -> bool:
    """Whether oneDNN's own kernels take this tensor; what is compiled is left to the compiler."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and not torch.is_grad_enabled()
        and chosen() != "plain"
        and _works(x.dtype)
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weightᵀ + bias over (… d); for tensors that are `quick`."""
    if x.dtype == torch.float32 and chosen() != "oneDNN":
        return functional.linear(x, weight, bias)
    return _linear(x, weight, bias)


def gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """value · gelu(gate) of [value, gate] = x weightᵀ + bias; arXiv:2002.05202.

    In two halves, so that the exact gelu is done while its numbers are at hand.
    """
    half = len(weight) // 2
    if chosen() == CONVOLUTIONS:
        gate = functional.gelu(linear(x, weight[half:], bias[half:]))
    else:
        gate = _linear(x, weight[half:], bias[half:], "gelu")
    return gate.mul_(linear(x, weight[:half], bias[:half]))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    # The word after the activation's numbers chooses among its formulas: "none" is the exact gelu.
    answer = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")
    assert isinstance(answer, Tensor)
    return answer


def packed(weight: Tensor, layout: Layout = ANY) -> Tensor:
    """(out in rows columns) in the order oneDNN convolves with; `dense` gives it back exactly."""
    size = None
    if layout.shape is not None:
        pictures, rows, columns = layout.shape
        size = [pictures, weight.shape[1], rows, columns]
    reordered = torch.ops.mkldnn._reorder_convolution_weight(
        weight.contiguous(), list(layout.padding), list(layout.stride), [1, 1], 1, size
    )
    assert isinstance(reordered, Tensor)
    return reordered


def dense(weight: Tensor) -> Tensor:
    """A weight in the usual order, whether it is packed or not."""
    return weight.to_dense() if weight.is_mkldnn else weight


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """(b c h w) with a packed weight; the answer lies in memory channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    answer = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, list(padding), list(stride), [1, 1], 1, "none", [], ""
    )
    assert isinstance(answer, Tensor)
    return answer


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(b c h w) through a 1×1 convolution, as the linear layer over channels that it is."""
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)


def worth_attending(q: Tensor) -> bool:
    """Whether `attended` is quicker than torch's own for queries (b heads n d)."""
    if q.dtype != torch.bfloat16 and (
        q.shape[-2] * q.shape[-1] < WORTH or chosen() == CONVOLUTIONS
    ):
        return False
    return quick(q)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v over (b heads n d); arXiv:1706.03762, eq. 1.

    In pieces, but exact, as each query sees all keys at once. Scores take `SCORES` for each thread
    at most, unless there are very many keys: some queries are always taken at once.
    """
    return (_by_heads if q.dtype == torch.bfloat16 else _head_by_head)(q, k, v)


def _by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As many heads at once as fit into a piece, each in one product: in bfloat16, torch gives them
    to oneDNN."""
    b, heads, n, d = q.shape
    words = k.shape[-2]
    # What is left over of a row's lanes takes softmax several times as long: 77 words are filled
    # up with keys that no query heeds.
    more = -words % LANES
    k = k * d**-0.5
    if more:
        k, v = functional.pad(k, (0, 0, 0, more)), functional.pad(v, (0, 0, 0, more))
    keys, values, q = k.flatten(0, 1).transpose(-1, -2), v.flatten(0, 1), q.flatten(0, 1)
    answer = q.new_empty(b * heads, n, v.shape[-1])
    # So many queries have room for their scores: of several heads, or some of one.
    queries = torch.get_num_threads() * SCORES // q.itemsize // (words + more)
    some, rows = max(1, queries // n), min(n, max(ROWS, queries))
    if rows < n:
        keys = keys.contiguous()  # it is read more than once
    room = q.new_empty(min(some, b * heads) * rows * (words + more))  # new memory would be dear
    for piece in range(0, b * heads, some):
        part = slice(piece, piece + some)
        for start in range(0, n, rows):
            asking = q[part, start : start + rows]
            shape = (*asking.shape[:2], words + more)
            scores = room[: math.prod(shape)].view(shape)
            torch.bmm(asking, keys[part], out=scores)
            if more:
                scores[..., words:] = -math.inf
            torch.softmax(scores, dim=-1, out=scores)
            answer[part, start : start + rows] = torch.bmm(scores, values[part])
    return answer.unflatten(0, (b, heads))


def _head_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Some queries of one head at a time, through oneDNN's products, where torch's are slow."""
    b, heads, n, d = q.shape
    answer = q.new_empty(b, n, heads, v.shape[-1])
    rows = max(64, SCORES // q.itemsize // k.shape[-2])

    def attend(i: int, j: int, starts: range) -> None:
        keys, values = (k[i, j] * d**-0.5).contiguous(), v[i, j].t().contiguous()
        for start in starts:
            queries = q[i, j, start : start + rows].contiguous()
            weights = torch.softmax(_linear(queries, keys, None), dim=-1)
            answer[i, start : start + rows, j] = _linear(weights, values, None)

    starts = range(0, n, rows)
    if b * heads * n * k.shape[-2] < ABREAST:
        for i, j in itertools.product(range(b), range(heads)):
            attend(i, j, starts)
    else:
        # Two pieces a thread at least, so that none waits long for the last.
        parts = -(-2 * torch.get_num_threads() // (b * heads))
        shares = [starts[part::parts] for part in range(parts)]
        abreast(attend, itertools.product(range(b), range(heads), shares))
    return answer.transpose(1, 2)
