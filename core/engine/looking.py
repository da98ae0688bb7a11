"""Looking into a run after the fact: at a stored step the network is asked once more, watched.

It is asked by the code that asked it in the run, so what is seen is what happened. Any run whose
states are there can be looked into; nothing need have been recorded for it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from core.engine.engine import DecodeStep, LookInside, LookThrough, LookWhere, LookWords
from core.engine.job import Job
from core.errors import RequestError
from core.events import Step
from core.levels import Segment, image_seeds, segments
from core.models.embeddings import Known
from core.nn.watching import BlockSeen, Group, Watching, blocks_watched
from core.passes import passes
from core.request import GenerationRequest
from core.run import Guide, House, Run, Walk, masked_denoiser
from core.sampling.guidance import Predictions, classifier_free
from core.sampling.noise import SeededNoise
from core.sampling.state import Denoiser, State, walk
from core.text.embeddings import Vector
from core.text.encoders import SideBySide, TextEncoder
from core.text.networks import wanted
from core.text.prompt import Counting, Part, lifted, read
from core.text.tokenizer import END, START, Chunk, Token
from core.trace import step_at

NEAREST = 4
"""Tokens of the vocabulary that are named beside a vector of an embedding."""

T = TypeVar("T")
_Look: TypeAlias = LookInside | LookThrough | LookWhere


@dataclass(frozen=True, eq=False)
class Inside:
    """What the model said at one step, in its first evaluation there; tensors on the CPU.

    Guidance makes of it uncond + cfg_scale · Σ weight · (cond − uncond).
    """

    conds: tuple[Tensor, ...]
    """(1 c h w): the estimate for each part of the prompt alone."""
    weights: tuple[float, ...]
    uncond: Tensor
    """(1 c h w): the estimate for the negative prompt alone."""
    x: Tensor
    """(1 c h w): the noisy latents it was shown, at `sigma`."""
    sigma: float
    cfg_scale: float
    """Of the run."""
    preview: Tensor
    """Latents to colours; see `core.events.Loaded`."""
    checkpoint: str
    vae: str | None

    def guided(self, cfg_scale: float) -> Tensor:
        """(1 c h w) for any scale, by the run's own arithmetic."""
        sigma = torch.tensor(self.sigma)
        told = Predictions(self.x, sigma, self.conds, self.weights, self.uncond)
        return classifier_free(cfg_scale)(told)


@dataclass(frozen=True)
class Word:
    """A token of a prompt as a person sees it. All ends but a chunk's first are one `padding`."""

    text: str
    id: int
    weight: float
    chunk: int
    kind: Literal["start", "word", "end", "padding"]
    near: tuple[str, ...] = ()
    """Of a vector of an embedding: the vocabulary's tokens nearest to it, by cosine."""


@dataclass(frozen=True, eq=False)
class Looked:
    """One prompt at one step: its words, and where each was looked at."""

    name: str
    """What it is: the prompt, one of its parts, or the negative prompt."""
    words: tuple[Word, ...]
    maps: dict[Group, Tensor]
    """(n h w) for n words; sums to 1 over them at every place."""


@dataclass(frozen=True)
class Where:
    """All prompts of a step."""

    prompts: tuple[Looked, ...]


@dataclass(frozen=True)
class Through:
    """The U-Net from end to end in one call, and how large the parts of the model are."""

    blocks: tuple[BlockSeen, ...]
    seconds: float
    """Of the whole call, watched."""
    context: tuple[int, ...]
    """(n d) of an encoded prompt."""
    network: int
    """Numbers in the U-Net."""
    encoder: int
    """Numbers in the text encoder."""
    vae: tuple[int, int]
    """Numbers in the VAE's encoder and decoder."""


@dataclass(frozen=True, eq=False)
class Wording:
    """A prompt as it was read over some of a run's intervals."""

    first: int
    last: int
    """One behind the last interval."""
    checkpoint: str
    words: tuple[tuple[Word, ...], ...]
    """Of each part."""
    weights: tuple[float, ...]
    """Each part's share in guidance."""
    likeness: tuple[Tensor, ...]
    """(n n) for each part: the cosine between the encodings of its words."""


@dataclass(frozen=True)
class Words:
    """What the model read, over all intervals."""

    intervals: int
    positive: tuple[Wording, ...]
    negative: tuple[Wording, ...]


@torch.inference_mode()
def inside(query: LookInside, job: Job, house: House) -> Inside:
    """Raises RequestError where there is no such step, or no interval after it."""
    place = _Place.of(query, job, house)
    seen = place.evaluated(without_guides=query.without_guides)
    model = place.path.model  # a refiner has no better VAE, and may have none
    assert seen.uncond is not None
    return Inside(
        conds=tuple(cond.cpu() for cond in seen.conds),
        weights=seen.weights,
        uncond=seen.uncond.cpu(),
        x=seen.x.cpu(),
        sigma=float(seen.sigma),
        cfg_scale=place.guide.cfg_scale,
        preview=house.store.preview(model),
        checkpoint=model.name,
        vae=place.reading.request.vae,
    )


@torch.inference_mode()
def where(query: LookWhere, job: Job, house: House) -> Where:
    """Raises RequestError as `inside`."""
    place = _Place.of(query, job, house)
    _, _, rows, columns = place.state.latents.shape
    watching = Watching(rows, columns)
    place.evaluated(watching)
    maps = watching.maps()
    if not maps:
        raise RequestError("this model has no attention to its prompt")
    tokens = next(iter(maps.values())).shape[1]
    positive, negative = place.parts()
    named = [(_part_name(i, len(positive)), part) for i, part in enumerate(positive)]
    looked = []
    for row, (name, part) in enumerate([*named, ("Negative prompt", negative)]):
        words, places = place.reading.words(part, tokens)
        merged = {group: _merged(seen[row], places, len(words)) for group, seen in maps.items()}
        looked.append(Looked(name, words, merged))
    return Where(tuple(looked))


@torch.inference_mode()
def through(query: LookThrough, job: Job, house: House) -> Through:
    """Raises RequestError as `inside`."""
    place = _Place.of(query, job, house)
    model = place.guide.model
    began = time.perf_counter()
    with blocks_watched(model.network) as blocks:
        place.evaluated()
    seconds = time.perf_counter() - began
    negative = place.guide.negative.at(0)[0][0].context
    return Through(
        blocks=tuple(blocks),
        seconds=seconds,
        context=tuple(negative.shape[1:]),
        network=sum(p.numel() for p in model.network.parameters()),
        encoder=sum(p.numel() for p in model.text.parameters()),
        vae=(
            sum(p.numel() for p in model.vae.encoder.parameters()),
            sum(p.numel() for p in model.vae.decoder.parameters()),
        ),
    )


@torch.inference_mode()
def words(query: LookWords, job: Job, house: House) -> Words:
    """What is read of both prompts, from the job's own request; its run need not be there."""
    request = replace(job.request, branch=None)
    run = Run(request, house)
    path = exhausted(run.walk(_pass(request, query.pass_index), (0,), None))
    return Words(
        max(len(path.sigmas) - 1, 1), _wordings(run, path, False), _wordings(run, path, True)
    )


def _wordings(run: Run, path: Walk, negative: bool) -> tuple[Wording, ...]:
    """Each stretch of intervals with the same wording and the same model."""
    wording = _Reading.of(run, path, path.segments[0])
    intervals = range(max(len(path.sigmas) - 1, 1))
    found = []
    for (segment, parts), stretch in groupby(
        intervals, lambda index: (segment_at(path, index), wording.parts(negative, index))
    ):
        reading = _Reading.of(run, path, segment)
        over = reading.guide.negative if negative else reading.guide.positive
        indices = list(stretch)
        told, likeness = [], []
        for part, (conditioning, _) in zip(parts, over.at(indices[0]), strict=True):
            context = conditioning.context[0].float().cpu()
            shown, places = reading.words(part, len(context))
            told.append(shown)
            likeness.append(cosines(context[[places.index(i) for i in range(len(shown))]]))
        weights = tuple(part.weight for part in parts)
        first, last = indices[0], indices[-1] + 1
        found.append(
            Wording(first, last, segment.checkpoint, tuple(told), weights, tuple(likeness))
        )
    return tuple(found)


def cosines(rows: Tensor) -> Tensor:
    """(n n): the cosine between any two of (n d) rows."""
    unit = torch.nn.functional.normalize(rows, dim=-1)
    return unit @ unit.T


def _merged(seen: Tensor, places: Sequence[int], count: int) -> Tensor:
    """(m h w) of tokens -> (n h w) of words."""
    merged = torch.zeros(count, *seen.shape[1:])
    return merged.index_add(0, torch.tensor(places), seen)


def _part_name(index: int, count: int) -> str:
    return "Prompt" if count == 1 else f"Prompt, part {index + 1}"


class _Enough(Exception):
    """The first evaluation is done, and no other one is wanted."""


@dataclass(frozen=True)
class _Reading:
    """How a segment of a walk reads its prompts."""

    guide: Guide
    request: GenerationRequest
    """What holds for its pass."""
    counting: Counting
    known: Known

    @classmethod
    def of(cls, run: Run, path: Walk, segment: Segment) -> _Reading:
        request = path.part.request
        guide = exhausted(run.guide(path, segment))
        known = run.house.store.adapting.embeddings(guide.model, request)
        return cls(guide, request, run.counting(path), known)

    def parts(self, negative: bool, index: int) -> tuple[Part, ...]:
        """A prompt as it is worded in an interval."""
        text = self.request.negative_prompt if negative else self.request.prompt
        prompt = read(lifted(text)[0], negative=negative, emphasis=self.request.emphasis)
        return prompt.at(min(index, len(self.counting.passed) - 1), self.counting)

    def words(self, part: Part, tokens: int) -> tuple[tuple[Word, ...], tuple[int, ...]]:
        """What is read of a part of a prompt, and of which word each of `tokens` tokens is."""
        chunks = self.known.tokenizer.chunks(part)
        length = len(Chunk().ids)
        filled = (*chunks, *[Chunk()] * (tokens // length - len(chunks)))
        found: list[Word] = []
        places: list[int] = []
        for number, chunk in enumerate(filled):
            count = len(chunk.tokens)
            found.append(Word("start", START, 1.0, number, "start"))
            found += [self._word(token, number) for token in chunk.tokens]
            found.append(Word("end", END, 1.0, number, "end"))
            first = len(found) - count - 2
            places += range(first, first + count + 2)
            left = length - count - 2
            if left:
                found.append(Word(f"filler × {left}", END, 1.0, number, "padding"))
                places += [len(found) - 1] * left
        return tuple(found), tuple(places)

    def _word(self, token: Token, chunk: int) -> Word:
        vector = token.vector
        if vector is None:
            return Word(token.text, token.id, token.weight, chunk, "word")
        name = vector.name if vector.count == 1 else f"{vector.name} {vector.index + 1}"
        return Word(name, token.id, token.weight, chunk, "word", self._near(vector))

    def _near(self, vector: Vector) -> tuple[str, ...]:
        """In the table of the first text encoder."""
        text = self.guide.model.text
        encoder = text.encoders[0] if isinstance(text, SideBySide) else text
        assert isinstance(encoder, TextEncoder)
        table = encoder.text_model.embeddings.token_embedding.weight.float()
        own = self.known.vectors[vector.name][0][vector.index].to(table)
        nearest = torch.nn.functional.cosine_similarity(table, own[None]).topk(NEAREST).indices
        vocabulary = self.known.tokenizer._encoder
        named = (vocabulary.id_to_token(int(id)) for id in nearest)
        return tuple(name.removesuffix("</w>") for name in named if name)


@dataclass(frozen=True)
class _Place:
    """A stored step, and all that is needed to go on from it."""

    path: Walk
    reading: _Reading
    state: State

    @classmethod
    def of(cls, query: _Look, job: Job, house: House) -> _Place:
        step = step_of(query, job, house)
        # Where it came from is in the step; an earlier run need not be there any more.
        request = replace(job.request, branch=None).of_image(query.image)
        run = Run(request, house)
        path = exhausted(run.walk(_pass(request, query.pass_index), (query.image,), None))
        path = _as_walked(path, step, house)
        state = _row(step, query.image, path.model.device)
        if path.sampler.is_done(state, path.sigmas):
            raise RequestError("behind the last step the model is not asked any more", "index")
        return cls(path, _Reading.of(run, path, segment_at(path, state.index)), state)

    @property
    def guide(self) -> Guide:
        return self.reading.guide

    def parts(self) -> tuple[tuple[Part, ...], Part]:
        """Prompt and negative prompt as they are worded here."""
        positive, (negative,) = (self.reading.parts(n, self.state.index) for n in (False, True))
        return positive, negative

    def evaluated(
        self, watching: Watching | None = None, without_guides: bool = False
    ) -> Predictions:
        """The first thing the network was asked in this interval, and its answers.

        The sampler itself asks: some begin elsewhere than at the state's own latents.
        """
        seen: list[Predictions] = []

        def enough(predictions: Predictions) -> NoReturn:
            seen.append(predictions)
            raise _Enough

        # With a scale of 1 the run asks for the prompt alone; here both are wanted.
        asking = replace(self.guide, cfg_scale=0.0)
        if without_guides:
            asking = replace(asking, controls=())
        if watching is not None:
            asking = replace(asking, attending=watching.beside(asking.attending))

        def denoiser_at(index: int) -> Denoiser:
            return masked_denoiser(self.path, asking.denoiser_at(index, enough), index)

        path = self.path
        try:
            next(walk(path.sampler, denoiser_at, self.state, path.sigmas, path.noise))
        except _Enough:
            return seen[0]
        raise RequestError("this sampler does not ask the model at that step", "index")


def segment_at(path: Walk, index: int) -> Segment:
    """The segment that holds an interval; an adaptive sampler may go on behind the last."""
    return next((s for s in path.segments if index < s.last), path.segments[-1])


def _pass(request: GenerationRequest, index: int) -> Any:
    parts = passes(request)
    if not 0 <= index < len(parts):
        raise RequestError(f"that run has {len(parts)} passes; there is no pass {index}")
    return parts[index]


def _as_walked(path: Walk, step: Step, house: House) -> Walk:
    """The walk with the levels that the run really walked."""
    request = path.part.request
    sigmas = torch.tensor(step.sigmas)
    entry = house.registry.sampler(request.sampler)
    shape = cast("tuple[int, int, int]", tuple(step.state.latents.shape[1:]))
    model = path.model
    seeds = image_seeds(request, path.images, model.vae.config.shrink)
    whole = torch.tensor(step.origin.whole or step.sigmas)
    return replace(
        path,
        sigmas=sigmas,
        origin=step.origin,
        noise=SeededNoise(seeds, shape, whole, model.device),
        segments=segments(path.part, sigmas, model.schedule, wanted(request).loras, entry.adaptive),
    )


def _row(step: Step, image: int, device: torch.device) -> State:
    """One image's state of a step."""
    row, count = step.images.index(image), len(step.images)

    def own(tensor: Tensor) -> Tensor:
        is_batch = count > 1 and tensor.ndim > 0 and tensor.shape[0] == count
        return (tensor[row : row + 1] if is_batch else tensor).to(device)

    state = step.state
    return replace(
        state,
        latents=own(state.latents),
        denoised=None if state.denoised is None else own(state.denoised),
        memory=tuple(own(t) for t in state.memory),
    )


def step_of(query: DecodeStep | _Look, job: Job, house: House) -> Step:
    """Raises RequestError where the job has no such step."""
    for event in job.events():
        if (
            isinstance(event, Step)
            and query.image in event.images
            and (event.pass_index, event.state.index) == (query.pass_index, query.index)
        ):
            return event
    if job.trace is None:
        raise RequestError(f"step {query.index} of image {query.image} is not there (yet)")
    return step_at(job.trace, house.registry, query.image, query.index, query.pass_index)


def exhausted(steps: Generator[Any, None, T]) -> T:
    """What a generator returns, its events dropped."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
