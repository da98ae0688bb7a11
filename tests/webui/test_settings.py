"""Settings: one file that is whole at any time, and what each person prefers."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import settings as patience
from hypothesis import strategies as some
from starlette.testclient import TestClient

from core.errors import FileError, RequestError, VitrineError
from core.models.catalog import Catalog
from core.settings import default_settings, read_settings
from tests.tiny import write_sd1
from webui import settings, settings_file, stream
from webui.gate import Gate, Rules
from webui.people import People, save_options
from webui.settings_file import BACKUP, NAME, change, settled

BEFORE = '# my own words\ndevice = "cpu"\ntrace_quota_mb = 100  # enough\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / NAME).write_text(BEFORE)
    return tmp_path


def test_what_was_written_is_changed_in_place_and_comments_stay(root: Path) -> None:
    made = change(root, {"device": "cuda:1", "precision": "float32", "trace_quota_mb": None})
    assert made.device == "cuda:1" and made == read_settings(root)
    assert (root / NAME).read_text() == (
        '# my own words\ndevice = "cuda:1"\nprecision = "float32"\n'
    )
    assert (root / BACKUP).read_text() == BEFORE


@patience(deadline=None)  # each time a file is written
@given(some.text(max_size=40).filter(lambda text: "\0" not in text))
def test_every_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("settings")
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    change(root, {"checkpoint": text})
    assert tomllib.loads((root / NAME).read_text(encoding="utf-8")) == {"checkpoint": text}


@pytest.mark.parametrize(
    "values", [{"nonesuch": "x"}, {"precision": "float8"}, {"trace_quota_mb": -1}]
)
def test_a_wrong_value_leaves_the_file_alone(root: Path, values: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        change(root, values)
    assert (root / NAME).read_text() == BEFORE and not (root / BACKUP).exists()


class Failing(settings_file.Disk):
    """Fails its n-th step, before or in the middle of it."""

    def __init__(self, at: int) -> None:
        self.at, self.step = at, 0

    def _due(self) -> bool:
        self.step += 1
        return self.step == self.at

    def write(self, path: Path, data: bytes) -> None:
        if self._due():
            path.write_bytes(data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        super().write(path, data)

    def rename(self, source: Path, target: Path) -> None:
        if self._due():
            raise OSError(5, "Input/output error")
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        if self._due():
            raise OSError(5, "Input/output error")
        super().sync_folder(folder)


@pytest.mark.parametrize("at", range(1, 7))
def test_whichever_step_fails_the_file_is_the_old_or_the_new_one(root: Path, at: int) -> None:
    disk = Failing(at)
    if at < 6:
        with pytest.raises(FileError, match="can't be written"):
            change(root, {"device": "cuda"}, disk)
    else:
        change(root, {"device": "cuda"}, disk)
        assert disk.step == 5  # there are no more steps than these
    text = (root / NAME).read_text()
    assert text in (BEFORE, BEFORE.replace('"cpu"', '"cuda"'))
    if (root / BACKUP).exists():
        assert (root / BACKUP).read_text() == BEFORE
    assert {path.name for path in root.iterdir()} <= {NAME, BACKUP}


@pytest.mark.parametrize("broken", ["device = ", 'nonesuch = "x"', 'precision = "no"'])
def test_a_file_that_cant_be_used_never_blocks_the_start(root: Path, broken: str) -> None:
    (root / NAME).write_text(broken)
    found, notes = settled(root)
    assert found == default_settings(root) and "was moved to" in notes[0]
    assert not (root / NAME).exists()
    change(root, {"device": "cpu"})
    change(root, {"trace_quota_mb": 5})
    (root / NAME).write_text(broken)
    found, notes = settled(root)
    assert found.device == "cpu" and BACKUP in notes[-1]


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    write_sd1(tmp_path / "models/Stable-diffusion/tiny.safetensors")
    own = default_settings(tmp_path)
    app = FastAPI()
    people = People(tmp_path / "people.sqlite3")
    app.include_router(settings.routes(own, Catalog(own), tmp_path, people))

    @app.exception_handler(VitrineError)
    async def sentence(request: Any, error: VitrineError) -> JSONResponse:
        return stream.sentences(error)

    app.add_middleware(Gate, rules=Rules(port=7860))
    return app


def client(app: FastAPI, address: str = "127.0.0.1") -> TestClient:
    return TestClient(app, "http://127.0.0.1:7860", client=(address, 1))


def test_the_machine_is_set_at_the_machine_alone(app: FastAPI, tmp_path: Path) -> None:
    mine, far = client(app), client(app, "10.0.0.7")
    far.get("/api/settings")
    assert far.post("/api/settings/machine", json={"device": "cpu"}).status_code == 403
    told = mine.post("/api/settings/machine", json={"device": "cpu", "checkpoint": "tiny"}).json()
    assert told["holds"] == "after the next start"
    assert read_settings(tmp_path).checkpoint == "tiny"
    entries = {entry["name"]: entry for entry in mine.get("/api/settings").json()["machine"]}
    assert entries["device"]["value"] == "automatic" and entries["device"]["next"] == "cpu"
    assert "tiny" in entries["checkpoint"]["choices"]
    assert str(tmp_path) not in far.get("/api/settings").text


@pytest.mark.parametrize(
    "body",
    [
        {"outputs_dir": "/etc"},
        {"data_dir": "/"},
        {"precision": "float8"},
        {"checkpoints_in_memory": 0},
        {"checkpoints_in_memory": True},
        {"device": "a\nb"},
        [],
    ],
)
def test_folders_and_nonsense_are_not_taken(app: FastAPI, tmp_path: Path, body: Any) -> None:
    assert client(app).post("/api/settings/machine", json=body).status_code == 422
    assert not (tmp_path / NAME).exists()


def test_what_one_prefers_is_ones_own(app: FastAPI) -> None:
    mine, theirs = client(app), client(app)
    mine.get("/api/settings")
    theirs.get("/api/settings")
    assert mine.post("/api/settings/personal", json={"format": "webp"}).status_code == 200
    assert mine.post("/api/settings/personal", json={"quality": 101}).status_code == 422

    def format_of(one: TestClient) -> str:
        fields = one.get("/api/settings").json()["personal"]
        return {field["name"]: field["value"] for field in fields}["format"]

    assert (format_of(mine), format_of(theirs)) == ("webp", "png")


def test_preferences_are_kept_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webui.people.MOST_OWNERS", 3)
    people = People(tmp_path / "people.sqlite3")
    for owner in "abcde":
        people.change(owner, {"format": "jpeg", "other": [1]})
    people.change("e", {"other": None})
    people.close()
    again = People(tmp_path / "people.sqlite3")
    assert [bool(again.of(owner)) for owner in "abcde"] == [False, False, True, True, True]
    assert again.of("e") == {"format": "jpeg"}
    assert save_options(again.of("e")).format == "jpeg"


def test_names_of_pictures_follow_a_pattern_of_ones_own() -> None:
    options = save_options({"pattern": "[prompt_words]", "folders": "[model_name]"})
    assert (options.pattern, options.folders, options.format) == (
        "[prompt_words]",
        "[model_name]",
        "png",
    )
