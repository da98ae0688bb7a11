"""Styles: wording kept under a name, in A1111's `styles.csv`. Torch-free; knows no grammar.

A1111's rules: a style that says `{prompt}` is put round the prompt, another one behind it. In the
file the last of two styles of one name counts, and a name that begins with # is a comment.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import FileError, RequestError, named

PLACE = "{prompt}"
COLUMNS = ("name", "prompt", "negative_prompt")
OLD_PROMPT = "text"
"""What the prompt's column was called before there were negative ones."""
MAX_BYTES = 16 * 1024 * 1024
"""A longer file is no list of styles."""


@dataclass(frozen=True)
class Style:
    """Wording by name; either prompt may be empty."""

    name: str
    prompt: str
    negative_prompt: str = ""


@dataclass(frozen=True)
class Styles:
    """What a file of styles holds."""

    all: tuple[Style, ...] = ()
    """In the file's order, each name once."""
    problems: tuple[str, ...] = ()
    """A sentence for each line that is not read as it may be meant."""

    def named(self, names: Iterable[str]) -> tuple[Style, ...]:
        """The styles of these names, in their order. Raises RequestError for one that is not."""
        shelf = {style.name: style for style in self.all}
        return tuple(named(shelf, name, "style", "styles") for name in names)


def read_styles(path: Path) -> Styles:
    """The styles in a file; none where there is no file.

    Raises:
        FileError: it can't be read, or is no list of styles.
    """
    return _Sheet.read(path).styles()


def applied(prompt: str, negative: str, styles: Iterable[Style]) -> tuple[str, str]:
    """Both prompts with the styles on them, one after the other."""
    for style in styles:
        prompt = _joined(prompt, style.prompt)
        negative = _joined(negative, style.negative_prompt)
    return prompt, negative


def extracted(
    prompt: str, negative: str, styles: Iterable[Style]
) -> tuple[str, str, tuple[Style, ...]]:
    """What was typed, and the styles that `applied` puts on it to make these prompts.

    A1111's rule: the first of `styles` that both prompts show is taken off, again and again.
    """
    left, taken = [style for style in styles if style.prompt or style.negative_prompt], []
    while True:
        for style in left:
            inner = _without(prompt, style.prompt)
            inner_negative = _without(negative, style.negative_prompt)
            if inner is not None and inner_negative is not None:
                prompt, negative = inner, inner_negative
                left.remove(style)
                taken.append(style)
                break
        else:
            return prompt, negative, tuple(reversed(taken))


def save_style(path: Path, style: Style, replacing: str | None = None) -> None:
    """Writes one style into the file, in the place of the one it replaces, or at the end.

    All else in the file stays as it is, comments and unknown columns too. The file is whole at
    any time.

    Args:
        replacing: the name it had before; None: its own.

    Raises:
        FileError: the file can't be read or written.
        RequestError: no name, or that of another style; or nothing is called `replacing`.
    """
    if not style.name.strip() or style.name.startswith("#"):
        raise RequestError("a style needs a name, and one that does not begin with #", "name")
    sheet = _Sheet.read(path)
    shelf = {there.name: there for there in sheet.styles().all}
    if replacing is not None:
        named(shelf, replacing, "style", "name")
        if replacing != style.name and style.name in shelf:
            raise RequestError(f"there is a style named {style.name!r} already", "name")
    sheet.put(style, style.name if replacing is None else replacing).write(path)


def delete_style(path: Path, name: str) -> None:
    """Takes a style out of the file, and leaves all else as it is.

    Raises:
        FileError: the file can't be read or written.
        RequestError: there is none of that name.
    """
    sheet = _Sheet.read(path)
    named({style.name: style for style in sheet.styles().all}, name, "style", "name")
    sheet.without(name).write(path)


def _joined(prompt: str, wording: str) -> str:
    if PLACE in wording:
        return wording.replace(PLACE, prompt)
    return ", ".join(filter(None, (prompt.strip(), wording.strip())))


def _without(prompt: str, wording: str) -> str | None:
    """What `_joined` joined with `wording`; None: it can't have."""
    before, place, behind = wording.partition(PLACE)
    if place:
        fits = len(prompt) >= len(before) + len(behind)
        if fits and prompt.startswith(before) and prompt.endswith(behind):
            return prompt[len(before) : len(prompt) - len(behind)]
        return None
    if not prompt.endswith(wording.strip()):
        return None
    return prompt.removesuffix(wording.strip()).removesuffix(", ")


@dataclass(frozen=True)
class _Sheet:
    """The rows of a file as they are."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """The line each row ends on."""

    @classmethod
    def read(cls, path: Path) -> _Sheet:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise FileError(f"{path.name} is too large to be a list of styles")
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return cls(COLUMNS, (), ())
        except UnicodeDecodeError as error:
            raise FileError(f"{path.name} can't be read: it is not UTF-8 text") from error
        except OSError as error:
            raise FileError(f"{path.name} can't be read: {error.strerror}") from error
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        try:
            rows = [(tuple(row), reader.line_num) for row in reader if row]
        except csv.Error as error:
            line = reader.line_num
            raise FileError(f"{path.name} can't be read from line {line} on: {error}") from error
        if not rows:
            return cls(COLUMNS, (), ())
        (header, _), *rest = rows
        if "name" not in header or not {"prompt", OLD_PROMPT} & set(header):
            there = ", ".join(header)[:100]
            raise FileError(
                f"{path.name} is no list of styles: its first line must name the columns "
                f"{', '.join(COLUMNS)}, and says: {there}"
            )
        return cls(header, tuple(row for row, _ in rest), tuple(line for _, line in rest))

    def styles(self) -> Styles:
        found: dict[str, Style] = {}
        problems = []
        for row, line in zip(self.rows, self.lines, strict=True):
            style = self._style(row)
            if style.name.startswith("#"):
                continue
            if not style.name:
                problems.append(f"the style that ends on line {line} has no name, and is left out")
                continue
            if len(row) > len(self.header):
                problems.append(
                    f"the style {style.name!r} has more columns than the first line names; "
                    "wording with commas must stand in quotes"
                )
            if style.name in found:
                problems.append(f"there are two styles named {style.name!r}; the last one counts")
            found[style.name] = style
        return Styles(tuple(found.values()), tuple(problems))

    def put(self, style: Style, name: str) -> _Sheet:
        """With `style` in the row that counts for `name`, or in a new one."""
        sheet = self
        if style.negative_prompt and "negative_prompt" not in self.header:
            sheet = replace(self, header=(*self.header, "negative_prompt"))
        places = [i for i, row in enumerate(sheet.rows) if sheet._style(row).name == name]
        rows, place = list(sheet.rows), places[-1] if places else len(sheet.rows)
        rows[place : place + 1] = [sheet._row(style, rows[place] if places else ())]
        return replace(sheet, rows=tuple(rows))

    def without(self, name: str) -> _Sheet:
        return replace(self, rows=tuple(row for row in self.rows if self._style(row).name != name))

    def write(self, path: Path) -> None:
        """All at once, with the mark that A1111 and spreadsheets know UTF-8 by."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.header, *self.rows])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}.part")
            try:
                with beside.open("wb") as file:
                    file.write(text.getvalue().encode("utf-8-sig", "replace"))
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{path.name} can't be written: {error.strerror}") from error

    def _style(self, row: tuple[str, ...]) -> Style:
        said = dict(zip(self.header, row, strict=False))
        prompt = said.get("prompt" if "prompt" in self.header else OLD_PROMPT, "")
        return Style(said.get("name", ""), prompt, said.get("negative_prompt", ""))

    def _row(self, style: Style, before: tuple[str, ...]) -> tuple[str, ...]:
        """The style's row; what other columns held `before` is kept."""
        prompt = "prompt" if "prompt" in self.header else OLD_PROMPT
        told = {
            **dict(zip(self.header, before, strict=False)),
            "name": style.name,
            prompt: style.prompt,
            "negative_prompt": style.negative_prompt,
        }
        return tuple(told.get(column, "") for column in self.header)
