"""Extensions from elsewhere: fetched and shown first, then put in place, updated, rolled back.

Each is pinned to what was shown. Nothing of it runs before somebody enables it.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import ExtensionError, FileError, RequestError
from core.extend.about import About, about
from core.extend.kept import write_whole
from core.extend.loader import MODULE, NAME
from core.extend.requirements import asked_for, installed_versions, missing
from core.extend.scan import BRIDGED, is_a1111, scanned, write_shim
from core.extend.sources import check_tree, fetched, has_git, unpacked

STAGED = 8
"""Downloads that wait for a yes; the oldest goes first."""
NO_GIT = "as the archive that its host offers, for there is no git on this machine"
MOST_DIFF = 200_000
"""Letters of a diff that are shown."""


@dataclass(frozen=True)
class Pin:
    """Where an installed extension came from."""

    source: str
    """Its address, or the name of a zip."""
    commit: str
    """Of the repository; "" where it is not known."""
    hash: str
    """Of all its files."""
    installed: float
    """When, in seconds since 1970."""


@dataclass(frozen=True)
class Staged:
    """A download as it lies there, for a person to look at."""

    id: str
    name: str
    pin: Pin
    about: About
    files: tuple[tuple[str, int], ...]
    """(path, bytes)"""
    requirements: tuple[str, ...]
    missing: tuple[str, ...]
    """Those of the requirements that would be installed."""
    problems: tuple[str, ...]
    """Why it can't be installed."""
    replaces: Pin | None
    diff: str
    """What differs from what is installed under its name."""
    tier: tuple[str, ...] = ()
    """Of an extension of AUTOMATIC1111's: what would work here, and what not."""
    note: str = ""
    """How it came, where that was not the usual way."""


class Installer:
    """Downloads that wait, and what is installed. Thread-safe."""

    def __init__(self, data: Path, taken: Collection[str], hosts: Collection[str] = ()) -> None:
        """
        Args:
            taken: names that an extension from elsewhere may not have.
            hosts: one's own servers, which may have private addresses.
        """
        self.folder = data / "extensions"
        self._previous = data / "extensions-previous"
        self._staging = data / "extensions-staging"
        self._pins = data / "extensions-installed.json"
        self._taken, self._hosts = frozenset(taken), frozenset(hosts)
        self._staged: dict[str, Staged] = {}
        self._lock = threading.RLock()
        shutil.rmtree(self._staging, ignore_errors=True)

    def pins(self) -> dict[str, Pin]:
        """What is installed, by name."""
        return {name: Pin(**pin) for name, pin in self._read()["installed"].items()}

    def previous(self) -> dict[str, Pin]:
        """What a roll-back would bring back, by name."""
        return {name: Pin(**pin) for name, pin in self._read()["previous"].items()}

    def look_at(self, url: str) -> Staged:
        """Fetches the newest files of a repository, and says what they are.

        Raises:
            ExtensionError: they can't be fetched, or may not be.
        """
        into = self._fresh()
        with self._swept(into):
            note = "" if has_git() else NO_GIT
            commit = fetched(url, into, self._hosts)
            return self._stage(into, _name_of(urlsplit(url).path), url, commit, note)

    def look_into(self, data: bytes, filename: str) -> Staged:
        """The same for a zip."""
        into = self._fresh()
        with self._swept(into):
            commit = unpacked(data, into)
            stem = re.sub(r"-(main|master|[0-9a-f]{7,40})$", "", Path(filename).stem)
            return self._stage(into, _name_of(stem), filename[:200], commit)

    def install(self, id: str) -> Staged:
        """Puts a download in its place; what was there is kept for a roll-back.

        Raises:
            RequestError: it no longer waits.
            ExtensionError: there was a reason against it.
        """
        with self._lock:
            staged = self._staged.get(id)
            if staged is None:
                raise RequestError("that download is no longer there; look at it again", "id")
            if staged.problems:
                raise ExtensionError(f"{staged.name}: {staged.problems[0]}")
            tree = self._staging / id
            check_tree(tree)
            if _hash(tree) != staged.pin.hash:
                raise ExtensionError(f"{staged.name}: it has changed since it was shown")
            del self._staged[id]
            if staged.tier:
                write_shim(tree, staged.name)
            said = self._read()
            target, before = self.folder / staged.name, self._previous / staged.name
            _moved(target, before)
            if staged.name in said["installed"]:
                said["previous"][staged.name] = said["installed"][staged.name]
            said["installed"][staged.name] = asdict(staged.pin)
            _moved(tree, target)
            self._write(said)
            return staged

    def roll_back(self, name: str) -> None:
        """Changes places with what was there before the last update.

        Raises:
            RequestError: there is nothing.
        """
        with self._lock:
            said = self._read()
            if name not in said["previous"] or not (self._previous / name).is_dir():
                raise RequestError(f"nothing of {name[:80]!r} is kept to go back to", "extension")
            now, before = self.folder / name, self._previous / name
            aside = self._fresh()
            _moved(now, aside)
            _moved(before, now)
            _moved(aside, before)
            pins = said["installed"].pop(name, None), said["previous"].pop(name)
            said["installed"][name] = pins[1]
            if pins[0] is not None:
                said["previous"][name] = pins[0]
            self._write(said)

    def remove(self, name: str) -> None:
        """Deletes what was installed, and what was kept of it. What it has written stays.

        Raises:
            RequestError: it was not installed from here.
        """
        with self._lock:
            said = self._read()
            if name not in said["installed"]:
                there = ", ".join(sorted(said["installed"])) or "none"
                raise RequestError(
                    f"{name[:80]!r} was not installed from here; there are: {there}", "extension"
                )
            said["installed"].pop(name)
            said["previous"].pop(name, None)
            self._write(said)
            for place in (self.folder / name, self._previous / name):
                shutil.rmtree(place, ignore_errors=True)

    def _stage(self, tree: Path, name: str, source: str, commit: str, note: str = "") -> Staged:
        problems: list[str] = []
        said = About()
        try:
            said = about(tree, name)
        except ExtensionError as error:
            problems.append(str(error))
        if not NAME.fullmatch(name) or name in self._taken:
            problems.append(f"{name[:80]!r} can't be its name: it is taken, or no plain word")
        tier: tuple[str, ...] = ()
        if is_a1111(tree):
            scan = scanned(tree)
            tier = (scan.sentence, *scan.reasons)
            if scan.tier not in BRIDGED:
                problems.append(f"{scan.sentence}, which does not run here")
        elif not (tree / MODULE).is_file():
            problems.append(f"it holds no {MODULE}, so it is no extension of this house")
        wanted = asked_for(tree, said)
        lacking: list[str] = []
        try:
            lacking = missing(wanted, installed_versions())
        except ExtensionError as error:
            problems.append(str(error))
        staged = Staged(
            id=tree.name,
            name=name,
            pin=Pin(source, commit, _hash(tree), time.time()),
            about=said,
            files=tuple((path, size) for path, size in _files(tree).items()),
            requirements=wanted,
            missing=tuple(lacking),
            problems=tuple(problems),
            replaces=self.pins().get(name),
            diff=_diff(self.folder / name, tree) if (self.folder / name).is_dir() else "",
            tier=tier,
            note=note,
        )
        with self._lock:
            self._staged[staged.id] = staged
            while len(self._staged) > STAGED:
                oldest = next(iter(self._staged))
                del self._staged[oldest]
                shutil.rmtree(self._staging / oldest, ignore_errors=True)
        return staged

    def _fresh(self) -> Path:
        """A folder's name that nobody has; made when something is put there."""
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self._staging} can't be made: {error.strerror}") from error
        return self._staging / secrets.token_hex(8)

    @contextlib.contextmanager
    def _swept(self, folder: Path) -> Any:
        """Leaves nothing of a download that failed."""
        try:
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            said = json.loads(self._pins.read_text(encoding="utf-8"))
            return {key: dict(said[key]) for key in ("installed", "previous")}
        except FileNotFoundError:
            return {"installed": {}, "previous": {}}
        except (OSError, ValueError, LookupError, TypeError):
            with contextlib.suppress(OSError):
                self._pins.replace(self._pins.with_suffix(".unreadable"))
            return {"installed": {}, "previous": {}}

    def _write(self, said: Mapping[str, Any]) -> None:
        write_whole(self._pins, json.dumps(said, indent=1))


def _name_of(path: str) -> str:
    """`/someone/sd-webui-More_Noise.git` → `more_noise`."""
    last = path.rstrip("/").rpartition("/")[2].removesuffix(".git").lower()
    name = re.sub(r"[^a-z0-9]+", "_", last).strip("_")
    return re.sub(r"^(sd_webui|vitrine)_(extension_)?", "", name)[:64]


def _files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _files(folder):
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        digest.update(f"{content} {name}\n".encode())
    return digest.hexdigest()


def _diff(before: Path, after: Path) -> str:
    """What changes between two folders, as a unified diff; files that are no text by name alone."""
    parts: list[str] = []
    for name in sorted({*_files(before), *_files(after)}):
        if "__pycache__" in name:
            continue
        old, new = (_lines(folder / name) for folder in (before, after))
        if old == new:
            continue
        if old is None or new is None:
            parts.append(f"{name} changes, and is no text\n")
        else:
            parts += difflib.unified_diff(old, new, f"installed/{name}", f"new/{name}")
    return "".join(parts)[:MOST_DIFF]


def _lines(path: Path) -> list[str] | None:
    """None for what is no text."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None
    return [line if line.endswith("\n") else line + "\n" for line in text.splitlines(True)]


def _moved(source: Path, target: Path) -> None:
    """`source` in the place of `target`; nothing where there is no source."""
    if not source.exists():
        return
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    except OSError as error:
        raise FileError(f"{target} can't be written: {error.strerror or error}") from error
