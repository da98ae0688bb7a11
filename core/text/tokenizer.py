"""Words to CLIP's token ids, in chunks of 75. Torch-free, so that the page can count as one types.

The vocabulary is CLIP's only one and ships beside this file. It does not know what ids mean to a
network, nor which id an encoder pads with.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from core.request import Emphasis
from core.text.attention import Block, Segment
from core.text.embeddings import MAX_VECTORS, PLACEHOLDER, Embedding, Names, Vector
from core.text.prompt import Counting, Part, read

START = 49406
END = 49407
COMMA = 267
CHUNK = 75
"""Tokens an encoder reads at a time, beside the start and the end."""

BACKTRACK = 20
"""How far back from a full chunk's end a comma may lie, to end the chunk there instead."""

LONG_WORD = 8
"""A word of so many tokens may be cut between two chunks, where words are kept together."""

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
    """The characters it was read from; one character may take several tokens. An embedding's first
    vector has its name as typed, the others nothing."""
    weight: float = 1.0
    vector: Vector | None = None
    """Of an embedding; None: a token of the vocabulary."""


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

    @property
    def embeddings(self) -> tuple[tuple[int, str], ...]:
        """(place of the first vector among `ids`, name) of each embedding."""
        return tuple(
            (place, token.vector.name)
            for place, token in enumerate(self.tokens, start=1)
            if token.vector is not None and token.vector.index == 0
        )


@dataclass(frozen=True)
class Count:
    """How much of its chunks a prompt fills."""

    tokens: int
    """A chunk that another one follows counts in full."""
    room: int
    """75 for each chunk."""


@functools.cache
def _encoder() -> tokenizers.Tokenizer:
    """Read once, which takes 0.1 s; nothing changes it."""
    model = models.BPE.from_file(
        str(_VOCABULARY / "vocab.json"),
        str(_VOCABULARY / "merges.txt"),
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
    )
    encoder = tokenizers.Tokenizer(model)
    encoder.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    encoder.add_special_tokens(
        [AddedToken(name, normalized=False) for name in ("<|startoftext|>", "<|endoftext|>")]
    )
    return encoder


class Tokenizer:
    """CLIP's byte-pair encoding; arXiv:2103.00020, section 2.4. May be used from any thread."""

    def __init__(self) -> None:
        self._encoder = _encoder()
        self._names = Names()

    def knowing(self, embeddings: Iterable[Embedding]) -> Tokenizer:
        """The same with the names of `embeddings` read as their vectors, longest first.

        ComfyUI's `embedding:name` is a name like the bare one.
        """
        known = [one for one in embeddings if 1 <= one.count <= MAX_VECTORS]
        named = [(beginning + one.name, one) for beginning in ("", "embedding:") for one in known]
        texts = [_without_lone_surrogates(name) for name, _ in named]
        spelled = self._encoder.encode_batch(texts, add_special_tokens=False)
        told = copy.copy(self)
        told._names = Names.of(
            (tuple(read_as.ids), one) for read_as, (_, one) in zip(spelled, named, strict=True)
        )
        return told

    def tokens(self, segment: Segment) -> list[Token]:
        """The tokens of one stretch of text, none of them start or end."""
        return [token for unit in self._units(segment) for token in unit]

    def is_ordinary(self, name: str) -> bool:
        """Whether a name is made of words that CLIP knows whole, so that an embedding of that name
        takes them out of every prompt."""
        words = name.split()
        return bool(words) and all(
            word.isalpha() and len(self._encoder.encode(word, add_special_tokens=False).ids) == 1
            for word in words
        )

    def embeddings_in(
        self,
        text: str,
        steps: int = 20,
        *,
        negative: bool = False,
        emphasis: Emphasis = Emphasis.ORIGINAL,
    ) -> tuple[str, ...]:
        """Names of the embeddings that `text` uses at any step, in the order of their coming."""
        chunks = (c for p in _parts(text, steps, negative, emphasis) for c in self.chunks(p))
        return tuple(dict.fromkeys(name for chunk in chunks for _, name in chunk.embeddings))

    def _units(self, segment: Segment) -> Iterator[list[Token]]:
        """The tokens of a stretch; those of an embedding, which must stay together, in one list."""
        text = _without_lone_surrogates(segment.text)
        read_as = self._encoder.encode(text, add_special_tokens=False)
        ids, offsets, at = read_as.ids, read_as.offsets, 0
        while at < len(ids):
            found = self._names.at(ids, at)
            start, end = offsets[at][0], offsets[at + (found[0] if found else 1) - 1][1]
            if found is None:
                yield [Token(ids[at], text[start:end], segment.weight)]
                at += 1
                continue
            length, embedding = found
            yield [
                Token(
                    PLACEHOLDER,
                    "" if index else text[start:end],
                    segment.weight,
                    Vector(embedding.name, index, embedding.count),
                )
                for index in range(embedding.count)
            ]
            at += length

    def chunks(self, part: Part) -> tuple[Chunk, ...]:
        """At least one chunk. A BREAK ends a chunk, even an empty one; after the last BREAK
        nothing more need follow."""
        filled = self._filled_by_words if part.emphasis is Emphasis.COMFY else self._filled
        *others, last = (filled(block) for block in part.blocks)
        chunks = [chunk for block in others for chunk in block or [Chunk()]]
        return (*chunks, *last) or (Chunk(),)

    def count(
        self,
        text: str,
        steps: int = 20,
        *,
        negative: bool = False,
        emphasis: Emphasis = Emphasis.ORIGINAL,
    ) -> Count:
        """The most that `text` takes at any step, on any side of an AND."""
        return max(
            (_count(self.chunks(part)) for part in _parts(text, steps, negative, emphasis)),
            key=lambda count: (count.room, count.tokens),
        )

    def _filled(self, block: Block) -> list[Chunk]:
        """No chunk for a block without tokens."""
        units = (unit for segment in block for unit in self._units(segment))
        return [Chunk(tuple(filling)) for filling in _fillings(units)]

    def _filled_by_words(self, block: Block) -> list[Chunk]:
        """ComfyUI's rule: between white space nothing is cut but words of many tokens."""
        words = (
            list(tokens)
            for segment in block
            for word in segment.text.split()
            for _, tokens in groupby(self.tokens(replace(segment, text=word)), key=_embedding_of)
        )
        return [Chunk(tuple(filling)) for filling in _whole_words(words)]


def _parts(text: str, steps: int, negative: bool, emphasis: Emphasis) -> Iterable[Part]:
    """Every wording of every side of an AND, in the order of their coming."""
    prompt, counting = read(text, negative=negative, emphasis=emphasis), Counting.evenly(steps)
    return dict.fromkeys(part for index in range(steps) for part in prompt.at(index, counting))


def _embedding_of(token: Token) -> str | None:
    return None if token.vector is None else token.vector.name


def _fillings(units: Iterable[list[Token]]) -> list[list[Token]]:
    """The tokens of `units` in lots of 75 or fewer: phrases between commas are kept together, and
    so is an embedding, which begins a new lot where it would not fit."""
    fillings: list[list[Token]] = []
    filling: list[Token] = []
    for unit in units:
        if len(filling) == CHUNK:
            end = CHUNK if unit[0].id == COMMA else _phrase_end(filling)
            fillings.append(filling[:end])
            filling = filling[end:]
        if len(filling) + len(unit) > CHUNK:
            fillings.append(filling)
            filling = []
        filling.extend(unit)
    return [*fillings, filling] if filling else fillings


def _whole_words(words: Iterable[list[Token]]) -> list[list[Token]]:
    """`words` in lots of up to 75 tokens; a word that does not fit begins the next lot, unless it
    is so long that it is cut."""
    fillings: list[list[Token]] = [[]]
    for word in words:
        while len(fillings[-1]) + len(word) > CHUNK:
            is_cut = len(word) >= LONG_WORD and word[0].vector is None
            room = CHUNK - len(fillings[-1]) if is_cut else 0
            fillings[-1].extend(word[:room])
            word = word[room:]
            fillings.append([])
        fillings[-1].extend(word)
    return fillings if fillings[-1] else fillings[:-1]


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
