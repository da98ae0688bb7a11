"""What the walks of one request share: its models, its prompts, where each walk begins.

`generate` tells the story; the parts it is told with are made here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from core.additions import Wrapping
from core.entries import SamplerEntry
from core.errors import AdapterError, RequestError
from core.events import Event, Loading, Note, Origin, Step
from core.images.guiding import Scene
from core.images.inputs import Inputs
from core.images.pixels import pictures, pixels
from core.images.resize import FILTERS, stretched
from core.images.resize import enlarged as filtered
from core.images.start import Prepared, prepared
from core.levels import Segment, image_seeds, levels_of, sampler_of, segments
from core.models.adapting import told
from core.models.catalog import Catalog, Kind, Version
from core.models.checkpoint import Checkpoint, announced
from core.models.controlling import Timed, acting, asked
from core.models.hashing import Hashing
from core.models.store import Store
from core.models.upscalers import latent_upscaled, read_upscaler, upscaled
from core.nn.attention import Attending
from core.nn.seamless import seamless
from core.passes import LATENT_UPSCALERS, Pass
from core.registry import Registry
from core.request import Branch, Fill, GenerationRequest
from core.sampling.conditioning import PromptOverTime
from core.sampling.guidance import Combine, classifier_free, guided
from core.sampling.latest import Latest
from core.sampling.masking import differential, masked
from core.sampling.noise import SeededNoise
from core.sampling.prediction import Predictor
from core.sampling.schedule import Schedule
from core.sampling.state import Denoiser, Sampler, State
from core.text.networks import wanted
from core.text.prompt import Counting

if TYPE_CHECKING:
    from PIL.Image import Image

Stored = Callable[[Branch], Step]
"""Finds a step of an earlier run."""


def nothing_stored(branch: Branch) -> Step:
    """Where there are no recordings."""
    raise RequestError("there are no recorded runs here to begin from", "branch")


@dataclass(frozen=True)
class House:
    """What a run needs of its surroundings."""

    registry: Registry
    catalog: Catalog
    store: Store
    inputs: Inputs | None = None
    """The pictures that requests name; None: there are none here."""
    stored: Stored = nothing_stored


@dataclass(frozen=True)
class Guide:
    """A model and what it is told, for one segment of a walk."""

    model: Checkpoint
    positive: PromptOverTime
    negative: PromptOverTime
    cfg_scale: float
    schedule: Schedule
    attending: Attending
    wear: Callable[[], object]
    """Sees to it that the model has the segment's LoRAs, whoever used it meanwhile."""
    tiling: bool = False
    wrapping: Wrapping = field(default_factory=Wrapping)
    """What extensions put round guidance and the denoiser."""
    controls: tuple[Timed, ...] = ()
    """What guides beside the prompts."""
    intervals: int = 0
    """Of the whole walk: what the shares of `controls` are of."""
    told: Latest = field(default_factory=Latest)
    """What the model is told from interval to interval."""

    def combine(self) -> Combine:
        """How the answers to its prompts become one."""
        return self.wrapping.combine(classifier_free(self.cfg_scale))

    def denoiser_at(
        self, index: int, combine: Combine | None = None, played_back: bool = False
    ) -> Denoiser:
        """The guided denoiser of one interval.

        An adaptive sampler may take more intervals than there are wordings; the last one stays.

        Args:
            played_back: whether calls may be recordings, as they are where nobody looks inside.
        """
        self.wear()
        model = self.model
        beside = acting(self.controls, index, self.intervals)
        index = min(index, len(self.positive.intervals) - 1)
        ((negative, _),) = self.negative.at(index)
        graphs = model.graphs if played_back and not self.tiling else None
        predictor = Predictor(
            network=graphs or model.network,
            prediction=model.prediction,
            schedule=self.schedule,
            dtype=model.dtype,
            attending=self.attending,
            controls=beside.controls,
            looks=beside.looks,
            told=self.told,
        )
        combine = combine or self.combine()
        positive = self.positive.at(index)
        denoise = guided(predictor, positive, negative, self.cfg_scale, combine, model.ask)
        return self.wrapping.denoiser(self._tiling(denoise))

    def _tiling(self, denoise: Denoiser) -> Denoiser:
        if not self.tiling:
            return denoise

        def denoise_seamlessly(x: Tensor, sigma: Tensor) -> Tensor:
            with seamless(self.model.network):
                return denoise(x, sigma)

        return denoise_seamlessly


@dataclass(frozen=True)
class Masking:
    """What holds a walk to a picture."""

    original: Tensor
    """(1 c h w) latents of the picture."""
    mask: Tensor
    """(1 1 h w) in [0, 1]: 1 is painted anew."""
    soft: bool


@dataclass(frozen=True)
class Walk:
    """One pass of one group of images, ready to go."""

    part: Pass
    images: tuple[int, ...]
    model: Checkpoint
    sampler: Sampler
    sigmas: Tensor
    origin: Origin
    noise: SeededNoise
    segments: tuple[Segment, ...]
    start: State
    masking: Masking | None = None
    picture: Prepared | None = None
    """What it began from, at its size; the kept part is put back at the end."""

    def at(self, state: State) -> Walk:
        """The same walk from another state on."""
        return replace(self, start=state)

    def decoded(self, latents: Tensor) -> list[Image]:
        """The pictures of latents (b c h w)."""
        edgeless = self.part.request.tiling
        with seamless(self.model.vae, edgeless):
            return pictures(self.model.decode(latents, edgeless))


@dataclass
class Run:
    """One request's models and prompts, each read once."""

    request: GenerationRequest
    house: House
    hashing: Hashing | None = None
    """What finds out what its files are; None: nobody asks."""
    latest: tuple[str, str | None, Checkpoint] | None = None
    """The model that was asked for last, by its name and its VAE's."""
    shown: Version | None = None
    """The checkpoint that was announced last."""
    guides: dict[tuple[int, Segment], tuple[PromptOverTime, PromptOverTime]] = field(
        default_factory=dict
    )
    controls: dict[tuple[int, str], tuple[Timed, ...]] = field(default_factory=dict)
    """By pass and checkpoint."""
    prepared: Prepared | None = None
    notes: set[Note] = field(default_factory=set)

    def turn_to(self, image: int) -> None:
        """From now on it tells the models what this image is told."""
        told = self.request.of_image(image)
        if told != self.request:
            self.request = told
            self.guides.clear()

    def model(self, checkpoint: str, vae: str | None) -> Generator[Event, None, Checkpoint]:
        """The checkpoint, loaded; announced whenever it is another one than before."""
        if self.latest is None or self.latest[:2] != (checkpoint, vae):
            loaded = yield from self.house.store.loaded(checkpoint, vae)
            self.latest = checkpoint, vae, loaded
        model = self.latest[2]
        if self.shown != model.version:
            self.shown = model.version
            fingerprint = "" if self.hashing is None else self.hashing.of(model)
            yield announced(model, fingerprint, self.house.store.preview(model))
            for remark in model.remarks:
                yield from self._said(Note("model", remark))
        return model

    def happened(self, model: Checkpoint) -> Iterator[Note]:
        """What befell the model meanwhile that a person should hear."""
        for note in model.taken_notes():
            yield from self._said(note)

    def walk(
        self, part: Pass, images: tuple[int, ...], latents: Tensor | None
    ) -> Generator[Event, None, Walk]:
        """The walk of a pass; `latents` (b c h w) are those that the pass before ended with."""
        request, registry = part.request, self.house.registry
        assert request.checkpoint and request.width and request.height
        model = yield from self.model(request.checkpoint, request.vae)
        levels = levels_of(part, registry, model.schedule)
        sigmas, branch = levels.sigmas, None
        if request.branch is not None and request.branch.pass_index == part.index:
            branch = self.house.stored(request.branch)
            sigmas = torch.tensor(branch.sigmas)
        shape = model.latent_shape(request.width, request.height)
        seeds = image_seeds(request, images, model.vae.config.shrink)
        entry = registry.sampler(request.sampler)
        origin = Origin(tuple(levels.whole.tolist()), levels.asked, sampler=entry.name)
        if branch is not None:
            origin = replace(branch.origin, from_noise=False, sampler=entry.name)
        noise = SeededNoise(seeds, shape, torch.tensor(origin.whole), model.device)
        walk = Walk(
            part=part,
            images=images,
            model=model,
            sampler=sampler_of(request, registry, origin.intervals),
            sigmas=sigmas,
            origin=origin,
            noise=noise,
            segments=segments(part, sigmas, model.schedule, wanted(request).loras, entry.adaptive),
            start=State(0, entry.initial(noise.draw(0), sigmas)),
        )
        if part.index == 0 and request.start is not None:
            walk = self._from_picture(walk)
        elif latents is not None:
            walk = yield from self._from_latents(walk, latents)
        return walk if branch is None else walk.at(_continued(walk, branch, entry, registry))

    def guide(self, walk: Walk, segment: Segment) -> Generator[Event, None, Guide]:
        """The model of a segment, and the prompts as it reads them."""
        request = replace(walk.part.request, checkpoint=segment.checkpoint)
        same = segment.checkpoint == walk.model.name
        model = yield from self.model(segment.checkpoint, request.vae)
        if not same:
            _check_same_latents(walk.model, model)
        adapting = self.house.store.adapting
        controls = yield from self._controls(walk, model)
        kinds = tuple(self.house.registry.adapter_kinds.values())
        wear = functools.partial(adapting.put_on, model, segment.loras, kinds)
        for applied, use in zip(wear(), segment.loras, strict=True):
            yield from self._said(Note(*told(applied, use)))
        key = walk.part.index, segment
        if key not in self.guides:
            embeddings = adapting.embeddings(model, request)
            for sentence in embeddings.notes:
                yield from self._said(Note("embedding", sentence))
            concat = self._beside(walk, model)
            self.guides[key] = model.prompts(request, self.counting(walk), concat, embeddings)
        positive, negative = self.guides[key]
        wrapping = self.house.registry.wrapping(request)
        return Guide(
            model=model,
            positive=positive,
            negative=negative,
            cfg_scale=request.cfg_scale,
            schedule=model.schedule.rounding(request.schedule_options.round_timesteps),
            attending=wrapping.attending(adapting.attending(model, wanted(request).hypernets)),
            wear=wear,
            tiling=request.tiling,
            wrapping=wrapping,
            controls=controls,
            intervals=len(walk.sigmas) - 1,
        )

    def _controls(self, walk: Walk, model: Checkpoint) -> Generator[Event, None, tuple[Timed, ...]]:
        """What guides a walk beside its prompts, for one of its models."""
        request = walk.part.request
        uses = asked(request.controls, walk.part.index)
        if not uses:
            return ()
        adaptive = self.house.registry.sampler(request.sampler).adaptive
        if adaptive and any(use.start > 0 or use.end < 1 for _, use in uses):
            raise RequestError(
                "with a sampler that chooses its own steps a guide acts from start to end",
                "controls",
            )
        key = walk.part.index, model.name
        if key not in self.controls:
            yield Loading("what guides", 0, 0)
            assert request.width and request.height
            begun = None if request.start is None else self.begun(request)
            scene = Scene(
                self.house.inputs,
                request.width,
                request.height,
                begun,
                preprocessors=self.house.registry.preprocessors,
            )
            try:
                self.controls[key] = self.house.store.controlling.guides(model, uses, scene)
            except AdapterError as error:
                if model.name == request.checkpoint:
                    raise
                yield from self._said(Note("not applied", f"from the switch on: {error}"))
                self.controls[key] = ()
        return self.controls[key]

    def _said(self, note: Note) -> Iterator[Note]:
        """The note, once a run."""
        if note not in self.notes:
            self.notes.add(note)
            yield note

    def counting(self, walk: Walk) -> Counting:
        """How the prompts of a walk count its steps; it may have none."""
        registry, part = self.house.registry, walk.part
        entry = registry.sampler(part.request.sampler)
        earlier = 0
        if part.index:
            first = registry.sampler(self.request.sampler)
            earlier = first.counted(self.request.steps)
        passed = entry.passed(walk.sigmas) or (0,)
        return Counting(entry.counted(part.request.steps), passed, part.index, earlier)

    def _from_picture(self, walk: Walk) -> Walk:
        """The walk from the request's own picture."""
        request = walk.part.request
        start = request.start
        assert start is not None and request.width and request.height
        begun = self.begun(request)
        latents = self._encoded(walk, begun.picture)
        masking = None
        if begun.mask is not None:
            mask = begun.latent_mask(latents.shape[-2], latents.shape[-1], start.soft)
            masking = Masking(latents, torch.from_numpy(mask)[None, None].to(latents), start.soft)
            hole = (masking.mask > 0).to(latents)
            if start.fill is Fill.NOISE:
                latents = latents * (1 - hole) + walk.noise.draw(0) * hole
            elif start.fill is Fill.NOTHING:
                latents = latents * (1 - hole)
        return replace(_noised(walk, latents), masking=masking, picture=begun)

    def begun(self, request: GenerationRequest) -> Prepared:
        """The request's own picture, at the size of the first pass."""
        if self.prepared is None:
            start, first = request.start, self.request
            assert start is not None and first.width and first.height
            if self.house.inputs is None:
                raise RequestError("there is no folder of pictures here to start from", "start")
            self.prepared = prepared(start, self.house.inputs, first.width, first.height)
        return self.prepared

    def _encoded(self, walk: Walk, picture: Image) -> Tensor:
        """(1 c h w) of the walk's size; a picture of another size is stretched as latents."""
        model, shrink = walk.model, walk.model.vae.config.shrink
        _, rows, columns = walk.start.latents.shape[1:]
        if picture.size == (columns * shrink, rows * shrink):
            return model.encode(pixels(picture)[None].to(model.device))
        fitting = [max(1, side // shrink) * shrink for side in picture.size]
        latents = model.encode(pixels(stretched(picture, *fitting))[None].to(model.device))
        return functional.interpolate(latents, size=(rows, columns), mode="bilinear")

    def _from_latents(self, walk: Walk, latents: Tensor) -> Generator[Event, None, Walk]:
        """The walk from what the pass before painted, enlarged."""
        more, model = walk.part.request.enlarge, walk.model
        assert more is not None
        _, rows, columns = walk.start.latents.shape[1:]
        if more.upscaler in LATENT_UPSCALERS:
            return _noised(walk, latent_upscaled(latents, rows, columns, more.upscaler))
        size = columns * model.vae.config.shrink, rows * model.vae.config.shrink
        encoded = []
        for small in walk.decoded(latents):
            large = yield from larger_picture(self.house, more.upscaler, small, size)
            encoded.append(model.encode(pixels(large)[None].to(model.device)))
        return _noised(walk, torch.cat(encoded))

    def _beside(self, walk: Walk, model: Checkpoint) -> Tensor | None:
        """What a U-Net is given beside the latents: to inpaint the mask, and what it hides; or how
        near each place is."""
        request, begun = walk.part.request, walk.picture
        assert request.width and request.height
        if model.kind == "depth" and request.start is not None:
            before = self.begun(request)
            scene = Scene(self.house.inputs, request.width, request.height, before)
            return self.house.store.controlling.depth(model, request.start, scene)
        if begun is None or model.kind != "inpainting":
            return None
        _, rows, columns = model.latent_shape(request.width, request.height)
        mask = torch.from_numpy(begun.latent_mask(rows, columns, False))[None, None]
        shown = pixels(begun.picture) * torch.from_numpy(begun.shown())
        hidden = model.encode(shown[None].to(model.device))
        return torch.cat((mask.to(hidden), hidden), dim=1)


def larger_picture(
    house: House,
    upscaler: str,
    picture: Image,
    size: tuple[int, int],
    field: str = "enlarge.upscaler",
) -> Generator[Loading, None, Image]:
    """The picture at exactly `size`, by a filter or by a network.

    Raises:
        RequestError: there is no upscaler of that name; says which there are.
    """
    if upscaler in FILTERS:
        return filtered(picture, *size, upscaler)
    file = house.catalog.file(Kind.UPSCALER, upscaler, field)
    network = read_upscaler(file.path, house.store.device, torch.float32)
    tiles = upscaled(network, picture, *size)
    while True:
        try:
            done, total = next(tiles)
        except StopIteration as end:
            return end.value
        yield Loading(f"the picture enlarged by {file.name}", done, total)


def masked_denoiser(walk: Walk, denoise: Denoiser, index: int) -> Denoiser:
    """`denoise` for one interval of a walk, held to the picture outside its mask."""
    held = walk.masking
    if held is None:
        return denoise
    if held.soft:
        return differential(denoise, held.original, held.mask, index, len(walk.sigmas) - 1)
    return masked(denoise, held.original, held.mask)


def _noised(walk: Walk, latents: Tensor) -> Walk:
    """The walk from `latents`, with noise of its first level on them."""
    noise = walk.noise.draw(0)
    state = State(0, latents.expand_as(noise) + noise * walk.sigmas[0])
    return replace(walk, start=state, origin=replace(walk.origin, from_noise=False))


def _continued(walk: Walk, step: Step, sampler: SamplerEntry, registry: Registry) -> State:
    """The stored state, for this walk's sampler.

    Raises:
        RequestError: the sizes differ, or a sampler that plans its own levels meets others'.
    """
    state = step.state
    if state.latents.shape[1:] != walk.start.latents.shape[1:]:
        raise RequestError("a branch keeps the size of its run", "branch")
    memory = state.memory
    if step.origin.sampler != sampler.name:
        for entry in (registry.sampler(step.origin.sampler), sampler):
            if entry.chooses:
                raise RequestError(
                    f"{entry.title} chooses its own noise levels, so a branch can't change to it "
                    "or from it",
                    "sampler",
                )
        memory = ()  # what one sampler remembers no other one can read
    return state.remembering(memory).mapped(on(walk.model.device))


def on(device: torch.device) -> Callable[[Tensor], Tensor]:
    """What brings a tensor there."""
    return lambda tensor: tensor.to(device)


def _check_same_latents(first: Checkpoint, second: Checkpoint) -> None:
    formats = [(m.family.latent_scale, m.vae.config.latent_channels) for m in (first, second)]
    if formats[0] != formats[1]:
        raise RequestError(
            f"{second.name} can't go on with the latents of {first.name}: a {second.family.title} "
            f"model can't read those of {first.family.title}. Enlarge (a second pass) can use it",
            "refine.checkpoint",
        )
