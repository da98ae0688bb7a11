"""Hypernetworks: small networks that change what attention makes its keys and values from.

They were a community's idea before LoRA (A1111's `.pt` files). It knows their layers, not files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from core.adapters.names import TITLES, titled
from core.errors import AdapterError
from core.nn.attention import PLAIN, Attending, Site, SpatialTransformer
from core.nn.unet import UNet

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "identity": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leakyrelu": functional.leaky_relu,
    "rrelu": functional.rrelu,
    "elu": functional.elu,
    "celu": functional.celu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swish": functional.hardswish,
    "hardswish": functional.hardswish,
    "mish": functional.mish,
    "tanh": torch.tanh,
    "tanhshrink": functional.tanhshrink,
    "hardtanh": functional.hardtanh,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "logsigmoid": functional.logsigmoid,
    "softplus": functional.softplus,
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
    "softsign": functional.softsign,
}
"""By A1111's names: torch's own, each with its defaults, and "swish", which is hardswish there.
Its softmaxes would mix the pictures of a batch, so they are refused. Prelu has its own number."""

PRELU = "prelu"
MAX_LAYERS = 64


@dataclass(frozen=True, eq=False)
class Step:
    """One of a network's steps: linear (a matrix), a norm (two vectors), or an activation."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    activation: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.activation is not None:
            return self.activation(x)
        assert self.weight is not None
        if self.weight.ndim == 2:
            return functional.linear(x, self.weight, self.bias)
        if self.bias is None:
            return functional.prelu(x, self.weight)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias)

    def to(self, device: torch.device, dtype: torch.dtype) -> Step:
        moved = [None if t is None else t.to(device, dtype) for t in (self.weight, self.bias)]
        return replace(self, weight=moved[0], bias=moved[1])


Steps = tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Hypernetwork:
    """What a file holds: for each width of text or image features the networks for keys and for
    values."""

    name: str
    networks: Mapping[int, tuple[Steps, Steps]]
    details: Mapping[str, str] = field(default_factory=dict)
    """Steps trained, checkpoint trained on, as the file says."""


def hypernetwork(name: str, contents: Mapping[Any, Any]) -> Hypernetwork:
    """From what an A1111 file holds: {width: (for keys, for values), setting: value}.

    Raises:
        AdapterError: it is none, or damaged, or has an activation that is not known here.
    """
    activation = contents.get("activation_func") or "linear"
    activate_output = contents.get("activate_output", True) is not False
    if activation != PRELU and activation not in ACTIVATIONS:
        known = ", ".join(sorted((*ACTIVATIONS, PRELU)))
        raise AdapterError(f"{name} has the activation {activation!r}; known are: {known}")
    networks = {}
    for width, pair in contents.items():
        if type(width) is not int:
            continue
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise AdapterError(f"{name}: for width {width} there must be two networks")
        keys, values = (
            _steps(f"{name}, width {width}", one, width, activation, activate_output)
            for one in pair
        )
        networks[width] = (keys, values)
    if not networks:
        there = ", ".join(sorted(map(str, contents))[:3]) or "nothing"
        raise AdapterError(f"{name} is no hypernetwork; it holds: {there}")
    told = ("step", "sd_checkpoint_name", "sd_checkpoint")
    return Hypernetwork(name, networks, {k: str(contents[k]) for k in told if contents.get(k)})


def _steps(name: str, state: Any, width: int, activation: str, activate_output: bool) -> Steps:
    """The steps in order. Where activations and dropout stand shows in the numbers of the layers
    only by gaps, so they are put where A1111 puts them: right behind each matrix."""
    layers: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items() if isinstance(state, Mapping) else ():
        old = re.fullmatch(r"linear([12])\.(weight|bias)", str(key))
        found = old or re.fullmatch(r"linear\.(\d+)\.(weight|bias)", str(key))
        if found is None or not isinstance(tensor, Tensor):
            raise AdapterError(f"{name} holds {str(key)[:40]!r}, which no hypernetwork has")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise AdapterError(f"{name} is damaged: {key} holds NaN or infinity")
        layers.setdefault(int(found[1]) - bool(old), {})[found[2]] = tensor
    ordered = [layers[number] for number in sorted(layers)]
    matrices = sum(layer["weight"].ndim == 2 for layer in ordered if "weight" in layer)
    if not 1 <= matrices <= MAX_LAYERS:
        raise AdapterError(f"{name} has {matrices} layers; 1 to {MAX_LAYERS} make a hypernetwork")
    steps: list[Step] = []
    reached, seen = width, 0
    for layer in ordered:
        weight, bias = layer.get("weight"), layer.get("bias")
        if weight is None or weight.ndim not in (1, 2):
            raise AdapterError(f"{name} is damaged: a layer lacks its weight")
        is_matrix = weight.ndim == 2
        own = bias is None and weight.numel() == 1
        reads = weight.shape[1] if is_matrix else reached if own else weight.shape[0]
        lacks = not is_matrix and not own and bias is None
        if reads != reached or lacks or (bias is not None and bias.shape != weight.shape[:1]):
            raise AdapterError(f"{name}: its layers do not fit together")
        steps.append(Step(weight, bias))
        if is_matrix:
            reached, seen = weight.shape[0], seen + 1
            if activation not in ("linear", PRELU) and (seen < matrices or activate_output):
                steps.append(Step(activation=ACTIVATIONS[activation]))
    if reached != width:
        raise AdapterError(f"{name}: it makes {reached} numbers of {width}")
    return tuple(steps)


def check_fits(net: Hypernetwork, unet: UNet) -> None:
    """Raises AdapterError for a hypernetwork that another family's attention was meant for."""
    context = unet.config.context
    if context in net.networks:
        return
    transformers = (m for m in unet.modules() if isinstance(m, SpatialTransformer))
    widths = {m.transformer_blocks[0].norm1.normalized_shape[0] for m in transformers}  # type: ignore[union-attr, index]
    meant = [TITLES[width] for width in (2048, 1024, 768) if width in net.networks]
    if meant or not widths & net.networks.keys():
        there = ", ".join(map(str, sorted(net.networks)))
        base = f"is for {meant[0]}" if meant else f"changes attention of the widths {there}"
        raise AdapterError(f"{net.name} {base}, and this model is {titled(context)}")


def hypernetwork_sources(
    nets: Sequence[Hypernetwork],
    weights: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
    attending: Attending = PLAIN,
) -> Attending:
    """`attending` with keys and values made from what the hypernetworks make of their sources.

    Each is x + weight · network(x), chosen by the width of x, one after the other in order. A
    weight of 0 leaves a network out.
    """
    moved = [
        {width: tuple(_moved(steps, device, dtype) for steps in pair) for width, pair in n.items()}
        for n, weight in zip((net.networks for net in nets), weights, strict=True)
        if weight
    ]
    strengths = [weight for weight in weights if weight]

    def sources(context: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        keys, values = attending.sources(context, site)
        for networks, weight in zip(moved, strengths, strict=True):
            if keys.shape[-1] in networks:
                for_keys, for_values = networks[keys.shape[-1]]
                keys = keys + weight * _through(for_keys, keys)
                values = values + weight * _through(for_values, values)
        return keys, values

    return replace(attending, sources=sources)


def _moved(steps: Steps, device: torch.device, dtype: torch.dtype) -> Steps:
    return tuple(step.to(device, dtype) for step in steps)


def _through(steps: Steps, x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x
