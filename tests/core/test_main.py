"""A picture from the terminal."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from core.__main__ import inline, main
from core.images.capsule import read_picture
from tests.tiny import write_sd1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sd1(tmp_path / "models/Stable-diffusion/tiny.safetensors")
    return tmp_path


def asked(root: Path, *more: str) -> list[str]:
    return ["an apple", "--root", str(root), "--seed", "7", *more]


def test_a_picture_is_written_where_it_was_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = root / "apple.png"
    assert main(asked(root, "-o", str(target), "--images", "2", "--sampler", "Euler")) == 0
    told = capsys.readouterr()
    assert told.out.split() == [str(target), str(root / "apple-1.png")]
    assert "step 6 of 6" in told.err  # the model's own number of steps
    capsule = read_picture(target).capsule
    assert capsule is not None
    assert (capsule.request.seed, capsule.request.sampler) == (7, "euler")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--sampler", "nonesuch"], "euler_ancestral"),
        (["--checkpoint", "nonesuch"], "tiny"),
        (["--width", "100"], "multiple of 8"),
        (["-o", "/nonesuch/folder/x.png"], "can't be written"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    words: list[str], hint: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(root, *words)) == 1
    told = capsys.readouterr()
    assert hint in told.err
    assert "Traceback" not in told.err


def test_without_a_place_for_pictures_the_one_asked_for_is_written_all_the_same(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "outputs").write_text("a file where the folder should be")
    target = root / "apple.png"
    assert main(asked(root, "-o", str(target))) == 0
    assert target.is_file()
    assert "could not be saved" in capsys.readouterr().err


def test_a_script_gets_a_line_of_json_for_each_picture(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(root, "--json", "--images", "2")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seed"] for line in lines] == [7, 8]
    assert all(Path(line["path"]).is_file() for line in lines)
    assert lines[1]["request"]["prompt"] == "an apple"


@pytest.mark.parametrize(
    "environment", [{"KITTY_WINDOW_ID": "1"}, {"TERM_PROGRAM": "iTerm.app"}, {}]
)
def test_a_terminal_that_can_shows_the_very_picture(environment: dict[str, str]) -> None:
    picture = Image.effect_noise((90, 90), 80).convert("RGB")
    shown = inline(picture, environment)
    if not environment:
        assert shown == ""
        return
    data = "".join(re.findall(r"(?:m=[01];|inline=1:)([A-Za-z0-9+/=]+)", shown))
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == picture.tobytes()
