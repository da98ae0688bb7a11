"""Weights changed for a while, exactly: computed in float32, restored by reference.

It knows networks by their modules and LoRAs by their changes; files, prompts and devices are not
its business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from core.adapters.blocks import BASE, block_of, block_weights
from core.adapters.changes import Change, fits
from core.adapters.lora import Lora
from core.adapters.names import Base, text_spellings, titled, unet_spellings
from core.adapters.paths import diffusers_paths
from core.adapters.sums import summed
from core.errors import AdapterError
from core.nn import kernels
from core.nn.abreast import abreast
from core.nn.layers import side_by_side
from core.nn.unet import UNet

ALIGNED = 64
"""Each weight begins at a multiple of so many numbers, as torch's own would at least."""

Parts: TypeAlias = Mapping[str, nn.Module]
"""A model's networks: "unet", and "text" or "text_1" and "text_2"."""


@dataclass(frozen=True)
class Use:
    """One LoRA as it is asked for. Two uses are equal if they hold the same Lora object."""

    lora: Lora
    weight: float = 1.0
    """In the U-Net; may be negative."""
    text_weight: float | None = None
    """In the text encoders; None: as `weight`."""
    blocks: tuple[float, ...] = ()
    """Factors of single blocks; see `core.adapters.blocks`. Empty: 1 everywhere."""


@dataclass(frozen=True)
class Applied:
    """What became of a use."""

    name: str
    base: Base
    matched: tuple[str, ...]
    """Layers that are changed, as the file spells them."""
    unmatched: tuple[str, ...]
    """Layers and tensors that this model has no place for."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a model, and the block of the U-Net it lies in (BASE: a text encoder)."""

    part: str
    path: str
    module: nn.Module
    block: str | None

    def parameter(self, of: Literal["weight", "bias"]) -> Tensor | None:
        return self.module._parameters.get(of)


def layers(parts: Parts) -> dict[str, Layer]:
    """Every layer of a model under every name that files have for it."""
    found: dict[str, Layer] = {}
    for part, network in parts.items():
        spelled = diffusers_paths(network) if isinstance(network, UNet) else {}
        for path, module in network.named_modules():
            if "weight" not in module._parameters:
                continue
            if isinstance(network, UNet):
                layer = Layer(part, path, module, block_of(path))
                names = unet_spellings({path, spelled.get(path, path)})
            else:
                layer = Layer(part, path, module, BASE)
                number = {"text_1": 1, "text_2": 2}.get(part)
                names = text_spellings(path, number)
            found |= dict.fromkeys(names, layer)
    return found


@contextmanager
def patched(parts: Parts, uses: Sequence[Use]) -> Iterator[tuple[Applied, ...]]:
    """The networks with all uses added to their weights; on leaving, exactly as before.

    Raises:
        AdapterError: a use does not fit; nothing was changed.
    """
    patch = Patch(parts, uses)
    try:
        yield patch.report
    finally:
        patch.restore()


class Patch:
    """Changed weights, with the originals kept: one extra copy of what is touched."""

    def __init__(
        self, parts: Parts, uses: Sequence[Use], spare: Mapping[_Slot, Tensor] | None = None
    ) -> None:
        """Nothing is changed before everything is computed. Raises as `patched`.

        Args:
            spare: what an earlier patch leaves (see `restore`), to be written over: fresh memory
                takes several times as long as the sums.
        """
        table = layers(parts) if uses else {}
        sums: dict[_Slot, list[_Term]] = {}
        report = []
        for use in uses:
            applied, planned = _planned(use, parts, table)
            report.append(applied)
            for slot, term in planned:
                if term.weight:
                    sums.setdefault(slot, []).append(term)
        order = {layer.module: place for place, layer in enumerate(table.values())}
        slots = sorted(sums, key=lambda slot: order[slot.module])
        is_cpu = all(slot.value.device.type == "cpu" for slot in slots)
        room = _room(slots, spare or {}) if is_cpu else _room_as_it_lies(slots)
        changed: dict[_Slot, Tensor] = {}

        def change(slot: _Slot, terms: Sequence[_Term]) -> None:
            changed[slot] = _changed(slot, terms, room.get(slot))

        if is_cpu:
            abreast(change, sums.items())
        else:
            for slot, terms in sums.items():
                change(slot, terms)
        self.report = tuple(report)
        self._originals = [(slot, slot.put(weight)) for slot, weight in changed.items()]

    def restore(self) -> dict[_Slot, Tensor]:
        """Puts the originals back, and gives what hung there; a second time does nothing."""
        left = {slot: slot.put(original) for slot, original in self._originals}
        self._originals = []
        return left


class Kept:
    """One model's patch, kept from run to run: the same uses again cost nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._uses: tuple[Use, ...] = ()
        self._patch: Patch | None = None
        self._spare: Mapping[_Slot, Tensor] = {}

    @property
    def spare(self) -> int:
        """Bytes that the last uses left for the next, while there are none."""
        pieces = map(Tensor.untyped_storage, self._spare.values())
        return sum({piece.data_ptr(): piece.nbytes() for piece in pieces}.values())

    def use(self, uses: Sequence[Use]) -> tuple[Applied, ...]:
        """The model has just these uses from now on.

        Raises:
            AdapterError: one does not fit; the model is as it came then, without any.
        """
        if self._patch is None or tuple(uses) != self._uses:
            self.restore()
            spare = self._spare
            if uses:
                self._spare = {}
            self._patch = Patch(self._parts, uses, spare)
            self._uses = tuple(uses)
        return self._patch.report

    def restore(self) -> None:
        """The model as it came."""
        left = {} if self._patch is None else self._patch.restore()
        if left:
            # A card's memory is soon ready, so it is let go before more is asked for; what was
            # packed in use can't be written over.
            self._spare = {
                slot: weight
                for slot, weight in left.items()
                if weight.device.type == "cpu" and not weight.is_mkldnn
            }
        self._patch, self._uses = None, ()


@dataclass(frozen=True)
class _Slot:
    """Where a parameter hangs."""

    module: nn.Module
    name: Literal["weight", "bias"]

    @property
    def value(self) -> Tensor:
        value = self.module._parameters[self.name]
        assert value is not None
        return value

    def put(self, value: Tensor) -> Tensor:
        """What hung there until now."""
        before = self.value
        # The parameter itself comes back, not another one round the same numbers.
        parameter = (
            value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
        )
        self.module._parameters[self.name] = parameter
        return before


@dataclass(frozen=True)
class _Term:
    """One change of a parameter."""

    change: Change
    weight: float
    layer: str
    lora: str


def applied(parts: Parts, use: Use) -> Applied:
    """What would become of a use. Nothing is changed; raises as `patched`."""
    return _planned(use, parts, layers(parts))[0]


def _planned(
    use: Use, parts: Parts, table: Mapping[str, Layer]
) -> tuple[Applied, list[tuple[_Slot, _Term]]]:
    _check_base(use.lora, parts)
    factors = block_weights(use.blocks, parts["unet"]) if use.blocks else {}
    matched, unmatched, misfits = [], list(use.lora.unread), []
    terms: list[tuple[_Slot, _Term]] = []
    for (name, of), change in use.lora.changes.items():
        layer = table.get(name)
        parameter = None if layer is None else layer.parameter(of)
        shown = name if of == "weight" else f"{name} (bias)"
        if layer is None or parameter is None:
            unmatched.append(shown)
        elif not fits(change, tuple(parameter.shape)):
            here, there = _shape(parameter.shape), _shape(change.shape)
            misfits.append(f"{shown} is {here} here, {there} there")
        else:
            matched.append(shown)
            term = _Term(change, _weight(use, layer, factors), shown, use.lora.name)
            terms.append((_Slot(layer.module, of), term))
    if misfits:
        raise AdapterError(
            f"{use.lora.name}{_made_for(use.lora)} does not fit this model, which is "
            f"{_title(parts)}: {len(misfits)} of its layers have other shapes; {misfits[0]}"
        )
    if not matched:
        raise AdapterError(
            f"{use.lora.name}{_made_for(use.lora)} changes no layer of this model, which is "
            f"{_title(parts)}; it names: {', '.join(unmatched[:3])}"
        )
    return Applied(use.lora.name, use.lora.base, tuple(matched), tuple(unmatched)), terms


def _weight(use: Use, layer: Layer, factors: Mapping[str, float]) -> float:
    is_text = layer.block == BASE
    weight = use.text_weight if is_text and use.text_weight is not None else use.weight
    if not factors or layer.block is None:
        return weight
    return weight * factors.get(layer.block, 0.0)


def _room(slots: Collection[_Slot], spare: Mapping[_Slot, Tensor]) -> Mapping[_Slot, Tensor]:
    """Memory for the sums on a CPU: what is spare, or else one piece for all of a dtype. The system
    gives a large piece in large pages, which are ready sooner. Kernels stay out: they are packed
    when they are used, and would leave a hole."""
    if 2 * sum(spare[slot].numel() for slot in slots if slot in spare) < sum(
        tensor.numel() for tensor in spare.values()
    ):
        spare = {}  # the whole piece would stay for the few that need it
    lacking: dict[torch.dtype, list[_Slot]] = {}
    for slot in slots:
        is_kernel = slot.value.shape[2:].numel() > 1
        if slot not in spare and not is_kernel:
            lacking.setdefault(slot.value.dtype, []).append(slot)
    room = dict(spare)
    for dtype, those in lacking.items():
        sizes = [-(-slot.value.numel() // ALIGNED) * ALIGNED for slot in those]
        pieces = torch.empty(sum(sizes), dtype=dtype).split(sizes)
        for slot, piece in zip(those, pieces, strict=True):
            room[slot] = piece[: slot.value.numel()].view(slot.value.shape)
    return room


def _room_as_it_lies(slots: Sequence[_Slot]) -> Mapping[_Slot, Tensor]:
    """Memory for the sums on a card, which is soon ready: weights that lie side by side stay so,
    whatever was worn before. The others get their own."""
    runs: list[list[_Slot]] = []
    for slot in slots:
        if runs and side_by_side([other.value for other in (*runs[-1], slot)]) is not None:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    room: dict[_Slot, Tensor] = {}
    for run in runs:
        if len(run) > 1:
            sizes = [len(slot.value) for slot in run]
            whole = run[0].value.new_empty(sum(sizes), run[0].value.shape[1])
            room |= dict(zip(run, whole.split(sizes), strict=True))
    return room


def _changed(slot: _Slot, terms: Sequence[_Term], spare: Tensor | None = None) -> Tensor:
    """The parameter with all changes; in the memory of `spare` where that fits."""
    original = kernels.dense(slot.value.detach())
    try:
        return summed(original, [(term.change, term.weight) for term in terms], spare)
    except OverflowError:
        names = " and ".join(dict.fromkeys(term.lora for term in terms))
        raise AdapterError(
            f"{names} would change {terms[0].layer} into NaN or infinity; a smaller weight may help"
        ) from None


def _check_base(lora: Lora, parts: Parts) -> None:
    """Families share names of layers, so a file of another one might half fit."""
    unet = parts["unet"]
    context = unet.config.context if isinstance(unet, UNet) else None
    if lora.base.context not in (None, context):
        raise AdapterError(f"{lora.name} is for {lora.base.title}; this model is {_title(parts)}")


def _title(parts: Parts) -> str:
    unet = parts["unet"]
    return titled(unet.config.context) if isinstance(unet, UNet) else "of an unknown kind"


def _made_for(lora: Lora) -> str:
    return f", made for {lora.base.title}," if lora.base.title else ""


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
