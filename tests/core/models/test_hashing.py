"""What a checkpoint's file is: found out beside the run, and right before a picture is written."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.engine.answers import exhausted
from core.errors import Cancelled, FileError
from core.events import Decoding, Event, Identified, ImageDone, Loaded, Loading, Step, loaded_in
from core.generate import House, generate
from core.images.capsule import read_any
from core.images.save import saved
from core.models.catalog import Catalog
from core.models.hashing import Hashing
from core.models.remembered import HashKind
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import Settings
from core.trace import recorded, replayed
from tests.tiny import sd1_tensors, write_sd1

ASKED = GenerationRequest(prompt="a fox", checkpoint="tiny", seed=1, width=32, height=32, steps=3)


class Slow(Catalog):
    """Hashes only when it is let."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.may_end = threading.Event()

    def hashed(
        self,
        path: Path,
        kind: HashKind = "file",
        goes_on: Callable[[int], bool] = lambda done: True,
    ) -> str:
        while not self.may_end.wait(0.01):
            if not goes_on(1):
                raise Cancelled
        return super().hashed(path, kind, goes_on)


@pytest.fixture
def path(settings: Settings) -> Path:
    return write_sd1(settings.models_dir / "Stable-diffusion/tiny.safetensors")


def house_of(catalog: Catalog, settings: Settings) -> House:
    return House(built_in(), catalog, Store(settings, catalog))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_walk_does_not_wait_for_the_hash_and_the_picture_does(
    settings: Settings, path: Path
) -> None:
    catalog = Slow(settings)
    events = generate(ASKED, house_of(catalog, settings))
    heard: list[Event] = []
    for event in events:
        heard.append(event)
        if isinstance(event, Loading) and event.part == "fingerprint":
            assert sum(isinstance(e, Step) for e in heard) == 1 + ASKED.steps
            catalog.may_end.set()
    kinds = [type(e) for e in heard if isinstance(e, Loaded | Identified | Decoding | ImageDone)]
    assert kinds == [Loaded, Identified, Decoding, ImageDone]
    assert any(isinstance(e, Loading) and e.part == "fingerprint" for e in heard)
    (loaded,) = [e for e in heard if isinstance(e, Loaded)]
    assert loaded.fingerprint == ""
    told = loaded_in(heard)
    assert told is not None and told.fingerprint == sha256(path)


def test_a_hash_that_is_known_is_told_at_once(settings: Settings, path: Path) -> None:
    catalog = Catalog(settings)
    house = house_of(catalog, settings)
    digest = catalog.hashed(path)
    for _ in range(2):
        events = list(generate(ASKED, house))
        assert [e.fingerprint for e in events if isinstance(e, Loaded)] == [digest]
        assert not any(isinstance(e, Identified) for e in events)


def test_a_first_run_writes_the_right_hash_into_picture_and_recording(
    settings: Settings, path: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "run.trace"
    registry = built_in()
    events: Iterator[Event] = generate(ASKED, house_of(Catalog(settings), settings))
    events = recorded(saved(events, settings.outputs_dir, registry), trace)
    (done,) = [event for event in events if isinstance(event, ImageDone)]
    assert done.path is not None
    capsule = read_any(done.path, registry).capsule
    assert capsule is not None and capsule.fingerprint == sha256(path)
    told = loaded_in(replayed(trace, registry))
    assert told is not None and told.fingerprint == sha256(path)


def test_a_run_that_is_given_up_stops_hashing(settings: Settings, path: Path) -> None:
    catalog = Slow(settings)
    events = generate(ASKED, house_of(catalog, settings))
    for event in events:
        if isinstance(event, Loading) and event.part == "fingerprint":
            break
    assert _hashing()
    events.close()  # type: ignore[attr-defined]
    assert not _hashing()
    assert catalog.hash_of(path) is None


def test_a_file_that_was_replaced_meanwhile_is_not_named_by_the_new_ones_hash(
    settings: Settings, path: Path
) -> None:
    catalog = Slow(settings)
    heard = []
    with pytest.raises(FileError, match=r"tiny\.safetensors was changed"):
        for event in generate(ASKED, house_of(catalog, settings)):
            heard.append(event)
            if isinstance(event, Step) and event.state.index == 1:
                other = sd1_tensors()
                other["model.diffusion_model.out.2.bias"] += 1
                write_sd1(path, other)
                later = time.time() + 5
                os.utime(path, (later, later))
                catalog.may_end.set()
    assert not any(isinstance(e, Identified | ImageDone) for e in heard)


def test_two_checkpoints_are_each_told_once(settings: Settings, path: Path) -> None:
    other = write_sd1(path.with_name("other.safetensors"))
    catalog = Catalog(settings)
    store = Store(settings, catalog)
    models = [exhausted(store.loaded(name)) for name in ("tiny", "other")]
    with Hashing(catalog) as hashing:
        assert [hashing.of(model) for model in models] == ["", ""]
        told = [event for event in hashing.rest() if isinstance(event, Identified)]
        assert told == [Identified("tiny", sha256(path)), Identified("other", sha256(other))]
        assert list(hashing.rest()) == []
        assert hashing.of(models[0]) == sha256(path)


def test_the_model_a_run_began_with_is_told_by_whatever_event_knows_it() -> None:
    def loaded(name: str, fingerprint: str) -> Loaded:
        return Loaded(name, "sd1", fingerprint, "cpu", "float32", None)  # type: ignore[arg-type]

    began, refiner = loaded("one", ""), loaded("refiner", "cc")
    assert loaded_in([]) is None
    assert loaded_in([began, refiner]) == began
    assert loaded_in([began, refiner, Identified("one", "aa")]) == loaded("one", "aa")
    assert loaded_in([began, loaded("one", "aa")]) == loaded("one", "aa")  # one that was resumed
    assert loaded_in([loaded("one", "aa"), Identified("one", "bb")]) == loaded("one", "aa")


def _hashing() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("fingerprint")]
