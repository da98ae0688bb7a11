"""One request from the first line to the last, as a generator of events.

Control stays with the reader: stopping means not asking for the next event. Core has no notion of
cancelling, of progress bars or of files; those are readers of the stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.errors import NotFinite
from core.events import Decoding, Event, Finished, ImageDone, Loaded, Note, Started, Step
from core.images.pixels import pictures
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.models.store import Store
from core.registry import Registry
from core.request import GenerationRequest, Variation, Wish
from core.resolve import resolve
from core.sampling.conditioning import PromptOverTime
from core.sampling.guidance import classifier_free, guided
from core.sampling.noise import ImageSeed, SeededNoise
from core.sampling.prediction import Predictor
from core.sampling.schedule import Schedule, given
from core.sampling.state import Denoiser, Sampler, State, walk
from core.text.prompt import lifted, read


@dataclass(frozen=True)
class House:
    """What a run needs of its surroundings."""

    registry: Registry
    catalog: Catalog
    store: Store


@dataclass(frozen=True)
class Progress:
    """What of a request is there already, when a run goes on where another one broke off."""

    done: frozenset[int] = frozenset()
    """Images that are finished."""
    images: tuple[int, ...] = ()
    """Images in work, the rows of `state`."""
    state: State | None = None
    """Where their walk stands."""


def go_on() -> Wish:
    """Nobody steers."""
    return Wish.GO_ON


@torch.inference_mode()
def generate(
    request: GenerationRequest,
    house: House,
    wish: Callable[[], Wish] = go_on,
    progress: Progress = Progress(),
) -> Iterator[Event]:
    """Makes what `request` asks for.

    Args:
        wish: asked between steps: go on, skip to the next image, or finish with what there is.
        progress: where an earlier run of the same request stands.

    Raises:
        VitrineError: as soon as the reason is known.
    """
    began = time.perf_counter()
    request = resolve(request, house.catalog, house.registry)
    yield Started(request)
    yield from _surprises(request)
    assert request.checkpoint is not None
    model = yield from house.store.loaded(request.checkpoint, request.vae)
    yield _loaded(model, house.store.preview(model))

    run = _prepared(request, house.registry, model)
    evaluations = 0
    asked = Wish.GO_ON
    adaptive = house.registry.sampler(request.sampler).adaptive
    for images in _groups(request, model, progress, adaptive):
        resumed = progress.state if images == progress.images else None
        count, asked = yield from _painted(run, images, resumed, wish)
        evaluations += count
        if asked is Wish.FINISH:
            break
    seconds = time.perf_counter() - began
    yield Finished(
        seconds,
        _peak_bytes(model.device),
        evaluations,
        interrupted=asked is Wish.FINISH,
        versions={"torch": torch.__version__, "python": sys.version.split()[0]},
    )


def _surprises(request: GenerationRequest) -> Iterator[Note]:
    """What in the prompts is read otherwise than a person may have meant it."""
    for text in (request.prompt, request.negative_prompt):
        for tag in lifted(text)[1]:
            asked = f"<{tag.kind}:{tag.arguments}>"
            yield Note("not applied", f"{asked} was left out: this version applies no {tag.kind}")
    parts = read(lifted(request.prompt)[0]).at(0, 1)
    if len(parts) == 1 and parts[0].weight != 1:
        weight = f"{parts[0].weight:g}"
        yield Note(
            "weight",
            f"the :{weight} at the end of the prompt is its weight in guidance, as in A1111; "
            "put a comma behind it to have it read as words",
        )


@dataclass(frozen=True)
class _Run:
    """Everything that all images of a request share."""

    request: GenerationRequest
    model: Checkpoint
    sampler: Sampler
    sigmas: Tensor
    predictor: Predictor
    positive: PromptOverTime
    negative: PromptOverTime

    @property
    def total(self) -> int:
        """Intervals of the list; an adaptive sampler has no total but this for prompts to count."""
        return len(self.sigmas) - 1

    def denoiser_at(self, index: int) -> Denoiser:
        """The guided denoiser of one interval."""
        cfg_scale = self.request.cfg_scale
        index = min(index, self.total - 1)  # an adaptive sampler may take more
        positive = self.positive.at(index)
        ((negative, _),) = self.negative.at(index)
        return guided(self.predictor, positive, negative, cfg_scale, classifier_free(cfg_scale))

    def noise(self, images: Sequence[int]) -> SeededNoise:
        request, model = self.request, self.model
        assert request.width and request.height
        sources = image_seeds(request, images, model.vae.config.shrink)
        shape = model.latent_shape(request.width, request.height)
        return SeededNoise(sources, shape, self.sigmas, model.device)


def _prepared(request: GenerationRequest, registry: Registry, model: Checkpoint) -> _Run:
    sigmas = sigmas_of(request, registry, model.schedule)
    positive, negative = model.prompts(request, len(sigmas) - 1)
    predictor = Predictor(model.network, model.prediction, model.schedule, model.dtype)
    sampler = sampler_of(request, registry)
    return _Run(request, model, sampler, sigmas, predictor, positive, negative)


def sigmas_of(request: GenerationRequest, registry: Registry, schedule: Schedule) -> Tensor:
    """The noise levels of a resolved request, as its sampler walks them."""
    entry = registry.sampler(request.sampler)
    if isinstance(request.schedule, tuple):
        return given(request.schedule)
    spaced = registry.schedule(request.schedule).load()
    if entry.discards_penultimate:
        sigmas = spaced(schedule, request.steps + 1)
        sigmas = torch.cat((sigmas[:-2], sigmas[-1:]))
    else:
        sigmas = spaced(schedule, request.steps)
    return entry.planned(sigmas, request.steps)


def sampler_of(request: GenerationRequest, registry: Registry) -> Sampler:
    """The sampler of a resolved request, with its options filled in."""
    entry = registry.sampler(request.sampler)
    options = {name: getattr(request.sampler_options, name) for name in entry.options}
    chosen = {name: value for name, value in options.items() if value is not None}
    if entry.takes_calls:
        chosen["calls"] = request.steps
    return entry.load(chosen)


def image_seeds(request: GenerationRequest, images: Sequence[int], shrink: int) -> list[ImageSeed]:
    """Where each image's noise comes from: seed + k, or with a variation the same seed for all.

    Args:
        shrink: pixels a latent cell covers on each side.
    """
    assert request.seed is not None
    variation = request.variation or Variation()
    size = variation.resize_from
    return [
        ImageSeed(
            request.seed + (0 if variation.strength else k),
            request.noise,
            request.ensd,
            (variation.seed or 0) + k,
            variation.strength,
            None if size is None else (size[1] // shrink, size[0] // shrink),
        )
        for k in images
    ]


def _painted(
    run: _Run, images: tuple[int, ...], resumed: State | None, wish: Callable[[], Wish]
) -> Generator[Event, None, tuple[int, Wish]]:
    """One group of images from noise to pictures; returns network calls and the last wish."""
    noise = run.noise(images)
    state = start = resumed or State(0, noise.draw(0) * run.sigmas[0])
    tape: list[Tensor] = []
    evaluations = 0
    asked = Wish.GO_ON

    def denoiser_at(index: int) -> Denoiser:
        denoise = run.denoiser_at(index)

        def denoise_taped(x: Tensor, sigma: Tensor) -> Tensor:
            denoised = denoise(x, sigma)
            tape.append(denoised)
            return denoised

        return denoise_taped

    if resumed is None:
        yield _step(run, images, start, [], 0.0)
    then = time.perf_counter()
    for state in walk(run.sampler, denoiser_at, start, run.sigmas, noise):
        now = time.perf_counter()
        step = _step(run, images, state, tape, now - then)
        _check_finite(step)
        evaluations += len(tape)
        tape.clear()
        yield step
        then = time.perf_counter()
        asked = wish()
        if asked is not Wish.GO_ON:
            break

    yield Decoding(images)
    finished = run.sampler.is_done(state, run.sigmas)
    latents = state.latents if finished else state.denoised
    assert latents is not None
    for image, picture in zip(images, pictures(run.model.decode(latents)), strict=True):
        yield ImageDone(image, picture, _alone(run.request, image), finished=finished)
    return evaluations, asked


def _alone(request: GenerationRequest, image: int) -> GenerationRequest:
    """The request that makes just this image."""
    assert request.seed is not None
    variation = request.variation
    if variation is None or not variation.strength:
        return replace(request, images=1, seed=request.seed + image)
    assert variation.seed is not None
    return replace(request, images=1, variation=replace(variation, seed=variation.seed + image))


def _step(
    run: _Run, images: tuple[int, ...], state: State, tape: list[Tensor], seconds: float
) -> Step:
    sigma = run.sampler.level(state, run.sigmas)
    timestep = run.model.schedule.timestep(sigma) if sigma > 0 else torch.zeros(())
    return Step(
        images=images,
        pass_index=0,
        sigmas=tuple(run.sigmas.tolist()),
        sigma=float(sigma),
        timestep=float(timestep),
        state=on_cpu(state),
        seconds=seconds,
        estimates=tuple(t.cpu() for t in tape),
    )


def on_cpu(state: State) -> State:
    """The same state with its tensors on the CPU, where readers may look at them."""
    return replace(
        state,
        latents=state.latents.cpu(),
        denoised=None if state.denoised is None else state.denoised.cpu(),
        memory=tuple(t.cpu() for t in state.memory),
    )


def _check_finite(step: Step) -> None:
    if not torch.isfinite(step.state.latents).all():
        raise NotFinite(
            f"step {step.state.index} of {step.total} came to values that are no numbers; "
            "a lower cfg_scale or float32 precision may help"
        )


def _groups(
    request: GenerationRequest, model: Checkpoint, progress: Progress, adaptive: bool
) -> Iterator[tuple[int, ...]]:
    """Which images go through the network together.

    One at a time on a CPU, where a batch gains little: so a batch equals its singles bit for bit.
    One at a time too where each image chooses its own steps.
    """
    if progress.state is not None:
        yield progress.images
    left = [i for i in range(request.images) if i not in {*progress.done, *progress.images}]
    assert request.width and request.height
    at_once = 1
    if model.device.type == "cuda" and not adaptive:
        at_once = max(1, 4 * 1024 * 1024 // (request.width * request.height))
    for first in range(0, len(left), at_once):
        yield tuple(left[first : first + at_once])


def _loaded(model: Checkpoint, preview: Tensor) -> Loaded:
    return Loaded(
        checkpoint=model.name,
        family=model.family.name,
        fingerprint=model.fingerprint,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        preview=preview,
    )


def _peak_bytes(device: torch.device) -> int:
    """Peak memory: of the device for CUDA, of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    info = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # Windows, where psutil knows the peak
        return int(getattr(info, "peak_wset", info.rss))
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
