r"""The prompt grammar: what a person typed, read into values. Torch-free; knows no tokens.

It is A1111's, so that prompts mean here what they mean there:

    (x)  [x]  (x:1.3)         attention ×1.1, ÷1.1, ×1.3; nested, they multiply
    \( \) \[ \] \\            the character itself
    [from:to:when]            `from` up to step `when`, then `to`; also [to:when], [from::when]
    [a|b|c]                   another one each step
    x BREAK y                 what follows starts a new chunk of tokens
    x AND y:0.5               two prompts, guided side by side with these weights

It is read twice, as there. `read` finds AND and what changes from step to step, which leaves
plain wording for each step; `Part.blocks` reads the attention in that wording. Both are linear and
without recursion, and take any text: what is not grammar is wording. ComfyUI's prompts know
nothing of the first reading, and another one of attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from core.request import Emphasis
from core.text.attention import MAX_DEPTH, Block, bounded, emphasised


@dataclass(frozen=True)
class Part:
    """One side of an AND, as it is worded at one step."""

    text: str
    weight: float = 1.0
    """Its share in guidance."""
    emphasis: Emphasis = Emphasis.ORIGINAL
    """Whose grammar of attention it is read by."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The stretches between BREAKs with their attention; always at least one."""
        return emphasised(self.text, self.emphasis)


@dataclass(frozen=True)
class Counting:
    """How a walk counts the steps that prompts name; as A1111 1.10 does it.

    It counts calls of the network, and switches at the first call with more than `when` before it.
    So `[a:b:3]` is a for calls 0 to 3, and `[a|b]` is a, a, b, a, b, ….
    """

    steps: int
    """All that are counted: what shares are shares of."""
    passed: tuple[int, ...]
    """For each interval of the walk, how many are counted before it."""
    pass_index: int = 0
    """A share's whole part says in which pass it is: 1.5 is halfway through pass 1, the second."""
    earlier: int = 0
    """Steps counted in the passes before, which whole numbers include."""

    @classmethod
    def evenly(cls, steps: int) -> Counting:
        """One step an interval, in the only pass."""
        return cls(steps, tuple(range(steps)))

    def step(self, index: int) -> int:
        """A1111's number, from 1, of the step whose wording holds in interval `index`."""
        return min(max(self.passed[index], 1), max(self.steps, 1))

    def last_step(self, when: float, is_share: bool) -> float:
        """The last step with the wording before `when`."""
        return (when - self.pass_index) * self.steps if is_share else when - self.earlier


@dataclass(frozen=True)
class Scheduled:
    """`[before:after:when]`."""

    before: Wording
    after: Wording
    when: float
    is_share: bool
    """Whether `when` is a share of all steps; else it is a step."""

    def at(self, step: int, counting: Counting) -> Wording:
        """Steps are counted from 1."""
        return self.before if step <= counting.last_step(self.when, self.is_share) else self.after


@dataclass(frozen=True)
class Alternating:
    """`[a|b|c]`."""

    options: tuple[Wording, ...]

    def at(self, step: int, counting: Counting) -> Wording:
        """Steps are counted from 1."""
        return self.options[(step - 1) % len(self.options)]


Item: TypeAlias = str | Scheduled | Alternating
Wording: TypeAlias = tuple[Item, ...]


@dataclass(frozen=True)
class Subprompt:
    """One side of an AND over all steps."""

    wording: Wording
    weight: float = 1.0
    """Its share in guidance."""


@dataclass(frozen=True)
class Prompt:
    """A whole prompt over all steps."""

    text: str
    """As typed."""
    subprompts: tuple[Subprompt, ...]
    """At least one."""
    emphasis: Emphasis = Emphasis.ORIGINAL

    def at(self, index: int, counting: Counting | int) -> tuple[Part, ...]:
        """How it is worded in interval `index` of a walk, from 0; an int counts evenly."""
        counting = Counting.evenly(counting) if isinstance(counting, int) else counting
        step = counting.step(index)
        return tuple(
            Part(_worded(subprompt.wording, step, counting), subprompt.weight, self.emphasis)
            for subprompt in self.subprompts
        )


def read(text: str, *, negative: bool = False, emphasis: Emphasis = Emphasis.ORIGINAL) -> Prompt:
    """Any text as a Prompt. In a negative prompt AND is a word like any other.

    In one of ComfyUI's everything is words but for its attention.
    """
    if emphasis is Emphasis.COMFY:
        return Prompt(text, (Subprompt((text,)),), emphasis)
    sides = [(text, 1.0)] if negative else [_weighed(side) for side in _AND.split(text)]
    subprompts = tuple(Subprompt(_wording(side), weight) for side, weight in sides)
    return Prompt(text, subprompts, emphasis)


_AND = re.compile(r"\bAND\b")
_SHARE = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_PIECES = re.compile(r"\\.|[\[\]():|\\]|[^\[\]():|\\]+", re.DOTALL)
_WHEN = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def _weighed(side: str) -> tuple[str, float]:
    """`"x :0.5 "` is ("x", 0.5). A prompt without AND may end in a weight, too."""
    text, _, number = side.rpartition(":")
    if _SHARE.fullmatch(number.strip()) and len(number) < len(side):
        return text.rstrip(), bounded(float(number))
    return side.rstrip(), 1.0


def _worded(wording: Wording, step: int, counting: Counting) -> str:
    said: list[str] = []
    to_say = list(reversed(wording))
    while to_say:
        item = to_say.pop()
        if isinstance(item, str):
            said.append(item)
        else:
            to_say.extend(reversed(item.at(step, counting)))
    return "".join(said)


@dataclass
class _Bracket:
    """A bracket that is still open: what it holds, cut at its own colons and bars."""

    opener: str
    fields: list[list[Item]] = field(default_factory=lambda: [[]])
    cuts: list[str] = field(default_factory=list)

    def add(self, items: Iterable[Item]) -> None:
        self.fields[-1].extend(items)

    def cut(self, mark: str) -> None:
        self.cuts.append(mark)
        self.fields.append([])

    def literal(self) -> Iterator[Item]:
        """What it holds as mere wording, opener included."""
        for mark, items in zip([self.opener, *self.cuts], self.fields, strict=True):
            yield mark
            yield from items

    def closed(self, closer: str) -> Wording | None:
        """What it means once closed by `closer`; None: this is no grammar at all."""
        if self.opener + closer not in ("()", "[]"):
            return None
        colons = self.cuts.count(":")
        if not self.cuts or (closer == ")" and colons <= 1):
            return (*self.literal(), closer)
        if closer == ")":
            return None
        return self._scheduled(colons) if colons else (self._alternating(),)

    def _alternating(self) -> Alternating:
        return Alternating(tuple(_joined(items) for items in self.fields))

    def _scheduled(self, colons: int) -> Wording | None:
        """A bar beside colons is a word."""
        *_, last = self.fields
        when = last[0].strip() if len(last) == 1 and isinstance(last[0], str) else ""
        if self.cuts[-1] != ":" or colons > 2 or not _WHEN.fullmatch(when):
            return None
        sides: list[list[Item]] = [[]]
        for mark, items in zip(["", *self.cuts], self.fields[:-1], strict=False):
            if mark == ":":
                sides.append([])
            sides[-1].extend([mark, *items] if mark == "|" else items)
        before, after = sides if colons == 2 else ([], sides[0])
        return (Scheduled(_joined(before), _joined(after), float(when), is_share="." in when),)


def _wording(text: str) -> Wording:
    """`text` with the square brackets that change over time found.

    A pair of brackets means something only if all inside it is well-formed. So at the first
    closing bracket that is not, every bracket still open turns out to be mere wording.
    """
    whole = _Bracket("")
    open_ones = [whole]

    def give_up() -> None:
        while len(open_ones) > 1:
            bracket = open_ones.pop()
            open_ones[-1].add(bracket.literal())

    for piece in _PIECES.findall(text):
        inmost = open_ones[-1]
        if piece in ("(", "["):
            if len(open_ones) > MAX_DEPTH:
                give_up()
            open_ones.append(_Bracket(piece))
        elif piece in (")", "]"):
            meaning = inmost.closed(piece)
            if meaning is None:
                give_up()
                whole.add([piece])
            else:
                open_ones.pop()
                open_ones[-1].add(meaning)
        elif piece in (":", "|") and inmost is not whole:
            inmost.cut(piece)
        else:
            inmost.add([piece])
    give_up()
    return _joined(whole.fields[0])


def _joined(items: Iterable[Item]) -> Wording:
    """`items` with neighbouring strings made one."""
    joined: list[Item] = []
    strings: list[str] = []
    for item in (*items, None):
        if isinstance(item, str):
            strings.append(item)
            continue
        if said := "".join(strings):
            joined.append(said)
        strings.clear()
        if item is not None:
            joined.append(item)
    return tuple(joined)


@dataclass(frozen=True)
class NetworkTag:
    """`<lora:name:0.8>`: another network that the prompt asks for by name."""

    kind: str
    arguments: str
    """Everything behind the first colon."""


def lifted(text: str, instead: str = "") -> tuple[str, tuple[NetworkTag, ...]]:
    """The text with its `<kind:…>` tags replaced, by nothing as a rule; and the tags in order."""
    tags = tuple(NetworkTag(m[1], m[2]) for m in _TAG.finditer(text))
    return _TAG.sub(instead, text), tags


_TAG = re.compile(r"<(\w{1,32}):([^<>]{1,300})>")
