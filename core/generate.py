"""One request from the first line to the last, as a generator of events.

Control stays with the reader: stopping means not asking for the next event. Core has no notion of
cancelling, of progress bars or of files; those are readers of the stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.errors import NotFinite
from core.events import Decoding, Event, Finished, ImageDone, Note, Started, Step
from core.images.start import Prepared
from core.models.hashing import Hashing
from core.nn.copies import fetched
from core.passes import checkpoints, groups, passes
from core.request import GenerationRequest, Record, Wish
from core.resolve import resolve
from core.run import Guide, House, Run, Walk, masked_denoiser, on
from core.sampling.guidance import Combine, Predictions
from core.sampling.masking import settled
from core.sampling.state import Denoiser, State, walk
from core.text.networks import wanted
from core.text.prompt import lifted, read

__all__ = ["House", "Progress", "generate", "go_on"]


@dataclass(frozen=True)
class Progress:
    """What of a request is there already, when a run goes on where another one broke off."""

    done: frozenset[int] = frozenset()
    """Images that are finished."""
    images: tuple[int, ...] = ()
    """Images in work, the rows of `state`."""
    state: State | None = None
    """Where their walk stands."""
    pass_index: int = 0
    """Which walk that is."""


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
    evaluations = 0
    asked = Wish.GO_ON
    store = house.store
    with (
        store.room_for(len(checkpoints(request))),
        store.placing.eased(),
        Hashing(house.catalog) as hashing,
    ):
        run = Run(request, house, hashing)
        for images in _waiting(request, house, progress):
            resumed = progress if progress.state is not None and images == progress.images else None
            count, asked = yield from _painted(run, images, resumed, wish)
            evaluations += count
            if asked is Wish.FINISH:
                break
    yield Finished(
        time.perf_counter() - began,
        _peak_bytes(store.device),
        evaluations,
        interrupted=asked is Wish.FINISH,
        versions={"torch": torch.__version__, "python": sys.version.split()[0]},
    )


def _waiting(request: GenerationRequest, house: House, progress: Progress) -> list[tuple[int, ...]]:
    """The images that are left, those in work first, in the groups that are painted together."""
    begun = [progress.images] if progress.state is not None else []
    left = [i for i in range(request.images) if i not in {*progress.done, *progress.images}]
    adaptive = house.registry.sampler(request.sampler).adaptive
    return begun + groups(request, house.store.device.type == "cuda", left, adaptive)


def _surprises(request: GenerationRequest) -> Iterator[Note]:
    """What in the prompts is read otherwise than a person may have meant it."""
    for tag in wanted(request).unknown:
        yield Note("not applied", f"{tag} was left out: there is no such kind of network here")
    parts = read(lifted(request.prompt)[0], emphasis=request.emphasis).at(0, 1)
    if len(parts) == 1 and parts[0].weight != 1:
        weight = f"{parts[0].weight:g}"
        yield Note(
            "weight",
            f"the :{weight} at the end of the prompt is its weight in guidance, as in A1111; "
            "put a comma behind it to have it read as words",
        )


def _painted(
    run: Run, images: tuple[int, ...], resumed: Progress | None, wish: Callable[[], Wish]
) -> Generator[Event, None, tuple[int, Wish]]:
    """One group of images from noise to pictures; returns network calls and the last wish."""
    run.turn_to(images[0])
    parts = passes(run.request)
    first = _first_pass(run.request, resumed)
    latents: Tensor | None = None
    evaluations, asked = 0, Wish.GO_ON
    path: Walk | None = None
    for part in parts[first:]:
        path = yield from run.walk(part, images, latents)
        if resumed is not None and resumed.state is not None and part.index == first:
            path = path.at(resumed.state.mapped(on(path.model.device)))
        else:
            yield _step(path, path.start, [], {}, 0.0, begins=True)
        state, count, asked = yield from _walked(run, path, wish)
        evaluations += count
        finished = path.sampler.is_done(state, path.sigmas) or len(path.sigmas) < 2
        latents = state.latents if finished else state.denoised
        if path.masking is not None and latents is not None:
            latents = settled(latents, path.masking.original, path.masking.mask)
        if asked is not Wish.GO_ON:
            finished = finished and part is parts[-1]
            break
    assert path is not None and latents is not None
    if run.hashing is not None:  # a picture is written down with it
        yield from run.hashing.rest()
    yield Decoding(images)
    # The walk may have ended with another model than it began with; both read the same latents.
    decoded = path.decoded(latents)
    yield from run.happened(path.model)
    for image, picture in zip(images, decoded, strict=True):
        if (begun := _framing(run, path)) is not None:
            picture = begun.put_back(picture)
        alone = _alone(run.request, image)
        picture = run.house.registry.finished(picture, alone)
        yield ImageDone(image, picture, alone, finished=finished)
    return evaluations, asked


def _framing(run: Run, path: Walk) -> Prepared | None:
    """What the painted picture is put back into: its own start, or after a second pass the whole
    picture that it is a part of."""
    if path.picture is not None:
        return path.picture
    if run.request.start is None:
        return None
    begun = run.begun(run.request)  # also of a run that goes on in its second pass
    return None if begun.box is None else begun


def _first_pass(request: GenerationRequest, resumed: Progress | None) -> int:
    if resumed is not None:
        return resumed.pass_index
    return 0 if request.branch is None else request.branch.pass_index


def _walked(
    run: Run, path: Walk, wish: Callable[[], Wish]
) -> Generator[Event, None, tuple[State, int, Wish]]:
    """The intervals of one walk; returns where it ended, network calls and the last wish."""
    state, evaluations, asked = path.start, 0, Wish.GO_ON
    tape: list[Tensor] = []
    probes: dict[str, list[Tensor]] = {}
    keep = probes if run.request.record is Record.PREDICTIONS else None
    for segment in path.segments:
        is_last = segment is path.segments[-1]
        if len(path.sigmas) < 2 or (state.index >= segment.last and not is_last):
            continue
        guide = yield from run.guide(path, segment)
        combine = _kept(guide.combine(), keep)

        denoiser_at = _denoisers(path, guide, combine, tape)
        then = time.perf_counter()
        for reached in walk(path.sampler, denoiser_at, state, path.sigmas, path.noise):
            state = reached
            step = _step(path, state, tape, probes, time.perf_counter() - then)
            _check_finite(step)
            evaluations += len(tape)
            tape.clear()
            probes.clear()
            yield step
            yield from run.happened(guide.model)
            then = time.perf_counter()
            asked = wish()
            if asked is not Wish.GO_ON:
                return state, evaluations, asked
            if not is_last and state.index >= segment.last:
                break
    return state, evaluations, asked


def _denoisers(
    path: Walk, guide: Guide, combine: Combine, tape: list[Tensor]
) -> Callable[[int], Denoiser]:
    """The denoiser of each interval, as `walk` asks for it."""

    def denoiser_at(index: int) -> Denoiser:
        denoise = guide.denoiser_at(index, combine, played_back=True)
        return _taped(masked_denoiser(path, denoise, index), tape)

    return denoiser_at


def _taped(denoise: Denoiser, tape: list[Tensor]) -> Denoiser:
    """The same denoiser, its answers kept."""

    def denoise_taped(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        tape.append(denoised)
        return denoised

    return denoise_taped


def _kept(combine: Combine, probes: dict[str, list[Tensor]] | None) -> Combine:
    """The same combination; what it is made of is kept, if anybody asked."""
    if probes is None:
        return combine

    def combine_kept(predictions: Predictions) -> Tensor:
        probes.setdefault("cond", []).append(predictions.conds[0])
        if predictions.uncond is not None:
            probes.setdefault("uncond", []).append(predictions.uncond)
        return combine(predictions)

    return combine_kept


def _alone(request: GenerationRequest, image: int) -> GenerationRequest:
    """The request that makes just this image."""
    request = replace(request.of_image(image), prompts=())
    assert request.seed is not None
    variation = request.variation
    if variation is None or not variation.strength:
        return replace(request, images=1, seed=request.seed + image)
    assert variation.seed is not None
    return replace(request, images=1, variation=replace(variation, seed=variation.seed + image))


def _step(
    path: Walk,
    state: State,
    tape: list[Tensor],
    probes: dict[str, list[Tensor]],
    seconds: float,
    begins: bool = False,
) -> Step:
    sigma = path.sampler.level(state, path.sigmas)
    timestep = path.model.schedule.timestep(sigma) if sigma > 0 else torch.zeros(())
    kept = [t for of_name in probes.values() for t in of_name]
    fetch = fetched([*state.tensors, *tape, *kept])
    return Step(
        images=path.images,
        pass_index=path.part.index,
        sigmas=tuple(path.sigmas.tolist()),
        sigma=float(sigma),
        timestep=float(timestep),
        state=state.mapped(fetch),
        seconds=seconds,
        estimates=tuple(map(fetch, tape)),
        origin=path.origin,
        begins=begins,
        probes={name: tuple(map(fetch, of_name)) for name, of_name in probes.items()},
    )


def _check_finite(step: Step) -> None:
    if not torch.isfinite(step.state.latents).all():
        raise NotFinite(
            f"step {step.state.index} of {step.total} came to values that are no numbers; "
            "a lower cfg_scale or float32 precision may help"
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
