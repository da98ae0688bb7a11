"""What is remembered of extensions from start to start: order, choices, what took a start down.

Written whole or not at all. A journal says which extension is being loaded, so that one that kills
the process is known at the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import FileError

OPENING = "*"
"""In the journal: every extension is loaded, and the page is being built."""


@dataclass(frozen=True)
class Choices:
    """A person's choices, and what the house learnt."""

    order: tuple[str, ...] = ()
    """Names in the order in which they act; those not in it come after, by name."""
    on: frozenset[str] = frozenset()
    off: frozenset[str] = frozenset()
    left_out: dict[str, str] = field(default_factory=dict)
    """Why one was left out at the last start; it stays out until a person enables it again."""


class Kept:
    """The files `extensions.json` and `extensions.starting` in the data folder."""

    def __init__(self, data: Path) -> None:
        self.path = data / "extensions.json"
        self._journal = data / "extensions.starting"

    def read(self) -> Choices:
        """An unreadable file is moved aside and counts as none."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            return Choices(
                order=tuple(_names(values["order"])),
                on=frozenset(_names(values["on"])),
                off=frozenset(_names(values["off"])),
                left_out={str(k): str(v) for k, v in dict(values["left_out"]).items()},
            )
        except FileNotFoundError:
            return Choices()
        except (OSError, ValueError, LookupError, TypeError):
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_suffix(".unreadable"))
            return Choices()

    def write(self, choices: Choices) -> None:
        """Raises FileError where the data folder can't be written."""
        values = asdict(choices) | {"on": sorted(choices.on), "off": sorted(choices.off)}
        write_whole(self.path, json.dumps(values, indent=1))

    def change(self, **changes: Any) -> Choices:
        choices = replace(self.read(), **changes)
        self.write(choices)
        return choices

    def unfinished(self) -> str | None:
        """Whom the last start was loading when it ended; None: it went well."""
        try:
            return self._journal.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    @contextlib.contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """In the journal while it lasts; an error that is caught is no death."""
        write_whole(self._journal, name)
        try:
            yield
        finally:
            self.finished()

    def opening(self) -> None:
        """From here to `finished` a death is the doing of some extension, nobody knows which."""
        write_whole(self._journal, OPENING)

    def finished(self) -> None:
        with contextlib.suppress(OSError):
            self._journal.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing.

    Raises:
        FileError: it can't be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise FileError(f"{path} can't be written: {error.strerror or error}") from error


def _names(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("names expected")
    return values
