"""Linear layers and convolutions as torch has them, but quicker on a CPU; see `core.nn.kernels`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from core.nn import kernels


class Linear(nn.Linear):
    """x weightᵀ + bias."""

    def forward(self, x: Tensor) -> Tensor:
        if kernels.quick(x):
            return kernels.linear(x, self.weight, self.bias)
        return super().forward(x)


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
        self._pack()
        return kernels.convolved(x, self.weight, self.bias, self.stride, padding)  # type: ignore[arg-type]

    def between(self, x: Tensor) -> Tensor:
        """Of rows that have their neighbours with them, so that only columns are padded; for
        tensors that are `kernels.quick`, and zeros round them."""
        self._pack()
        padding = self.padding
        assert not isinstance(padding, str)
        return kernels.convolved(x, self.weight, self.bias, (1, 1), (0, padding[1]))

    def _pack(self) -> None:
        if not self.weight.is_mkldnn:
            self._put(kernels.packed(self.weight))

    def _unpack(self) -> None:
        if self.weight.is_mkldnn:
            self._put(kernels.dense(self.weight))

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
