"""A1111's styles: what a file says, what it does to prompts, and that edits lose nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import FileError, RequestError
from core.text.styles import (
    Style,
    Styles,
    applied,
    delete_style,
    extracted,
    read_styles,
    save_style,
)

SHEET = """\ufeffname, prompt, negative_prompt
film,"{prompt}, grain, 35mm",digital
plain,"a, b",
# portraits,,
"two
lines","x
y",z
"""


def sheet(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "styles.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_file_is_read_as_a1111_reads_it(tmp_path: Path) -> None:
    styles = read_styles(sheet(tmp_path, SHEET))
    assert styles.all == (
        Style("film", "{prompt}, grain, 35mm", "digital"),
        Style("plain", "a, b"),
        Style("two\nlines", "x\ny", "z"),
    )
    assert styles.problems == ()


def test_the_old_columns_are_read(tmp_path: Path) -> None:
    path = sheet(tmp_path, "name,text\nfilm,grain\n")
    assert read_styles(path).all == (Style("film", "grain"),)


def test_no_file_is_no_styles(tmp_path: Path) -> None:
    assert read_styles(tmp_path / "styles.csv") == Styles()
    assert read_styles(sheet(tmp_path, "")) == Styles()


def test_what_may_be_meant_otherwise_is_said(tmp_path: Path) -> None:
    text = "name,prompt,negative_prompt\na,one,\n,two,\nb,x, y, z\na,three,\nc\n"
    styles = read_styles(sheet(tmp_path, text))
    assert styles.all == (Style("a", "three"), Style("b", "x", "y"), Style("c", ""))
    nameless, commas, twice = styles.problems
    assert "line 3" in nameless
    assert "'b'" in commas
    assert "two styles named 'a'" in twice


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!DOCTYPE html><html>\n", "must name the columns name, prompt, negative_prompt"),
        (b"name,prompt\n\xff\xfe\n", "not UTF-8"),
        (b'name,prompt\na,"' + b"x" * 200_000 + b'"\n', "line 2"),
    ],
)
def test_what_is_no_list_of_styles_is_refused(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=sentence):
        read_styles(path)


def test_styles_go_round_the_prompt_or_behind_it() -> None:
    film, plain = Style("film", "{prompt}, grain", "digital"), Style("plain", " a, b ")
    assert applied("a fox", "ugly", [film, plain]) == ("a fox, grain, a, b", "ugly, digital")
    assert applied("a fox", "ugly", [plain, film]) == ("a fox, a, b, grain", "ugly, digital")
    assert applied("", "", [plain]) == ("a, b", "")
    assert applied(" a fox ", "", []) == (" a fox ", "")
    assert applied("x", "", [Style("twice", "{prompt} and {prompt}")])[0] == "x and x"


def test_styles_are_found_again_in_what_they_made() -> None:
    film, plain = Style("film", "photo of {prompt}, grain", "digital"), Style("plain", "a, b")
    empty = Style("empty", "", "")
    for chosen in ([], [film], [plain], [plain, film], [film, plain]):
        made = applied("a fox", "ugly", chosen)
        assert extracted(*made, [empty, film, plain]) == ("a fox", "ugly", tuple(chosen))
    assert extracted("photo of a fox, grain", "", [film]) == ("photo of a fox, grain", "", ())
    assert extracted("photo of", "", [Style("x", "photo of{prompt} of")])[2] == ()


def test_a_style_that_is_not_there_is_named(tmp_path: Path) -> None:
    styles = read_styles(sheet(tmp_path, SHEET))
    assert styles.named(["plain", "film"]) == (styles.all[1], styles.all[0])
    with pytest.raises(RequestError, match=r"no style named 'flim'; there are: film"):
        styles.named(["flim"])


def test_edits_change_one_row_and_nothing_else(tmp_path: Path) -> None:
    path = sheet(tmp_path, "name,text,author\nfilm,grain,me\n#x,kept,\nlast,z,you\n")
    save_style(path, Style("film", "coarse grain"))
    save_style(path, Style("moon", "night"), replacing="last")
    save_style(path, Style("new", "fresh", "old, stale"))
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "text", "author", "negative_prompt"],
            ["film", "coarse grain", "me"],
            ["#x", "kept", ""],
            ["moon", "night", "you"],
            ["new", "fresh", "", "old, stale"],
        ]
    delete_style(path, "film")
    assert [style.name for style in read_styles(path).all] == ["moon", "new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["styles.csv"]


def test_edits_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = sheet(tmp_path, SHEET)
    before = path.read_bytes()
    for style, replacing in (
        (Style(" ", "x"), None),
        (Style("#x", "x"), None),
        (Style("plain", "x"), "film"),
        (Style("new", "x"), "flim"),
    ):
        with pytest.raises(RequestError):
            save_style(path, style, replacing)
    with pytest.raises(RequestError, match="no style named 'flim'"):
        delete_style(path, "flim")
    assert path.read_bytes() == before


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))
NAMES = WORDS.filter(lambda name: name.strip() == name != "" and not name.startswith("#"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Style, NAMES, WORDS.map(str.lstrip), WORDS.map(str.lstrip)), max_size=4))
def test_what_is_saved_is_read_again(tmp_path_factory: pytest.TempPathFactory, styles) -> None:
    path = tmp_path_factory.mktemp("styles") / "styles.csv"
    for style in styles:
        save_style(path, style)
    last = {style.name: style for style in styles}
    assert read_styles(path).all == tuple(last.values())
    for name in last:
        delete_style(path, name)
    assert read_styles(path).all == ()
