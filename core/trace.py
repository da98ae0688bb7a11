"""A run written down while it happens, and read back as the same stream of events.

What is stored of a step is every estimate (the denoiser's answers) in float32; latents, memories
and noise are computed again from them and the seeds by the sampler's own arithmetic, without the
network. A record is complete or not there: a run that is killed loses one step at most.

File: the line `MAGIC`, then records of
`<u32 length of head> <u64 length of body> head (JSON) body (raw tensors) <u32 CRC-32 of both>`.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL.Image import Image
from torch import Tensor

from core.errors import FileError
from core.events import (
    Decoding,
    Event,
    Finished,
    Identified,
    ImageDone,
    Loaded,
    Loading,
    Note,
    Origin,
    Started,
    Step,
)
from core.generate import Progress
from core.images.pixels import open_picture
from core.levels import image_seeds, sampler_of
from core.passes import passes
from core.registry import Registry
from core.request import GenerationRequest, as_json, read_json
from core.sampling.noise import SeededNoise
from core.sampling.state import Sampler, State

MAGIC = b"VITRINE TRACE 1\n"
_LENGTHS = struct.Struct("<IQ")
_CHECK = struct.Struct("<I")
MAX_RECORD = 2**31
"""Bytes; a longer record is damage, not data."""

Json = dict[str, Any]


def recorded(events: Iterator[Event], path: Path) -> Generator[Event, None, None]:
    """Passes the stream through and writes it to `path`, a whole record at a time.

    A file that is there is gone on with: the recording of a resumed run is one recording. Where
    it can't be written, a Note says so once and the run goes on without.
    """
    writer = _Writer(path)
    try:
        for event in events:
            problem = writer.write(event)
            yield event
            if problem is not None:
                yield Note("not recorded", problem)
    finally:
        writer.close()
        if isinstance(events, Generator):
            events.close()


class _Writer:
    """Appends records to a file, until that fails once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._goes_on = False
        self._broken = False

    def write(self, event: Event) -> str | None:
        """A sentence when writing has just become impossible."""
        if self._broken:
            return None
        try:
            if self._file is None:
                self._file = self._opened()
            if not (self._goes_on and isinstance(event, Started)):
                _write(self._file, *_to_record(event))
        except OSError as error:
            self._broken = True
            return f"this run is not recorded: {self._path.parent}: {error.strerror or error}"
        return None

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written was said before
                self._file.close()

    def _opened(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = _whole_length(self._path)
        self._goes_on = kept > 0
        file = self._path.open("r+b" if kept else "wb")
        file.seek(kept)
        file.truncate()
        if not kept:
            file.write(MAGIC)
        return file


def replayed(path: Path, registry: Registry) -> Iterator[Event]:
    """The events of a recording, in order, states and all.

    A recording that broke off ends early. A picture that is gone from disk becomes a Note.

    Raises:
        FileError: no recording, or one by another version.
    """
    for head, body, step in _followed(path, registry):
        yield step or _from_record(head, body)


def progress_of(path: Path, registry: Registry) -> Progress:
    """Where a recorded run stands: what to hand `generate` to go on from there.

    Raises:
        FileError: as `replayed`.
    """
    done: set[int] = set()
    last: Step | None = None
    for head, _, step in _followed(path, registry):
        last = step or last
        if head["event"] == "image":
            done.add(head["index"])
    if last is None or done >= set(last.images):
        return Progress(frozenset(done))
    return Progress(frozenset(done), last.images, last.state, last.pass_index)


def step_at(path: Path, registry: Registry, image: int, index: int, pass_index: int = 0) -> Step:
    """The recorded step after `index` intervals of an image.

    Raises:
        FileError: it is not in the recording.
    """
    for _, _, step in _followed(path, registry):
        if (
            step
            and image in step.images
            and (step.pass_index, step.state.index) == (pass_index, index)
        ):
            return step
    raise FileError(f"step {index} of image {image} is not in the recording {path.name}")


def _followed(path: Path, registry: Registry) -> Iterator[tuple[Json, bytes, Step | None]]:
    """Every record, with the step computed again where it is one."""
    rebuild: _Rebuild | None = None
    for head, body in _records(path):
        if head["event"] == "started":
            rebuild = _Rebuild(GenerationRequest.from_json(head["request"]), registry)
        if head["event"] == "step" and rebuild is None:
            raise FileError(f"{path.name} has steps before its start")
        is_step = rebuild is not None and head["event"] == "step"
        yield head, body, rebuild.step(head, body) if rebuild and is_step else None


@dataclass
class _Rebuild:
    """Computes states again from recorded estimates."""

    request: GenerationRequest
    registry: Registry
    state: State | None = None
    sigmas: Tensor | None = None
    origin: Origin = field(default_factory=Origin)
    noise: SeededNoise | None = None
    sampler: Sampler | None = None

    def step(self, head: Json, body: bytes) -> Step:
        images = tuple(head["images"])
        tensors = _tensors(head["shapes"], body)
        begins = "sigmas" in head
        count = len(tensors) if begins else head.get("evaluations", len(tensors))
        estimates, others = tensors[:count], tensors[count:]
        if begins:
            self._begin(images, head, tensors)
            estimates = ()
        else:
            self._advance(estimates)
        assert self.state is not None and self.sigmas is not None
        assert self.state.index == head["index"]
        return Step(
            images=images,
            pass_index=head["pass_index"],
            sigmas=tuple(self.sigmas.tolist()),
            sigma=head["sigma"],
            timestep=head["timestep"],
            state=self.state,
            seconds=head["seconds"],
            estimates=estimates,
            origin=self.origin,
            begins=begins,
            probes=_probes(head.get("probes", {}), others),
        )

    def _begin(self, images: tuple[int, ...], head: Json, given: tuple[Tensor, ...]) -> None:
        request = passes(self.request)[head["pass_index"]].request
        assert request.height is not None
        self.sigmas = torch.tensor(head["sigmas"], dtype=torch.float32)
        whole = tuple(head["whole"] if "whole" in head else head["sigmas"])
        intervals = head.get("intervals", len(self.sigmas) - 1)
        self.origin = Origin(whole, intervals, not given, request.sampler)
        channels, rows, columns = head["latent_shape"]
        sources = image_seeds(request, images, request.height // rows)
        self.noise = SeededNoise(sources, (channels, rows, columns), torch.tensor(whole))
        self.sampler = sampler_of(request, self.registry, self.origin.intervals)
        if given:
            has_denoised = head["has_denoised"]
            self.state = State(
                index=head["index"],
                latents=given[0],
                denoised=given[1] if has_denoised else None,
                memory=given[1 + has_denoised :],
                draws=head["draws"],
            )
        else:
            entry = self.registry.sampler(request.sampler)
            self.state = State(0, entry.initial(self.noise.draw(0), self.sigmas))

    def _advance(self, estimates: tuple[Tensor, ...]) -> None:
        assert self.state is not None and self.sigmas is not None and self.noise is not None
        assert self.sampler is not None
        answers = iter(estimates)
        self.state = self.sampler.step(
            lambda x, sigma: next(answers), self.state, self.sigmas, self.noise
        )


def _probes(counts: Json, tensors: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, ...]]:
    """What was kept beside the estimates, by name."""
    rest = iter(tensors)
    return {name: tuple(next(rest) for _ in range(count)) for name, count in counts.items()}


def _to_record(event: Event) -> tuple[Json, bytes]:
    """(head, body) of an event."""
    match event:
        case Step():
            return _step_record(event)
        case Started(request):
            return {"event": "started", "request": request.to_json()}, b""
        case Loaded():
            head: Json = {
                "checkpoint": event.checkpoint,
                "family": event.family,
                "fingerprint": event.fingerprint,
                "device": event.device,
                "dtype": event.dtype,
                "kernels": event.kernels,
                "shapes": [list(event.preview.shape)],
            }
            return {"event": "loaded", **head}, _bytes(event.preview)
        case ImageDone():
            path = None if event.path is None else str(event.path)
            head = {
                "index": event.index,
                "request": event.request.to_json(),
                "finished": event.finished,
                "path": path,
            }
            return {"event": "image", **head}, b"" if path else _png(event.image)
        case Decoding(images):
            return {"event": "decoding", "images": list(images)}, b""
        case Loading():
            return {"event": "loading", **_plain(event)}, b""
        case Identified():
            return {"event": "identified", **_plain(event)}, b""
        case Note():
            return {"event": "note", **_plain(event)}, b""
        case Finished():
            return {"event": "finished", **_plain(event)}, b""
    raise TypeError(f"no record for {event!r}")


def _step_record(step: Step) -> tuple[Json, bytes]:
    kept = [t for of_name in step.probes.values() for t in of_name]
    tensors = [*step.estimates, *kept]
    head: Json = {
        "event": "step",
        "images": list(step.images),
        "pass_index": step.pass_index,
        "index": step.state.index,
        "sigma": step.sigma,
        "timestep": step.timestep,
        "seconds": step.seconds,
    }
    if step.probes:
        head["evaluations"] = len(step.estimates)
        head["probes"] = {name: len(of_name) for name, of_name in step.probes.items()}
    if step.begins:
        state = step.state
        head["latent_shape"] = list(state.latents.shape[1:])
        head["sigmas"] = list(step.sigmas)
        head["whole"] = list(step.origin.whole)
        head["intervals"] = step.origin.intervals
        head["has_denoised"] = state.denoised is not None
        head["draws"] = state.draws
        if not step.origin.from_noise:
            estimate = () if state.denoised is None else (state.denoised,)
            tensors = [state.latents, *estimate, *state.memory]
    head["shapes"] = [list(t.shape) for t in tensors]
    return head, b"".join(_bytes(t) for t in tensors)


def _from_record(head: Json, body: bytes) -> Event:
    match kind := head.pop("event"):
        case "started":
            return Started(GenerationRequest.from_json(head["request"]))
        case "loaded":
            (preview,) = _tensors(head.pop("shapes"), body)
            return Loaded(**head, preview=preview)
        case "image":
            return _image(head, body)
        case "decoding":
            return Decoding(tuple(head["images"]))
        case "loading":
            return read_json(Loading, head, "")
        case "identified":
            return read_json(Identified, head, "")
        case "note":
            return read_json(Note, head, "")
        case "finished":
            return Finished(**head)
    raise FileError(f"a recording with the unknown event {kind!r}; a newer version wrote it")


def _image(head: Json, body: bytes) -> Event:
    path = None if head["path"] is None else Path(head["path"])
    try:
        image = open_picture(path or body)
    except FileError as error:
        return Note("picture gone", f"image {head['index']} can't be shown: {error}")
    request = GenerationRequest.from_json(head["request"])
    return ImageDone(head["index"], image, request, head["finished"], path)


def _plain(event: Any) -> Json:
    return as_json(event)  # type: ignore[return-value]


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().float().contiguous().numpy().tobytes()


def _tensors(shapes: list[list[int]], body: bytes) -> tuple[Tensor, ...]:
    if not shapes:
        return ()
    flat = torch.frombuffer(bytearray(body), dtype=torch.float32)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return tuple(t.reshape(s) for t, s in zip(flat.split(sizes), shapes, strict=True))


def _write(file: BinaryIO, head: Json, body: bytes) -> None:
    """One record, flushed to the operating system, so a killed process loses none before it."""
    text = json.dumps(head).encode()
    check = _CHECK.pack(zlib.crc32(body, zlib.crc32(text)))
    file.write(_LENGTHS.pack(len(text), len(body)) + text + body + check)
    file.flush()


def _records(path: Path) -> Iterator[tuple[Json, bytes]]:
    """Every whole record; the first damaged one ends the file.

    Raises:
        FileError: the file is no recording.
    """
    for head, body, _ in _records_and_ends(path):
        yield head, body


def _records_and_ends(path: Path) -> Iterator[tuple[Json, bytes, int]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileError(f"the recording {path.name} can't be read: {error.strerror}") from error
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise FileError(f"{path.name} is no recording of this version")
        while len(lengths := file.read(_LENGTHS.size)) == _LENGTHS.size:
            head_length, body_length = _LENGTHS.unpack(lengths)
            if head_length + body_length > MAX_RECORD:
                return
            text, body = file.read(head_length), file.read(body_length)
            check = file.read(_CHECK.size)
            if check != _CHECK.pack(zlib.crc32(body, zlib.crc32(text))):
                return
            yield json.loads(text), body, file.tell()


def _whole_length(path: Path) -> int:
    """Bytes of the whole records at the start of a file; 0 where there is nothing to go on with."""
    if not path.exists():
        return 0
    length = 0
    for head, _, end in _records_and_ends(path):
        if head["event"] == "finished":
            break
        length = end
    return length
