"""Extensions from the terminal: shown, asked for, put in place; none of their code runs."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from core.extend.__main__ import main
from core.settings import Settings, default_settings
from tests.core.extend.test_house import STEP
from tests.core.extend.test_install import GOOD, zipped


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return default_settings(tmp_path)


def test_a_zip_is_shown_before_it_is_installed(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "import pathlib; pathlib.Path(__file__ + '.ran').touch()\n" + dedent(STEP)
    archive = tmp_path / "louder.zip"
    archive.write_bytes(zipped({**GOOD, "extension.py": source}))

    def told(question: str) -> str:
        assert "This runs with your rights" in capsys.readouterr().out
        return "n"

    assert main(["install", str(archive)], told, settings) == 1
    assert not (settings.data_dir / "extensions").exists()
    assert main(["install", str(archive)], lambda question: "y", settings) == 0
    assert main(["list"], settings=settings) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if " louder " in line)
    assert line.startswith("on") and "louder.zip" in line
    assert not list(tmp_path.rglob("*.ran"))
    assert main(["disable", "louder"], settings=settings) == 0
    assert main(["remove", "louder"], settings=settings) == 0
    assert not (settings.data_dir / "extensions" / "louder").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["enable", "nobody"], "no extension named 'nobody'"),
        (["remove", "wildcards"], "was not installed from here"),
        (["roll-back", "nobody"], "nothing of 'nobody' is kept"),
        (["install", "--upload-pack=x"], None),
        (["install", "http://example.com/a"], "begins with https://"),
    ],
)
def test_what_can_not_be_done_is_said(
    settings: Settings, capsys: pytest.CaptureFixture[str], words: list[str], said: str | None
) -> None:
    if said is None:
        with pytest.raises(SystemExit):
            main(words, settings=settings)
        return
    assert main(words, settings=settings) == 1
    assert said in capsys.readouterr().err
