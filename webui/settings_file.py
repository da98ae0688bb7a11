"""`vitrine.toml` read and written: a line at a time, so comments stay; whole at any time, with the
version before it kept beside."""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

from core.errors import FileError, RequestError, VitrineError
from core.settings import Settings, default_settings, read_settings, with_values

NAME = "vitrine.toml"
BACKUP = NAME + ".bak"

Value = str | int


class Disk:
    """The few steps of a write, so that a test can fail any of them."""

    def write(self, path: Path, data: bytes) -> None:
        """A whole file, on the disk when this returns."""
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        if os.name == "nt":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def said(root: Path) -> dict[str, Value]:
    """What the file says; empty where there is none.

    Raises:
        FileError: it is no TOML.
    """
    path = root / NAME
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"{path} can't be read as TOML: {error}") from error


def change(root: Path, values: Mapping[str, Value | None], disk: Disk | None = None) -> Settings:
    """Writes these settings and leaves all else in the file as it is; None takes a line out.

    Returns what the next start will read.

    Raises:
        RequestError: a name or a value that is none; the file is as it was.
        FileError: the file can't be read or written; it is as it was.
    """
    disk = disk or Disk()
    wanted = {**said(root), **values}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    settings = with_values(default_settings(root), wanted, root)
    path = root / NAME
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for name, value in values.items():
        text = _with_line(text, name, value)
    if tomllib.loads(text) != wanted:
        raise FileError(f"{path} is written in a way that can't be changed here; edit it by hand")
    beside = root / f".{NAME}.{os.getpid()}.part"
    try:
        if path.exists():
            disk.write(beside, path.read_bytes())
            disk.rename(beside, root / BACKUP)
        disk.write(beside, text.encode())
        disk.rename(beside, path)
        disk.sync_folder(root)
    except OSError as error:
        raise FileError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return settings


def _with_line(text: str, name: str, value: Value | None) -> str:
    """`name = value` in the place of the line that sets it, or before the first table."""
    line = "" if value is None else f"{name} = {_as_toml(value)}\n"
    pattern = re.compile(rf"(?m)^[ \t]*{re.escape(name)}[ \t]*=.*(?:\n|\Z)")
    if pattern.search(text):
        return pattern.sub(lambda match: line, text, count=1)
    if text and not text.endswith("\n"):
        text += "\n"
    return text + line


def _as_toml(value: Value) -> str:
    """JSON's strings are TOML's, but for one sign that JSON lets stand."""
    if not isinstance(value, str):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def settled(root: Path) -> tuple[Settings, list[str]]:
    """The settings at a start, and what a person should hear. A file that can't be used is moved
    aside, and the version before it is taken if that one can be."""
    try:
        return read_settings(root), []
    except VitrineError as problem:
        path = root / NAME
        aside = root / f"{NAME}.unreadable-{time.strftime('%Y%m%d-%H%M%S')}"
        notes = [f"{problem}. It was moved to {aside.name}"]
        try:
            path.replace(aside)
        except OSError:
            return default_settings(root), [f"{problem}. It is left out"]
        try:
            values = tomllib.loads((root / BACKUP).read_text(encoding="utf-8"))
            settings = with_values(default_settings(root), values, root)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RequestError):
            return default_settings(root), [*notes, "the defaults hold"]
        return settings, [*notes, f"the version before it, {BACKUP}, holds"]
