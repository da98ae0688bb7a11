"""The grammar of dynamic prompts, read once from left to right. It knows no files and no requests.

`{a|b|c}`        one of them; `{3::a|b}` a three times as often
`{2$$a|b|c}`     two different ones, joined by ", "
`{1-2$$ and $$a|b}`  one or two, joined by " and "
`__name__`       one line of the list of that name, which may hold all of this again
`\\{` `\\}`      braces as they are
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEPTH = 8
"""Lists that may name lists that name lists."""
LENGTH = 20_000
"""Letters that a prompt may become."""
NAMES = 2_000
"""Lists that one prompt may ask for."""

_NAME = re.compile(r"__(?!_)([\w/-]{1,80}?)__")
_COUNT = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?\$\$(?:([^|$]{0,40})\$\$)?")
_WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)::")


class GrammarError(Exception):
    """A prompt that can't be drawn; a sentence."""


def drawn(text: str, seed: str, lists: Mapping[str, Sequence[str]]) -> str:
    """One of the prompts that `text` stands for; drawing from the result changes nothing.

    Raises:
        GrammarError: a list there is not, lists that name each other, or too long a prompt.
    """
    chance = random.Random(seed)
    for _ in range(DEPTH):
        if not _NAME.search(text):
            return _chosen(text, chance)
        text = _filled(text, chance, lists)
    raise GrammarError(f"lists name lists more than {DEPTH} deep; do two name each other?")


def _filled(text: str, chance: random.Random, lists: Mapping[str, Sequence[str]]) -> str:
    """Every `__name__` once."""
    parts: list[str] = []
    end = length = 0
    for count, found in enumerate(_NAME.finditer(text)):
        name = found[1]
        if name not in lists:
            there = ", ".join(sorted(lists)) or "none"
            raise GrammarError(f"no list named {name!r}; there are: {there}")
        line = chance.choice(lists[name])
        parts += [text[end : found.start()], line]
        end = found.end()
        length += len(line)
        if count >= NAMES or length > LENGTH:
            raise GrammarError(f"the prompt becomes longer than {LENGTH:,} letters")
    return "".join([*parts, text[end:]])


@dataclass
class _Brace:
    """An open brace, its options so far, and how deep in square brackets we are."""

    options: list[list[str]] = field(default_factory=lambda: [[]])
    square: int = 0


def _chosen(text: str, chance: random.Random) -> str:
    """Every `{…|…}` decided, the innermost first. No recursion: braces are kept on a stack."""
    stack = [_Brace()]
    for piece in re.findall(r"\\.|[^\\{}|\[\]]+|.", text, re.DOTALL):
        top = stack[-1]
        if piece == "{":
            stack.append(_Brace())
            continue
        if piece == "|" and len(stack) > 1 and not top.square:
            top.options.append([])
            continue
        if piece == "}" and len(stack) > 1:
            stack.pop()
            stack[-1].options[-1].append(_decided(["".join(o) for o in top.options], chance))
            continue
        # `[a|b]` is the prompt's own alternation.
        top.square = max(0, top.square + {"[": 1, "]": -1}.get(piece, 0))
        top.options[-1].append(piece)
    whole = "".join(stack[0].options[0])
    for brace in stack[1:]:
        whole += "{" + "|".join("".join(option) for option in brace.options)
    if len(whole) > LENGTH:
        raise GrammarError(f"the prompt becomes longer than {LENGTH:,} letters")
    return whole


def _decided(options: list[str], chance: random.Random) -> str:
    """What a closed brace becomes; one without a choice stays as it is."""
    least = most = 1
    joiner = ", "
    counted = _COUNT.match(options[0])
    if counted is None and len(options) == 1:
        return "{" + options[0] + "}"
    if counted is not None:
        least = int(counted[1])
        most = int(counted[2] or least)
        joiner = counted[3] if counted[3] is not None else joiner
        options[0] = options[0][counted.end() :]
    weights = [_weighed(option) for option in options]
    left = [(text, weight) for text, weight in weights if weight > 0]
    count = min(len(left), chance.randint(min(least, most), max(least, most)))
    taken: list[str] = []
    for _ in range(count):
        (choice,) = chance.choices(range(len(left)), [weight for _, weight in left])
        taken.append(left.pop(choice)[0])
    return joiner.join(text.strip() for text in taken)


def _weighed(option: str) -> tuple[str, float]:
    found = _WEIGHT.match(option)
    return (option, 1.0) if found is None else (option[found.end() :], float(found[1]))
