"""A saved picture is whole or not there, whatever fails on the way."""

import errno
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import NotFinite, RequestError
from core.events import Event, Finished, ImageDone, Loaded, Note, Started, Step
from core.images.capsule import read_picture
from core.images.infotext import Hashes, read
from core.images.pixels import open_picture
from core.images.save import Disk, SaveOptions, saved, write_new
from core.registry import built_in
from core.request import GenerationRequest, StartImage
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


def run(folder: Path, *events: Event, **options) -> list[Event]:
    def now() -> datetime:
        return datetime(2026, 7, 9, 13, 5)

    return list(saved(iter(events), folder, built_in(), now=now, **options))


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


@pytest.mark.parametrize(("format", "ending"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_every_format_carries_all_that_made_it(tmp_path, format, ending):
    def hashes(request: GenerationRequest) -> Hashes:
        return Hashes(loras={"fur": "1a2b3c4d5e6f77"}, lora_files={"fur": "ab" * 32})

    options = SaveOptions(format=format, quality=95)
    _, picture = run(tmp_path, LOADED, done(0), options=options, hashes=hashes)
    assert picture.path == tmp_path / DAY / f"00000-7.{ending}"
    found = read_picture(picture.path)
    assert found.maker == "ours" and found.capsule.request == REQUEST
    assert found.capsule.hashes == {"lora:fur": "ab" * 32}
    assert read(found.parameters).fields["Lora hashes"] == "fur: 1a2b3c4d5e6f"
    seen = np.array(open_picture(picture.path)).astype(int)
    distance = np.abs(seen - np.array(noise(7)).astype(int))
    assert distance.mean() < 60 and (format != "png" or distance.max() == 0)


def test_a_lossless_webp_keeps_every_pixel(tmp_path):
    options = SaveOptions(format="webp", lossless=True)
    _, picture = run(tmp_path, LOADED, done(0), options=options)
    assert np.array_equal(np.array(open_picture(picture.path)), np.array(noise(7)))


def test_a_text_too_long_for_a_jpeg_is_saved_as_png_and_said(tmp_path):
    long = replace(done(0), request=replace(REQUEST, prompt="fox " * 20_000))
    _, picture, note = run(tmp_path, LOADED, long, options=SaveOptions(format="jpeg"))
    assert picture.path.suffix == ".png" and note.kind == "saved as png"
    assert read_picture(picture.path).capsule.request.prompt == "fox " * 20_000


def test_patterns_name_folders_and_files(tmp_path):
    options = SaveOptions(pattern="[model_name]-[sampler]-[batch_number]", folders="[date]/[seed]")
    first = replace(REQUEST, images=2)
    events = run(tmp_path, Started(first), LOADED, done(0), done(1, 8), options=options)
    top = tmp_path / "txt2img-images" / "2026-07-09"
    assert [e.path for e in events[2:]] == [
        top / "7" / "00000-fox-Euler a-1.png",
        top / "8" / "00000-fox-Euler a-2.png",
    ]


def test_a_hostile_prompt_stays_in_its_folder(tmp_path):
    evil = replace(done(0), request=replace(REQUEST, prompt="../../../evil\0/.\\..\\x"))
    options = SaveOptions(pattern="[prompt]", folders="[prompt]/../..")
    _, picture = run(tmp_path, LOADED, evil, options=options)
    assert picture.path.resolve().is_relative_to(tmp_path / "txt2img-images")


def test_pictures_from_pictures_have_a_folder_of_their_own(tmp_path):
    request = replace(REQUEST, start=StartImage(picture="ab" * 32))
    _, picture = run(tmp_path, LOADED, replace(done(0), request=request))
    assert picture.path.parent == tmp_path / "img2img-images" / "2026-07-09"


def test_without_numbers_a_name_that_is_taken_gets_one_behind(tmp_path):
    options = SaveOptions(numbered=False)
    events = run(tmp_path, LOADED, done(0), done(1), done(2), options=options)
    assert [e.path.name for e in events[1:]] == ["7.png", "7-1.png", "7-2.png"]
    nameless = run(tmp_path, done(0), options=SaveOptions(numbered=False, pattern="[none]"))
    assert nameless[0].path.name == "00001.png"


@pytest.mark.parametrize("options", [{"format": "gif"}, {"quality": 0}, {"quality": 101}])
def test_formats_and_qualities_there_are_not_are_refused(options):
    with pytest.raises(RequestError, match=r"format|quality"):
        SaveOptions(**options)


def test_many_writers_at_once_lose_nothing(tmp_path):
    def write(seed: int) -> Path:
        return write_new(tmp_path, "x", ".png", str(seed).encode(), Disk(), numbered=seed % 2 == 0)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(write, range(64)))
    assert len(set(paths)) == 64
    assert [int(path.read_text()) for path in paths] == list(range(64))
    assert sorted(tmp_path.iterdir()) == sorted(paths)


class NthFails(Disk):
    """Its n-th call fails, whichever it is; writes leave half of the file behind."""

    def __init__(self, n: int) -> None:
        self.left = n

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.EIO, "I/O error")

    def make_folder(self, folder: Path) -> None:
        self._count()
        super().make_folder(folder)

    def names(self, folder: Path) -> list[str]:
        self._count()
        return super().names(folder)

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        self._count()
        path.unlink()
        super().write(path, data)

    def place(self, temporary: Path, path: Path) -> None:
        self._count()
        super().place(temporary, path)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._count()

    def sync_folder(self, folder: Path) -> None:
        self._count()
        super().sync_folder(folder)


@pytest.mark.parametrize("n", range(1, 3 * len(STEPS) + 2))
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_whichever_call_fails_every_file_is_whole_and_every_loss_is_said(tmp_path, format, n):
    disk = NthFails(n)
    events = run(
        tmp_path, *(done(i, i) for i in range(3)), disk=disk, options=SaveOptions(format=format)
    )
    pictures = [event for event in events if isinstance(event, ImageDone)]
    notes = [event for event in events if isinstance(event, Note)]
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {picture.path for picture in pictures if picture.path is not None}
    assert len(notes) == 3 - len(there) <= 1
    for picture in pictures:
        if picture.path is not None:
            assert open_picture(picture.path).size == picture.image.size
            assert f"Seed: {picture.request.seed}," in read_picture(picture.path).parameters
