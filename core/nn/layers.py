"""Linear layers and convolutions as torch has them, but quicker on a CPU; see `core.nn.kernels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from core.nn import kernels, winograd

PACKED_FOR = "packed_for"
"""Attribute of a packed weight: its `kernels.Layout`."""


class Linear(nn.Linear):
    """x weightᵀ + bias."""

    def forward(self, x: Tensor) -> Tensor:
        if kernels.quick(x):
            return kernels.linear(x, self.weight, self.bias)
        return super().forward(x)


def side_by_side(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights as one, (Σ out, in), if they lie one after the other; no memory is touched."""
    first, place = weights[0], weights[0].data_ptr()
    for weight in weights:
        if not (
            weight.dim() == 2
            and weight.is_contiguous()
            and weight.data_ptr() == place
            and (weight.dtype, weight.shape[1]) == (first.dtype, first.shape[1])
            and weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        ):
            return None
        place += weight.nbytes
    return first.detach().as_strided((sum(map(len, weights)), first.shape[1]), first.stride())


class Conv2d(nn.Conv2d):
    """A convolution. On a CPU its weight is packed the first time it is used, and stays so.

    Whoever reads or changes the weight goes through `kernels.dense` and `kernels.packed`. Moving
    it or changing its dtype unpacks it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (kernels.quick(x) and self.dilation == (1, 1) and self.groups == 1):
            self._unpack()
            return super().forward(x)
        padding = self.padding
        assert not isinstance(padding, str)
        if self.padding_mode != "zeros":
            x = functional.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = (0, 0)
        if self.kernel_size == self.stride == (1, 1) and padding == (0, 0):
            return kernels.pointwise(x, self.weight, self.bias)
        if self._by_tiles(x, padding):  # type: ignore[arg-type]
            made = winograd.blocks(self._unpack(), self.bias)
            return winograd.convolved(x, made, self.out_channels, padding)  # type: ignore[arg-type]
        self._pack(x, padding)  # type: ignore[arg-type]
        return kernels.convolved(x, self.weight, self.bias, self.stride, padding)  # type: ignore[arg-type]

    def between(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The convolution of strips shaped like this one: rows that have their neighbours with
        them, so that only columns are padded; for tensors that are `kernels.quick`, and zeros
        round them. What all strips need is made once."""
        assert not isinstance(self.padding, str)
        padding = (0, self.padding[1])
        if self._by_tiles(x, padding):
            made = winograd.kept(self._unpack(), self.bias)
            return lambda strip: winograd.convolved(strip, made, self.out_channels, padding)
        self._pack(x, padding)
        return lambda strip: kernels.convolved(strip, self.weight, self.bias, (1, 1), padding)

    def _by_tiles(self, x: Tensor, padding: tuple[int, int]) -> bool:
        rows, columns = (x.shape[i + 2] + 2 * padding[i] - 2 for i in (0, 1))
        return self.stride == (1, 1) and winograd.worth(self.weight, rows, columns)

    def _pack(self, x: Tensor, padding: tuple[int, int]) -> None:
        """In the best order for what is convolved; it follows from that alone."""
        layout = kernels.ANY
        if kernels.shape_matters(self.out_channels):
            pictures, _, rows, columns = x.shape
            layout = kernels.Layout((pictures, rows, columns), self.stride, padding)  # type: ignore[arg-type]
        if self.weight.is_mkldnn and getattr(self.weight, PACKED_FOR) != layout:
            self._unpack()
        if not self.weight.is_mkldnn:
            self._put(kernels.packed(self.weight, layout))
            # On the weight itself: a LoRA takes it away and brings it back.
            setattr(self.weight, PACKED_FOR, layout)

    def _unpack(self) -> Tensor:
        if self.weight.is_mkldnn:
            self._put(kernels.dense(self.weight))
        return self.weight

    def _put(self, weight: Tensor) -> None:
        self._parameters["weight"] = nn.Parameter(weight, requires_grad=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Conv2d:
        self._unpack()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        self._unpack()
        super()._save_to_state_dict(destination, prefix, keep_vars)
