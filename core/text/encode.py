"""Prompts and a text encoder to conditioning over a walk.

It knows what the encoders' answers mean, not how they come about.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from core.request import Emphasis
from core.sampling.conditioning import Conditioning, PromptOverTime
from core.text.encoders import Encoded, Encoder, Splice
from core.text.prompt import Counting, Part, Prompt, read
from core.text.tokenizer import Chunk, Tokenizer


class Encodings:
    """What an encoder answered lately, as long as its weights stay what they are.

    Args:
        room: chunks that are remembered; one takes a quarter to half a megabyte.
    """

    def __init__(self, room: int = 128) -> None:
        self._room = room
        self._known: OrderedDict[tuple[object, ...], Encoded] = OrderedDict()

    def of(self, key: tuple[object, ...], read: Callable[[], Encoded]) -> Encoded:
        """What is known under `key`, or what `read` says now."""
        if key not in self._known:
            self._known[key] = read()
        self._known.move_to_end(key)
        while len(self._known) > self._room:
            self._known.popitem(last=False)
        return self._known[key]

    def forget(self) -> None:
        """To be called when the encoder's weights change."""
        self._known.clear()


def encode(
    prompt: str,
    negative: str,
    encoder: Encoder,
    steps: int,
    *,
    tokenizer: Tokenizer | None = None,
    emphasis: Emphasis = Emphasis.ORIGINAL,
    clip_skip: int = 1,
    counting: Counting | None = None,
    vectors: Mapping[str, tuple[Tensor, ...]] | None = None,
    encodings: Encodings | None = None,
) -> tuple[PromptOverTime, PromptOverTime]:
    """Both prompts over `steps` intervals, float32 on the encoder's device, as (1 n d).

    Everything has the same number of chunks n / 77, so that it fits into one batch: what is
    shorter is filled up with empty chunks. Each chunk is encoded alone and only once, so an
    encoding never depends on what else is asked for. A negative prompt is never split at AND.
    Without a `tokenizer` one is read from the vocabulary, which takes a tenth of a second.
    Without a `counting` of these intervals one step is counted for each. For a tokenizer that
    knows embeddings, `vectors` has those of each name: (n d) for each encoder. `encodings` of
    earlier calls with this encoder are not made again.
    """
    tokenizer = tokenizer or Tokenizer()
    counting = counting or Counting.evenly(steps)
    wordings = [
        _over(read(text, negative=is_negative, emphasis=emphasis), steps, counting)
        for text, is_negative in ((prompt, False), (negative, True))
    ]
    different = {part.text: part for wording in wordings for parts in wording for part in parts}
    chunks = {text: tokenizer.chunks(part) for text, part in different.items()}
    length = max(map(len, chunks.values()))
    reading = _Reading(encoder, clip_skip, emphasis, vectors or {}, encodings or Encodings())
    conditionings = {text: reading.whole(of_text, length) for text, of_text in chunks.items()}
    positive, other = (
        PromptOverTime(
            tuple(
                tuple((conditionings[part.text], part.weight) for part in parts) for parts in over
            )
        )
        for over in wordings
    )
    return positive, other


def _over(prompt: Prompt, steps: int, counting: Counting) -> list[tuple[Part, ...]]:
    return [prompt.at(index, counting) for index in range(steps)]


@dataclass
class _Reading:
    """One call's use of an encoder."""

    encoder: Encoder
    clip_skip: int
    emphasis: Emphasis
    vectors: Mapping[str, tuple[Tensor, ...]]
    encodings: Encodings
    own: Encodings = field(default_factory=Encodings)
    """Of chunks with embeddings: another call may mean other files by their names."""

    def whole(self, chunks: tuple[Chunk, ...], length: int) -> Conditioning:
        """`chunks` one after the other, filled up to `length`. The first one's pooled output
        stands for all, without weights."""
        filled = (*chunks, *[Chunk()] * (length - len(chunks)))
        context = torch.cat([self._weighed(chunk) for chunk in filled], dim=1)
        pooled = self._encoded(filled[0]).pooled
        return Conditioning(context, None if pooled is None else pooled.float())

    def _weighed(self, chunk: Chunk) -> Tensor:
        context = self._encoded(chunk).context.float()
        if self.emphasis is Emphasis.COMFY and any(weight != 1 for weight in chunk.weights):
            empty = self._encoded(Chunk()).context.float()
            return moved(context, empty, chunk.weights)
        return weighed(context, chunk.weights, self.emphasis)

    def _encoded(self, chunk: Chunk) -> Encoded:
        def read() -> Encoded:
            ids = torch.tensor([chunk.ids], device=self.encoder.device)
            splices = [Splice(start, self.vectors[name]) for start, name in chunk.embeddings]
            told = (ids, self.clip_skip, splices) if splices else (ids, self.clip_skip)
            return self.encoder(*told)

        known = self.own if chunk.embeddings else self.encodings
        return known.of((chunk.ids, chunk.embeddings, self.clip_skip), read)


def moved(context: Tensor, empty: Tensor, weights: Iterable[float]) -> Tensor:
    """One chunk's encoding (1 n d), float32, each token moved by its weight away from what an
    empty prompt says in its place; ComfyUI's rule."""
    factors = torch.tensor(tuple(weights), dtype=context.dtype, device=context.device)
    factors = rearrange(factors, "n -> 1 n 1")
    return torch.where(factors == 1, context, (context - empty) * factors + empty)


def weighed(context: Tensor, weights: Iterable[float], emphasis: Emphasis) -> Tensor:
    """One chunk's encoding (1 n d), float32, with each token's weight on it.

    The mean that ORIGINAL restores is that of all numbers in the chunk, as in A1111: of this one
    chunk, so a picture does not depend on its neighbours in a batch.
    """
    factors = torch.tensor(tuple(weights), dtype=context.dtype, device=context.device)
    if emphasis in (Emphasis.IGNORE, Emphasis.NONE) or bool((factors == 1).all()):
        return context
    scaled = context * rearrange(factors, "n -> 1 n 1")
    if emphasis is Emphasis.NO_NORM:
        return scaled
    mean = scaled.mean()
    return scaled * torch.where(mean == 0, 1, context.mean() / mean)
