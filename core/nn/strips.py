"""Large pictures through normalised convolutions, some rows at a time, exactly.

A GroupNorm needs the mean and variance of all rows; after that it, its activation and a 3×3
convolution know only of neighbouring rows. What lies between them then never exists as a whole: it
takes a strip's memory and stays in a core's cache. At 512² on a CPU most of the time of a GroupNorm
went into touching new memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.nn import kernels
from core.nn.layers import Conv2d

STRIP = 2**21
"""Bytes of one picture's rows that are in work at a time."""
WORTH = 2**23
"""Bytes of one picture from which it is worth while."""


def worth_strips(x: Tensor, *layers: Conv2d) -> bool:
    """Whether (b c h w) is large enough, and all layers can do with strips."""
    size = x[0].numel() * x.element_size()
    fitting = all(layer.padding_mode == "zeros" for layer in layers)
    return size >= WORTH and fitting and kernels.quick(x)


def _strips(x: Tensor) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of each strip."""
    rows = x.shape[2]
    many = max(2, STRIP // max(1, x[0, :, 0].numel() * x.element_size()) // 2 * 2)
    for start in range(0, rows, many):
        yield start, min(start + many, rows)


def _alike(x: Tensor) -> Iterator[tuple[int, int, int]]:
    """(first row, first that is new, row after the last) of strips of one height: a weight is
    packed for it. The last one takes rows along that were done before."""
    tall = 0
    for start, stop in _strips(x):
        tall = tall or stop
        yield stop - tall, start, stop


def activated(norm: nn.GroupNorm, x: Tensor) -> Callable[[Tensor], Tensor]:
    """silu(norm(·)) for some rows of x, with the mean and variance of all of them.

    They are put together from those of the strips (Chan et al. 1979), in float64.
    """
    groups, (b, channels, height, width) = norm.num_groups, x.shape
    mean = square = torch.zeros(b, groups, dtype=torch.float64)
    for start, stop in _strips(x):
        strip = x[:, :, start:stop].float().contiguous(memory_format=torch.channels_last)
        area = (stop - start) * width
        _, part, inverse = torch.native_group_norm(
            strip, None, None, b, channels, area, groups, norm.eps
        )
        part, variance = part.double(), inverse.double() ** -2 - norm.eps
        share = (stop - start) / height
        mean = mean + share * part
        square = square + share * (variance + part.square())
    inverse = (square - mean.square() + norm.eps).rsqrt()
    each = channels // groups
    weight, bias = norm.weight.double(), norm.bias.double()
    scale = inverse.repeat_interleave(each, dim=1) * weight
    shift = bias - mean.repeat_interleave(each, dim=1) * scale
    scale, shift = (t.float()[:, :, None, None] for t in (scale, shift))

    def normalised(rows: Tensor) -> Tensor:
        return functional.silu((rows * scale).add_(shift), inplace=True).to(rows.dtype)

    return normalised


def convolved(
    x: Tensor,
    conv: Conv2d,
    before: Callable[[Tensor], Tensor],
    onto: Tensor | None = None,
) -> Tensor:
    """conv(before(x)): a 3×3 convolution that keeps the size, of what `before` makes of each row.

    Args:
        onto: the answer is added to this tensor, in place, which is given back.
    """
    (b, _, rows, columns), out = x.shape, conv.out_channels
    answer = onto
    if answer is None:
        answer = x.new_empty(b, rows, columns, out).permute(0, 3, 1, 2)
    through = None
    for first, start, stop in _alike(x):
        above, below = min(first, 1), min(rows - stop, 1)
        strip = before(x[:, :, first - above : stop + below])
        if not (above and below):
            strip = functional.pad(strip, (0, 0, 1 - above, 1 - below))
        through = through or conv.between(strip)
        made = through(strip)[:, :, start - first :]
        if onto is None:
            answer[:, :, start:stop] = made
        else:
            answer[:, :, start:stop] += made
    return answer


def pointwise(x: Tensor, conv: Conv2d) -> Tensor:
    """A 1×1 convolution, strip by strip. One that does not widen is written over x itself: no strip
    reaches further than those that were read before it."""
    (b, channels, rows, columns), out = x.shape, conv.out_channels
    x = x.permute(0, 2, 3, 1)
    if out <= channels and x.is_contiguous():
        answer = x.view(-1)[: b * rows * columns * out].view(b, rows, columns, out)
    else:
        answer = x.new_empty(b, rows, columns, out)
    for picture, onto in zip(x.permute(0, 3, 1, 2).split(1), answer, strict=True):
        for start, stop in _strips(picture):
            onto[start:stop] = conv(picture[:, :, start:stop])[0].permute(1, 2, 0)
    return answer.permute(0, 3, 1, 2)


def enlarged(x: Tensor, conv: Conv2d) -> Tensor:
    """conv of x with every row and column twice; the enlarged picture never exists as a whole."""
    b, _, rows, columns = x.shape
    answer = x.new_empty(b, rows * 2, columns * 2, conv.out_channels).permute(0, 3, 1, 2)
    through = None
    for first, start, stop in _alike(x):
        above, below = min(first, 1), min(rows - stop, 1)
        strip = functional.interpolate(
            x[:, :, first - above : stop + below], scale_factor=2.0, mode="nearest"
        )
        strip = strip[:, :, above : strip.shape[2] - below]
        if not (above and below):
            strip = functional.pad(strip, (0, 0, 1 - above, 1 - below))
        through = through or conv.between(strip)
        answer[:, :, 2 * start : 2 * stop] = through(strip)[:, :, 2 * (start - first) :]
    return answer
