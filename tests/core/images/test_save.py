"""A saved picture is whole or not there, whatever fails on the way."""

import errno
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import NotFinite
from core.events import Event, Finished, ImageDone, Loaded, Note, Started, Step
from core.images.capsule import read_picture
from core.images.infotext import read
from core.images.pixels import open_picture
from core.images.save import Disk, saved
from core.registry import built_in
from core.request import GenerationRequest
from core.sampling.state import State

DAY = Path("txt2img-images") / "2026-07-09"
REQUEST = GenerationRequest(
    prompt="a fox", seed=7, width=16, height=8, checkpoint="fox", schedule="normal"
)
LOADED = Loaded("fox", "sd1", "12" * 32, "cpu", "float32", torch.zeros(5, 192))
STEPS = ["make_folder", "names", "write", "place", "remove", "sync_folder"]


def noise(seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (8, 16, 3), dtype=np.uint8))


def done(index: int, seed: int = 7, finished: bool = True) -> ImageDone:
    own = GenerationRequest.from_json(REQUEST.to_json() | {"seed": seed})
    return ImageDone(index, noise(seed), own, finished)


def run(folder: Path, *events: Event, disk: Disk | None = None) -> list[Event]:
    def today() -> date:
        return date(2026, 7, 9)

    return list(saved(iter(events), folder, built_in(), disk=disk, today=today))


class FailingDisk(Disk):
    """Fails at one step, before or after half of it is done."""

    def __init__(self, step: str, error: BaseException, late: bool) -> None:
        self._step, self._error, self._late = step, error, late

    def _fails(self, step: str) -> bool:
        return step == self._step

    def make_folder(self, folder: Path) -> None:
        super().make_folder(folder.parent if self._fails("make_folder") else folder)
        self._perhaps("make_folder")

    def names(self, folder: Path) -> list[str]:
        self._perhaps("names")
        return super().names(folder)

    def write(self, path: Path, data: bytes) -> None:
        if self._fails("write") and self._late:
            path.write_bytes(data[: len(data) // 2])
        self._perhaps("write")
        super().write(path, data)

    def place(self, temporary: Path, path: Path) -> None:
        self._perhaps("place")
        super().place(temporary, path)

    def remove(self, path: Path) -> None:
        if self._late:
            super().remove(path)
        self._perhaps("remove")
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self._perhaps("sync_folder")

    def _perhaps(self, step: str) -> None:
        if self._fails(step):
            raise self._error


def test_a_picture_is_saved_with_all_that_made_it(tmp_path):
    state = State(0, torch.zeros(1, 4, 1, 2))
    step = Step((0,), 0, (14.6, 2.0, 0.0), 14.6, 999.0, state, 0.1)
    started, loaded, passed, picture, end = run(
        tmp_path, Started(REQUEST), LOADED, step, done(0), Finished(1.0, 1, 2)
    )
    assert (started, loaded, passed) == (Started(REQUEST), LOADED, step)
    assert isinstance(end, Finished) and isinstance(picture, ImageDone)
    assert picture.path == tmp_path / DAY / "00000-7.png"
    assert np.array_equal(np.array(open_picture(picture.path)), np.array(noise(7)))
    found = read_picture(picture.path)
    assert found.capsule.request == REQUEST and found.capsule.sigmas == (14.6, 2.0, 0.0)
    assert found.capsule.fingerprint == LOADED.fingerprint
    assert set(found.capsule.versions) == {"program", "torch", "pillow"}
    fields = read(found.parameters).fields
    assert (fields["Model"], fields["Model hash"], fields["Seed"]) == ("fox", "1212121212", "7")


def test_a_picture_stopped_on_the_way_is_marked(tmp_path):
    (_, picture) = run(tmp_path, LOADED, done(0, finished=False))
    found = read_picture(picture.path)
    assert not found.capsule.finished
    assert read(found.parameters).fields["Unfinished"] == "True"


def test_numbers_go_on_from_the_highest_there(tmp_path):
    folder = tmp_path / DAY
    folder.mkdir(parents=True)
    for name in ("00041-1.png", "00007-9.png", "notes.txt", "x-99.png", "00050"):
        (folder / name).write_text("")
    events = run(tmp_path, LOADED, done(0, 7), done(1, 8))
    assert [e.path.name for e in events[1:]] == ["00042-7.png", "00043-8.png"]


@pytest.mark.parametrize("links", [True, False])
def test_nothing_is_ever_overwritten(tmp_path, links, monkeypatch):
    class Blind(Disk):
        """Sees no names, as if another program had made them a moment ago."""

        def names(self, folder: Path) -> list[str]:
            return []

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    if not links:
        monkeypatch.setattr("os.link", refused)
    folder = tmp_path / DAY
    folder.mkdir(parents=True)
    (folder / "00000-7.png").write_text("precious")
    (_, picture) = run(tmp_path, LOADED, done(0), disk=Blind())
    assert picture.path.name == "00001-7.png"
    assert (folder / "00000-7.png").read_text() == "precious"
    assert sorted(p.name for p in folder.iterdir()) == ["00000-7.png", "00001-7.png"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_fails_the_folder_is_the_old_or_the_new_one(tmp_path, step, late):
    run(tmp_path, LOADED, done(0, 1))
    disk = FailingDisk(step, OSError(errno.ENOSPC, "No space left on device"), late)
    _, picture, *notes = run(tmp_path, LOADED, done(1, 2), disk=disk)
    assert np.array_equal(np.array(picture.image), np.array(noise(2)))
    seen = sorted(p for p in (tmp_path / DAY).iterdir() if not p.name.startswith("."))
    for path in seen:
        assert np.array_equal(np.array(open_picture(path)), np.array(noise(int(path.stem[6:]))))
    if step in ("remove", "sync_folder"):  # by then it is in its place
        assert picture.path == seen[1] and notes == []
    else:
        assert picture.path is None and len(seen) == 1
        (note,) = notes
        assert isinstance(note, Note) and note.kind == "not saved" and "full" in note.text
    if step != "remove":
        assert [p for p in (tmp_path / DAY).iterdir() if p not in seen] == []


@pytest.mark.parametrize(
    ("code", "word"),
    [(errno.EACCES, "permission"), (errno.EROFS, "permission"), (errno.EIO, "I/O")],
)
def test_the_note_says_why_and_the_next_picture_is_tried(tmp_path, code, word):
    class Once(Disk):
        failed = False

        def write(self, path: Path, data: bytes) -> None:
            if not self.failed:
                self.failed = True
                raise OSError(code, "I/O error")
            super().write(path, data)

    _, first, note, second = run(tmp_path, LOADED, done(0), done(1), disk=Once())
    assert first.path is None and second.path is not None
    assert word in note.text and str(DAY) in note.text


def test_a_folder_that_is_a_file_is_a_note(tmp_path):
    (tmp_path / "txt2img-images").write_text("in the way")
    _, picture, note = run(tmp_path, LOADED, done(0))
    assert picture.path is None and note.kind == "not saved"


def test_what_is_not_the_disk_s_fault_is_raised_and_leaves_nothing(tmp_path):
    for error in (KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)):
            run(tmp_path, LOADED, done(0), disk=FailingDisk("write", error, late=True))
        assert list((tmp_path / DAY).iterdir()) == []


def test_errors_pass_through_and_closing_closes_what_is_inside(tmp_path):
    closed = []

    def events(fails: bool):
        try:
            yield LOADED
            if fails:
                raise NotFinite("at step 3")
            yield done(0)
        finally:
            closed.append(fails)

    with pytest.raises(NotFinite):
        list(saved(events(True), tmp_path, built_in()))
    walk = saved(events(False), tmp_path, built_in())
    next(walk)
    walk.close()
    assert closed == [True, False] and list(tmp_path.iterdir()) == []


def test_without_a_known_model_there_is_a_text_and_no_capsule(tmp_path):
    (picture,) = run(tmp_path, done(0))
    found = read_picture(picture.path)
    assert found.capsule is None and read(found.parameters).fields["Model"] == "fox"
