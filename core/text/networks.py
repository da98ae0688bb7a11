"""`<lora:…>` and `<hypernet:…>` in a prompt: which networks it asks for, how strongly and when.

Torch-free. It knows names, not files:

    <lora:name:0.8>                     weight for U-Net and text encoders
    <lora:name:0.5:0.9>                 text encoders 0.5, U-Net 0.9; also te=0.5, unet=0.9
    <lora:name:1:start=0.2:end=0.7>     only between these shares of the steps
    <lora:name:1:blocks=1,0,0.5,…>      weights of blocks; also lbw=
    [<lora:name:1>::0.5]                the same as end=0.5, [<lora:name:1>:0.5] as start=0.5
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from core.errors import RequestError
from core.request import GenerationRequest, HypernetUse, LoraUse
from core.text.prompt import Alternating, NetworkTag, Scheduled, Wording, lifted, read

LORA = "lora"
HYPERNET = "hypernet"
_KINDS = {"lora": LORA, "lyco": LORA, "hypernet": HYPERNET}
MAX_WEIGHT = 100.0
_NAMED = ("te", "unet", "start", "end", "blocks", "lbw", "dyn")


@dataclass(frozen=True)
class NetworkUse:
    """One network as a prompt asks for it."""

    kind: str
    """LORA or HYPERNET."""
    name: str
    weight: float = 1.0
    """In the U-Net."""
    text_weight: float | None = None
    """In the text encoders; None: as `weight`."""
    start: float = 0.0
    """Share of the steps after which it begins to act."""
    end: float = 1.0
    """Share of the steps after which it ends."""
    blocks: tuple[float, ...] = ()

    def acts(self, passed: int, steps: int) -> bool:
        """Whether it acts in a step that has `passed` of `steps` steps before it."""
        # Shares that were made from whole steps are not quite round.
        return round(self.start * steps, 3) <= passed < round(self.end * steps, 3)


@dataclass(frozen=True)
class Networks:
    """A prompt without its tags, and what they ask for."""

    text: str
    uses: tuple[NetworkUse, ...]
    """In the order of the tags."""
    unknown: tuple[NetworkTag, ...] = ()
    """Tags of kinds that are not known here."""


def networks(text: str, steps: int, field: str = "prompt") -> Networks:
    """Reads a prompt's tags.

    Args:
        steps: of the run; prompt editing that names a step becomes a share of these.
        field: which field of a request errors name.

    Raises:
        RequestError: a tag can't be read, or alternates with something at every step.
    """
    plain, tags = lifted(text)
    if not any(tag.kind in _KINDS for tag in tags):
        return Networks(plain, (), tags)
    times = _times(text, steps, field)
    uses, unknown = [], []
    for tag, (start, end) in zip(tags, times, strict=True):
        if tag.kind not in _KINDS:
            unknown.append(tag)
            continue
        use = _use(tag, field)
        use = replace(use, start=max(use.start, start), end=min(use.end, end))
        if use.kind == HYPERNET and (use.start, use.end) != (0.0, 1.0):
            raise RequestError(
                f"{_shown(tag)}: a hypernetwork acts over the whole run; only a LoRA can begin or "
                "end on the way",
                field,
            )
        if use.start < use.end:
            uses.append(use)
    return Networks(plain, tuple(uses), tuple(unknown))


def _use(tag: NetworkTag, field: str) -> NetworkUse:
    """A tag by itself."""
    name, *arguments = (part.strip() for part in tag.arguments.split(":"))
    positional = [part for part in arguments if "=" not in part]
    told: dict[str, str] = dict(zip(("te", "unet", "dyn"), positional, strict=False))
    for part in arguments:
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if sign and key not in _NAMED:
            there = ", ".join(_NAMED[:-1])
            raise RequestError(f"{_shown(tag)}: {key!r} is not known; there are: {there}", field)
        if sign:
            told[key] = value
    if len(positional) > 3:
        raise RequestError(f"{_shown(tag)} has {len(positional)} numbers; two can be told", field)
    if "dyn" in told:
        raise RequestError(
            f"{_shown(tag)}: dyn, which cuts a LoRA down to a smaller rank, is not done here", field
        )
    if not name:
        raise RequestError(f"{_shown(tag)} has no name", field)

    def number(key: str, default: float, low: float, high: float) -> float:
        return _number(tag, told[key], low, high, field) if key in told else default

    text_weight = number("te", 1.0, -MAX_WEIGHT, MAX_WEIGHT)
    weight = number("unet", text_weight, -MAX_WEIGHT, MAX_WEIGHT)
    blocks = told.get("blocks", told.get("lbw", ""))
    return NetworkUse(
        _KINDS[tag.kind],
        name,
        weight,
        None if text_weight == weight else text_weight,
        number("start", 0.0, 0.0, 1.0),
        number("end", 1.0, 0.0, 1.0),
        tuple(
            _number(tag, one, -MAX_WEIGHT, MAX_WEIGHT, field) for one in blocks.split(",") if blocks
        ),
    )


def _number(tag: NetworkTag, text: str, low: float, high: float, field: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise RequestError(
            f"{_shown(tag)}: {text!r} must be a number from {low:g} to {high:g}", field
        )
    return number


def _shown(tag: NetworkTag) -> str:
    return f"<{tag.kind}:{tag.arguments}>"


def _times(text: str, steps: int, field: str) -> list[tuple[float, float]]:
    """From which share of the steps to which each tag stands in the wording, in their order."""
    mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
    marked, _ = lifted(text, mark)
    return [
        span
        for subprompt in read(marked).subprompts
        for span in _spans(subprompt.wording, mark, steps, (0.0, 1.0), field)
    ]


def _spans(
    wording: Wording, mark: str, steps: int, span: tuple[float, float], field: str
) -> Iterator[tuple[float, float]]:
    """The span of each `mark` in a wording that itself stands in `span`. Nesting is bounded."""
    start, end = span
    for item in wording:
        if isinstance(item, str):
            yield from [span] * item.count(mark)
        elif isinstance(item, Scheduled):
            when = item.when if item.is_share else item.when / steps
            when = max(0.0, min(when, 1.0))
            yield from _spans(item.before, mark, steps, (start, min(end, when)), field)
            yield from _spans(item.after, mark, steps, (max(start, when), end), field)
        else:
            _check_alternation(item, mark, field)


def _check_alternation(item: Alternating, mark: str, field: str) -> None:
    for option in item.options:
        for _ in _spans(option, mark, 1, (0.0, 1.0), field):
            raise RequestError(
                "a LoRA can't alternate with something else at every step, since changing weights "
                "takes longer than a step; let it begin or end once, as in [<lora:name:1>::0.5]",
                field,
            )


# --- of a whole request --------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The adapters of a request, those of its prompt and those beside it."""

    loras: tuple[LoraUse, ...] = ()
    hypernets: tuple[HypernetUse, ...] = ()
    unknown: tuple[str, ...] = ()
    """Tags of other kinds, as typed."""


def wanted(request: GenerationRequest) -> Wanted:
    """Raises RequestError for a tag that can't be read."""
    read = [
        networks(request.prompt, request.steps, "prompt"),
        networks(request.negative_prompt, request.steps, "negative_prompt"),
    ]
    uses = [use for one in read for use in one.uses]
    return Wanted(
        loras=(*(_lora_use(use) for use in uses if use.kind == LORA), *request.loras),
        hypernets=(
            *(HypernetUse(name=u.name, weight=u.weight) for u in uses if u.kind == HYPERNET),
            *request.hypernets,
        ),
        unknown=tuple(f"<{tag.kind}:{tag.arguments}>" for one in read for tag in one.unknown),
    )


def _lora_use(use: NetworkUse) -> LoraUse:
    return LoraUse(
        name=use.name,
        weight=use.weight,
        text_weight=use.text_weight,
        start=use.start,
        end=use.end,
        blocks=use.blocks,
    )
