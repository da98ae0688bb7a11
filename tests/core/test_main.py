"""A picture from the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.__main__ import main
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
