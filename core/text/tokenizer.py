"""Words to CLIP's token ids, in chunks of 75. Torch-free, so that the page can count as one types.

The vocabulary is CLIP's only one and ships beside this file. It does not know what ids mean to a
network, nor which id an encoder pads with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from core.text.attention import Block, Segment
from core.text.prompt import Part, read

START = 49406
END = 49407
COMMA = 267
CHUNK = 75
"""Tokens an encoder reads at a time, beside the start and the end."""

BACKTRACK = 20
"""How far back from a full chunk's end a comma may lie, to end the chunk there instead."""

_VOCABULARY = Path(__file__).parent / "vocab"
_WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""CLIP's words, before they are cut into pieces: letters, single digits, runs of other signs."""


@dataclass(frozen=True)
class Token:
    """One token of a prompt."""

    id: int
    text: str
    """The characters it was read from; one character may take several tokens."""
    weight: float = 1.0


@dataclass(frozen=True)
class Chunk:
    """Up to 75 tokens, which an encoder reads together."""

    tokens: tuple[Token, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """77 ids: start, tokens, end, and the end again up to the last."""
        padding = (END,) * (CHUNK + 1 - len(self.tokens))
        return (START, *(token.id for token in self.tokens), *padding)

    @property
    def weights(self) -> tuple[float, ...]:
        """One for each of `ids`."""
        padding = (1.0,) * (CHUNK + 1 - len(self.tokens))
        return (1.0, *(token.weight for token in self.tokens), *padding)


@dataclass(frozen=True)
class Count:
    """How much of its chunks a prompt fills."""

    tokens: int
    """A chunk that another one follows counts in full."""
    room: int
    """75 for each chunk."""


class Tokenizer:
    """CLIP's byte-pair encoding; arXiv:2103.00020, section 2.4. May be used from any thread."""

    def __init__(self) -> None:
        model = models.BPE.from_file(
            str(_VOCABULARY / "vocab.json"),
            str(_VOCABULARY / "merges.txt"),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
        self._encoder = tokenizers.Tokenizer(model)
        self._encoder.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(Regex(r"\s+"), " "),
                normalizers.Lowercase(),
            ]
        )
        self._encoder.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._encoder.add_special_tokens(
            [AddedToken(name, normalized=False) for name in ("<|startoftext|>", "<|endoftext|>")]
        )

    def tokens(self, segment: Segment) -> list[Token]:
        """The tokens of one stretch of text, none of them start or end."""
        text = _without_lone_surrogates(segment.text)
        read_as = self._encoder.encode(text, add_special_tokens=False)
        return [
            Token(id, text[start:end], segment.weight)
            for id, (start, end) in zip(read_as.ids, read_as.offsets, strict=True)
        ]

    def chunks(self, part: Part) -> tuple[Chunk, ...]:
        """At least one chunk. A BREAK ends a chunk, even an empty one; after the last BREAK
        nothing more need follow."""
        *others, last = (self._filled(block) for block in part.blocks)
        chunks = [chunk for block in others for chunk in block or [Chunk()]]
        return (*chunks, *last) or (Chunk(),)

    def count(self, text: str, steps: int = 20, *, negative: bool = False) -> Count:
        """The most that `text` takes at any step, on any side of an AND."""
        prompt = read(text, negative=negative)
        parts = {part for index in range(steps) for part in prompt.at(index, steps)}
        return max(
            (_count(self.chunks(part)) for part in parts),
            key=lambda count: (count.room, count.tokens),
        )

    def _filled(self, block: Block) -> list[Chunk]:
        """No chunk for a block without tokens."""
        tokens = (token for segment in block for token in self.tokens(segment))
        return [Chunk(tuple(filling)) for filling in _fillings(tokens)]


def _fillings(tokens: Iterable[Token]) -> list[list[Token]]:
    """`tokens` in lots of 75 or a few less: phrases between commas are kept together."""
    fillings: list[list[Token]] = []
    filling: list[Token] = []
    for token in tokens:
        if len(filling) == CHUNK:
            end = CHUNK if token.id == COMMA else _phrase_end(filling)
            fillings.append(filling[:end])
            filling = filling[end:]
        filling.append(token)
    return [*fillings, filling] if filling else fillings


def _phrase_end(filling: list[Token]) -> int:
    """Just after the last comma, if it is near enough to the end."""
    for end in range(CHUNK, CHUNK - BACKTRACK, -1):
        if filling[end - 1].id == COMMA:
            return end
    return CHUNK


def _count(chunks: tuple[Chunk, ...]) -> Count:
    full = CHUNK * (len(chunks) - 1)
    return Count(full + len(chunks[-1].tokens), CHUNK * len(chunks))


def _without_lone_surrogates(text: str) -> str:
    """JSON may bring half a character, which UTF-8 has no bytes for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
