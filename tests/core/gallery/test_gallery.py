"""The index finds what was saved, follows the files, and loses nothing on the way to the bin."""

import io
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import FileError, RequestError
from core.events import ImageDone
from core.gallery import Gallery, Scan, indexed, tables
from core.gallery.thumbs import Thumbs
from core.images.capsule import encoded
from core.registry import built_in
from core.request import GenerationRequest, StartImage

ROOT = Path(__file__).parents[3]
FOX = GenerationRequest(prompt="a red fox in snow", negative_prompt="fog", seed=7, checkpoint="sd")
TEXT = "an owl at night\nNegative prompt: day\nSteps: 9, Sampler: Euler, Seed: 5, Model: other"
DOT = Image.new("RGB", (64, 32), "teal")


@pytest.fixture
def gallery(tmp_path):
    opened = Gallery(tmp_path / "data" / "gallery.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def outputs(tmp_path):
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


def file(path: Path, text: str = TEXT, made: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(DOT, "PNG", text))
    if made is not None:
        os.utime(path, (made, made))
    return path


def put(gallery: Gallery, folder: Path, count: int, **changes):
    """Pictures made a second apart, the first one first."""
    return [
        gallery.add(
            file(folder / f"{number:05}.png"),
            replace(FOX, seed=number, **changes),
            (64, 32),
            made=1000.0 + number,
        )
        for number in range(count)
    ]


def names(page) -> list[str]:
    return [picture.path.name for picture in page.pictures]


def test_what_was_added_is_found_with_all_that_is_known(gallery, outputs):
    request = replace(FOX, start=StartImage(picture="ab" * 32))
    path = file(outputs / "1.png")
    added = gallery.add(
        path, request, (64, 32), checkpoint="sd-v1", job="j1", image=2, owner="me", made=5.5
    )
    (found,) = gallery.page("me").pictures
    assert found == added == gallery.picture(added.id, "me")
    assert (found.path, found.made, found.width, found.height) == (path, 5.5, 64, 32)
    assert (found.prompt, found.negative_prompt, found.seed) == ("a red fox in snow", "fog", 7)
    assert (found.checkpoint, found.job, found.image) == ("sd-v1", "j1", 2)
    assert found.parent == "ab" * 32 and not found.starred and found.deleted is None


def test_a_file_that_is_not_there_is_not_added(gallery, outputs):
    with pytest.raises(FileError, match="gallery"):
        gallery.add(outputs / "nothing.png", FOX, (1, 1))


def test_owners_see_their_own_and_the_machine_s_user_all(gallery, outputs):
    for owner in ("me", "you"):
        gallery.add(file(outputs / f"{owner}.png"), FOX, (64, 32), owner=owner)
    (mine,) = gallery.page("me").pictures
    assert mine.path.name == "me.png" and len(gallery.page().pictures) == 2
    assert (gallery.count("me"), gallery.count()) == (1, 2)
    with pytest.raises(RequestError, match="no picture"):
        gallery.picture(mine.id, "you")
    with pytest.raises(RequestError, match="no picture"):
        gallery.bin([mine.id], "you")
    for id in (0, -1, 2**63, 10**4000):
        with pytest.raises(RequestError, match="no picture"):
            gallery.bin([id])
        assert gallery.star([id]) == 0
    assert gallery.star([mine.id], owner="you") == 0
    assert gallery.empty_bin("you") == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 9))
def test_pages_hold_every_picture_once_newest_first(tmp_path_factory, times, limit):
    folder = tmp_path_factory.mktemp("pages")
    gallery = Gallery(folder / "index")
    for number, made in enumerate(times):
        path = folder / f"{number}.png"
        path.touch()
        gallery.add(path, FOX, (1, 1), made=float(made))
    found, cursor = [], None
    while True:
        page = gallery.page(before=cursor, limit=limit)
        found += page.pictures
        cursor = page.more
        if cursor is None:
            break
        assert len(page.pictures) == limit
    assert len({picture.id for picture in found}) == len(found) == len(times)
    assert [p.id for p in found] == [p.id for p in sorted(found, key=lambda p: (-p.made, -p.id))]
    gallery.close()


def test_a_picture_made_meanwhile_moves_no_page(gallery, outputs):
    put(gallery, outputs, 6)
    first = gallery.page(limit=3)
    gallery.add(file(outputs / "late.png"), FOX, (64, 32), made=9999.0)
    assert names(gallery.page(before=first.more, limit=3)) == [
        "00002.png",
        "00001.png",
        "00000.png",
    ]


@pytest.mark.parametrize("cursor", ["", "x", "1", "1_", "_1", "1_2_3", "nan_1", "1_" + "9" * 40])
def test_a_cursor_that_is_none_is_named(gallery, cursor):
    with pytest.raises(RequestError, match="no place"):
        gallery.page(before=cursor)
    with pytest.raises(RequestError, match="1 to 500"):
        gallery.page(limit=0)


@pytest.fixture(params=[True, False], ids=["words indexed", "words looked for"])
def searched(request, tmp_path, outputs, monkeypatch):
    if not request.param:
        monkeypatch.setattr(tables, "_WORDS", ("CREATE VIRTUAL TABLE words USING nonesuch(x)",))
    gallery = Gallery(tmp_path / "searched.sqlite3")
    prompts = ["A red fox, snow", "foxes & hounds", "an owl", "100% owl_eyes", "雪の中の狐", "été"]
    for number, prompt in enumerate(prompts):
        request = replace(FOX, prompt=prompt, checkpoint=f"model-{number % 2}")
        gallery.add(file(outputs / f"{number}.png"), request, (64, 32), made=float(number))
    yield gallery
    gallery.close()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("fox", "10"),
        ("FOX red", "0"),
        ("snow fox", "0"),
        ("owl", "32"),
        ("100%", "3"),
        ("owl_", "3"),
        ("狐", "4"),
        ("été", "5"),
        ("fox owl", ""),
        ("fog", ""),
        ('"', ""),
        ("fox* OR owl", ""),
        ("   ", "543210"),
    ],
)
def test_words_are_found_in_prompts(searched, words, found):
    assert "".join(name[0] for name in names(searched.page(words=words))) == found


@given(st.text(max_size=40), st.text(max_size=9))
@settings(max_examples=60, deadline=None)
def test_any_words_can_be_asked_for(tmp_path_factory, words, model):
    gallery = Gallery(tmp_path_factory.mktemp("any") / "index")
    assert gallery.page(words=words, model=model).pictures == ()
    gallery.close()


def test_conditions_hold_together(searched):
    assert names(searched.page(model="model-1")) == ["5.png", "3.png", "1.png"]
    assert names(searched.page(model="MODEL-1", words="owl")) == ["3.png"]
    assert names(searched.page(since=1.0, until=3.0)) == ["2.png", "1.png"]
    searched.star([p.id for p in searched.page(words="owl").pictures])
    assert names(searched.page(starred=True, until=3.0)) == ["2.png"]
    searched.star([searched.page(starred=True).pictures[0].id], starred=False)
    assert names(searched.page(starred=True)) == ["2.png"]
    assert searched.models() == ["model-0", "model-1"]
    assert searched.page(model="_").pictures == ()


def test_the_bin_holds_pictures_until_it_is_emptied(gallery, outputs):
    first, second = put(gallery, outputs, 2)
    (binned,) = gallery.bin([first.id])
    assert not first.path.exists() and binned.file.exists() and binned.deleted is not None
    assert binned.file.parent == outputs / ".bin"
    assert names(gallery.page()) == ["00001.png"]
    assert names(gallery.page(binned=True)) == ["00000.png"]
    assert gallery.page(words="fox", binned=True).pictures == (binned,)
    assert gallery.restore([first.id]) == [first]
    assert first.path.exists() and not (outputs / ".bin").exists()
    gallery.bin([first.id, second.id])
    assert gallery.empty_bin(before=0.0) == 0
    assert gallery.empty_bin() == 2
    assert list(outputs.iterdir()) == [] and gallery.page(binned=True).pictures == ()


def test_a_name_given_again_while_the_first_is_in_the_bin_costs_neither(gallery, outputs):
    (first,) = put(gallery, outputs, 1)
    gallery.bin([first.id])
    (second,) = put(gallery, outputs, 1)
    assert second.id != first.id
    (back,) = gallery.restore([first.id])
    assert back.path.name == "00000-1.png" and back.path.exists() and second.path.exists()
    assert {p.id for p in gallery.page().pictures} == {first.id, second.id}


def test_a_file_that_can_t_be_moved_stays_where_it_is(gallery, outputs):
    (picture,) = put(gallery, outputs, 1)
    (outputs / ".bin").write_text("in the way")
    with pytest.raises(FileError, match="can't be moved"):
        gallery.bin([picture.id])
    assert picture.path.exists() and gallery.page().pictures == (picture,)


def test_after_a_death_between_file_and_row_the_next_scan_mends(gallery, outputs):
    (picture,) = put(gallery, outputs, 1)
    binned = replace(picture, deleted=1.0).file
    binned.parent.mkdir()
    picture.path.rename(binned)
    assert gallery.scan(outputs, built_in()) == Scan()
    assert gallery.page().pictures == ()
    assert gallery.restore([picture.id]) == [picture] and picture.path.exists()


def test_a_scan_takes_in_what_others_made(gallery, outputs):
    file(outputs / "txt2img-images" / "2026-01-01" / "00000-5.png", made=50.0)
    (outputs / "photo.JPG").write_bytes(jpeg())
    (outputs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
    (outputs / "notes.txt").write_text("x")
    file(outputs / ".bin" / "3-x.png")
    file(outputs / ".hidden.png")
    outside = file(outputs.parent / "outside.png")
    (outputs / "link.png").symlink_to(outside)
    (outputs / "loop").symlink_to(outputs)
    assert gallery.scan(outputs, built_in()) == Scan(added=2, unreadable=1)
    photo, owl = gallery.page().pictures
    assert (photo.prompt, photo.checkpoint, photo.seed) == ("", "", None)
    assert (owl.prompt, owl.negative_prompt, owl.checkpoint) == ("an owl at night", "day", "other")
    assert (owl.seed, owl.made, owl.width, owl.height) == (5, 50.0, 64, 32)
    assert (owl.owner, owl.job) == ("local", "")


def jpeg() -> bytes:
    stream = io.BytesIO()
    DOT.save(stream, "JPEG")
    return stream.getvalue()


def test_a_scan_follows_what_changed_and_vanished(gallery, outputs):
    one, two = file(outputs / "1.png"), file(outputs / "2.png")
    assert gallery.scan(outputs, built_in()) == Scan(added=2)
    gallery.star([picture.id for picture in gallery.page().pictures])
    assert gallery.scan(outputs, built_in()) == Scan()
    file(one, "a whale\nSteps: 9, Sampler: Euler, Seed: 5")
    two.unlink()
    assert gallery.scan(outputs, built_in()) == Scan(changed=1, dropped=1)
    (found,) = gallery.page(words="whale").pictures
    assert found.starred and gallery.page(words="owl").pictures == ()


def test_a_scan_of_one_folder_drops_nothing_of_another(gallery, outputs):
    file(outputs / "a" / "1.png")
    file(outputs / "ab" / "1.png")
    gallery.scan(outputs, built_in())
    (outputs / "ab" / "1.png").unlink()
    assert gallery.scan(outputs / "a", built_in()) == Scan()
    assert gallery.count() == 2


def test_a_scan_can_be_stopped_and_goes_on_later(gallery, outputs):
    for number in range(5):
        file(outputs / f"{number}.png")
    asked = iter([False, False, True])
    assert gallery.scan(outputs, built_in(), stop=lambda: next(asked)) == Scan(added=2)
    thread = gallery.scan_in_background(outputs, built_in())
    thread.join(timeout=30)
    assert gallery.count() == 5


def test_what_a_scan_found_first_gets_its_owner_when_it_is_added(gallery, outputs):
    path = file(outputs / "1.png")
    gallery.scan(outputs, built_in())
    added = gallery.add(path, FOX, (64, 32), owner="me", job="j")
    assert gallery.page().pictures == (added,) and added.owner == "me" and added.job == "j"


def test_saved_pictures_of_a_run_are_put_in_as_they_pass(gallery, outputs):
    path = file(outputs / "1.png")
    events = [ImageDone(0, DOT, FOX, path=path), ImageDone(1, DOT, FOX)]
    events.append(ImageDone(2, DOT, FOX, path=outputs / "vanished.png"))
    assert list(indexed(iter(events), gallery, job="j", owner="me")) == events
    (found,) = gallery.page("me").pictures
    assert (found.path, found.job, found.image) == (path, "j", 0)


def test_closing_the_reader_closes_what_is_inside(gallery):
    closed = []

    def events():
        try:
            yield ImageDone(0, DOT, FOX)
        finally:
            closed.append(True)

    walk = indexed(events(), gallery)
    next(walk)
    walk.close()
    assert closed == [True]


def test_the_index_is_there_after_a_restart_and_words_too(tmp_path, outputs, monkeypatch):
    path = tmp_path / "index"
    with monkeypatch.context() as without:
        without.setattr(tables, "_WORDS", ("CREATE VIRTUAL TABLE words USING nonesuch(x)",))
        first = Gallery(path)
        put(first, outputs, 2)
        first.close()
    second = Gallery(path)
    assert names(second.page(words="fox")) == ["00001.png", "00000.png"]
    second.close()


def test_a_folder_that_can_t_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="can't be written"):
        Gallery(tmp_path / "file" / "index")
    (tmp_path / "index").write_bytes(b"no SQLite at all" * 100)
    with pytest.raises(FileError, match="can't be written"):
        Gallery(tmp_path / "index")


def test_many_threads_at_once_see_whole_rows(gallery, outputs):
    paths = [file(outputs / f"{number}.png") for number in range(40)]
    failures = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                for picture in gallery.page(limit=100, words="fox").pictures:
                    assert picture.prompt == FOX.prompt
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda path: gallery.add(path, FOX, (64, 32)), paths))
        list(pool.map(lambda picture: gallery.star([picture.id]), added))
        list(pool.map(lambda picture: gallery.bin([picture.id]), added[::2]))
    done.set()
    for reader in readers:
        reader.join()
    assert failures == [] and len(gallery.page(starred=True, limit=100).pictures) == 20


def test_thumbnails_are_small_kept_and_made_anew_for_a_new_file(gallery, outputs, tmp_path):
    (picture,) = put(gallery, outputs, 1)
    data = gallery.thumbnail(picture, 16)
    small = Image.open(io.BytesIO(data), formats=("WEBP",))
    assert small.size == (16, 8)
    (kept,) = [p for p in (tmp_path / "data" / "thumbs").rglob("*") if p.is_file()]
    assert kept.read_bytes() == data
    kept.write_bytes(b"from the cache")
    assert gallery.thumbnail(picture, 16) == b"from the cache"
    Image.new("RGB", (32, 64), "red").save(picture.path)
    again = Image.open(io.BytesIO(gallery.thumbnail(picture, 16)), formats=("WEBP",))
    assert again.size == (8, 16)
    (binned,) = gallery.bin([picture.id])
    assert gallery.thumbnail(binned, 16)
    with pytest.raises(FileError, match="no longer there"):
        gallery.thumbnail(picture, 16)
    with pytest.raises(RequestError, match="pixels"):
        gallery.thumbnail(binned, 5000)


def test_thumbnails_stay_within_their_quota(tmp_path):
    thumbs = Thumbs(tmp_path / "thumbs", quota=0)
    pictures = [file(tmp_path / f"{number}.png") for number in range(3)]
    for path in pictures:
        thumbs.of(path, 16)
    assert len([p for p in (tmp_path / "thumbs").rglob("*") if p.is_file()]) == 2
    thumbs.tidy()
    assert [p for p in (tmp_path / "thumbs").rglob("*") if p.is_file()] == []


def test_ten_thousand_pictures_are_paged_and_searched_at_once(tmp_path):
    gallery = Gallery(tmp_path / "index")
    fill(tmp_path / "index", 10_000)
    began = time.perf_counter()
    first = gallery.page("me", limit=60)
    deep = gallery.page("me", before="4000.0_0", limit=60)
    found = gallery.page("me", words="fox snow7", limit=60)
    starred = gallery.page("me", starred=True, model="model-3", limit=60)
    seconds = time.perf_counter() - began
    assert [len(page.pictures) for page in (first, deep, found)] == [60, 60, 60]
    expected = [n for n in range(9_999, -1, -1) if n % 100 == 3 and n % 7 == 3]
    assert [picture.seed for picture in starred.pictures] == expected
    assert deep.pictures[0].made == 3999.0
    assert all("snow7" in picture.prompt for picture in found.pictures)
    assert seconds < 1.0  # four pages; about 0.03 s alone on one core
    gallery.close()


def fill(path: Path, count: int) -> None:
    """Rows without files, straight into the table."""
    base = sqlite3.connect(path)
    base.executemany(
        "INSERT INTO pictures (path, made, width, height, prompt, negative, checkpoint, seed, job, "
        "image, owner, starred, parent, changed, size) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            (
                *(f"/o/{n}.png", float(n), 512, 512, f"a fox {n} in snow{n % 90}, " + "word " * 40),
                *("fog", f"model-{n % 7}", n, "j", 0, "me", n % 100 == 3, "", 0, 0),
            )
            for n in range(count)
        ),
    )
    base.commit()
    base.close()


def test_the_index_needs_no_torch(tmp_path):
    script = (
        "import sys; from pathlib import Path; from core.gallery import Gallery; "
        f"Gallery(Path({str(tmp_path / 'index')!r})).page(words='fox'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
