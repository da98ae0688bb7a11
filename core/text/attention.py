r"""Attention in a prompt's wording: brackets that weigh words, and BREAK. Torch-free.

The second of two readings; what changes from step to step is gone by now (`core.text.prompt`).
Linear, without recursion, and any text is accepted: what is not grammar is words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

from core.request import Emphasis

MAX_DEPTH = 32
"""Brackets nested deeper than this have no meaning: a bound on work, not on prompts."""

MAX_WEIGHT = 1e4
"""Weights are kept within ± this, so that no product of MAX_DEPTH of them overflows."""

ATTENTION = 1.1
"""What a pair of brackets without a number multiplies or divides by."""


@dataclass(frozen=True)
class Segment:
    """A stretch of text of one weight."""

    text: str
    weight: float = 1.0


Block: TypeAlias = tuple[Segment, ...]
"""What stands between two BREAKs; may be empty."""


def emphasised(text: str, emphasis: Emphasis = Emphasis.ORIGINAL) -> tuple[Block, ...]:
    """Stretches of equal weight, cut at BREAKs; there is always at least one block.

    Without emphasis brackets and BREAK are words. ComfyUI knows round brackets alone.
    """
    if emphasis is Emphasis.NONE:
        return ((Segment(text),) if text else (),)
    if emphasis is Emphasis.COMFY:
        return (_comfy(text),)
    weighing = _Weighing()
    for match in _MARKS.finditer(text):
        mark, weight = match.group(), _number(match["weight"])
        if mark.startswith("\\"):
            weighing.add(mark[1:])
        elif mark == "(":
            weighing.round_starts.append(len(weighing.texts))
        elif mark == "[":
            weighing.square_starts.append(len(weighing.texts))
        elif mark.endswith(")") and weighing.round_starts:
            if match["weight"] and weight is None:
                weighing.add(mark[:-1])
            weighing.close(weighing.round_starts, ATTENTION if weight is None else weight)
        elif mark == "]" and weighing.square_starts:
            weighing.close(weighing.square_starts, 1 / ATTENTION)
        else:
            _add_words(weighing, mark)
    weighing.close_all()
    return weighing.blocks()


def bounded(weight: float) -> float:
    """`weight` within ± MAX_WEIGHT."""
    return max(-MAX_WEIGHT, min(weight, MAX_WEIGHT))


_MARKS = re.compile(
    r"\\[()\[\]\\]"  # an escaped character
    r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
    r"|[\\()\[\]:]"
    r"|[^\\()\[\]:]+"
)
_BREAK = re.compile(r"\bBREAK\b")


@dataclass
class _Weighing:
    """Stretches so far, and the brackets open round the next one.

    Round and square brackets are kept apart, so "([a)b]" is two overlapping stretches. Factors
    are multiplied in the order in which brackets close: so weights equal A1111's to the last bit,
    and neighbours of equal weight merge where they do there.
    """

    texts: list[str | None] = field(default_factory=list)
    """None is a BREAK."""
    weights: list[float] = field(default_factory=list)
    round_starts: list[int] = field(default_factory=list)
    square_starts: list[int] = field(default_factory=list)

    def add(self, text: str | None) -> None:
        self.texts.append(text)
        self.weights.append(1.0)

    def close(self, starts: list[int], factor: float) -> None:
        """The innermost of `starts` ends here."""
        start = starts.pop()
        if len(starts) < MAX_DEPTH:
            self.multiply(start, factor)

    def close_all(self) -> None:
        """Brackets left open reach to the end."""
        for starts, factor in ((self.round_starts, ATTENTION), (self.square_starts, 1 / ATTENTION)):
            for start in starts[:MAX_DEPTH]:
                self.multiply(start, factor)

    def multiply(self, start: int, factor: float) -> None:
        self.weights[start:] = [weight * factor for weight in self.weights[start:]]

    def blocks(self) -> tuple[Block, ...]:
        blocks: list[list[Segment]] = [[]]
        for text, weight in zip(self.texts, self.weights, strict=True):
            if text is None:
                blocks.append([])
            elif text:
                blocks[-1].append(Segment(text, bounded(weight)))
        return tuple(tuple(_merged(block)) for block in blocks)


def _merged(block: list[Segment]) -> Iterator[Segment]:
    """`block` with neighbours of equal weight made one."""
    for weight, same in groupby(block, key=lambda segment: segment.weight):
        yield Segment("".join(segment.text for segment in same), weight)


def _number(text: str | None) -> float | None:
    """None also for what only looks like a number: "1.2.3"."""
    try:
        return None if text is None else bounded(float(text))
    except ValueError:
        return None


_ESCAPED = {r"\(": "\0\2", r"\)": "\0\1"}
"""ComfyUI puts these in place of escaped brackets while it reads."""


def _comfy(text: str) -> Block:
    """ComfyUI's reading: a weight that is written replaces the one around it, none multiplies.

    A bracket that is never closed reaches to the end of the text round it; after a stray closing
    one brackets are words up to the next that balances it.
    """
    for written, kept in _ESCAPED.items():
        text = text.replace(written, kept)
    block: list[Segment] = []
    to_read: list[tuple[str, float, int]] = [(text, 1.0, 0)]
    while to_read:
        text, weight, depth = to_read.pop()
        if depth > MAX_DEPTH:
            block.append(Segment(_unescaped(text), weight))
            continue
        pieces = [
            (*_comfy_weight(piece[1:-1], weight), depth + 1)
            if len(piece) >= 2 and piece[0] == "(" and piece[-1] == ")"
            else (piece, weight, MAX_DEPTH + 1)
            for piece in _outermost(text)
        ]
        to_read.extend(reversed(pieces))
    return tuple(block)


def _outermost(text: str) -> list[str]:
    """`text` cut round each pair of brackets that stands in no other one."""
    pieces, start, depth = [], 0, 0
    for match in _ROUND.finditer(text):
        here = match.start()
        if match.group() == "(":
            if depth == 0:
                pieces.append(text[start:here])
                start = here
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                pieces.append(text[start : here + 1])
                start = here + 1
    return [piece for piece in (*pieces, text[start:]) if piece]


def _comfy_weight(text: str, around: float) -> tuple[str, float]:
    """What stands in brackets, without the number behind its last colon; and its weight."""
    words, colon, number = text.rpartition(":")
    try:
        written = float(number) if colon and words else math.nan
    except ValueError:
        written = math.nan
    return (text, bounded(around * ATTENTION)) if math.isnan(written) else (words, bounded(written))


def _unescaped(text: str) -> str:
    for written, kept in _ESCAPED.items():
        text = text.replace(kept, written[1:])
    return text


_ROUND = re.compile("[()]")


def _add_words(weighing: _Weighing, words: str) -> None:
    """BREAK eats the white space round it."""
    *others, last = _BREAK.split(words)
    for i, stretch in enumerate(others):
        weighing.add(stretch.strip() if i else stretch.rstrip())
        weighing.add(None)
    weighing.add(last.lstrip() if others else last)
