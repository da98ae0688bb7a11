"""Where the numbers lie in files that torch before 1.6 wrote; nothing is unpickled here.

Such a file is five pickles one after the other (a magic number, the version, the system, the
contents, the names of the storages), then the storages: a count of numbers as int64, and these.
What is in it is `torch.load`'s to say (`core.models.pickles`), but not where. So the pickles are
looked through as the lists of instructions that they are, none of which is carried out: which
storage each tensor names, and in which order the storages follow.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from core.errors import FileError

BEGINNING = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle: torch's magic number 0x1950a86a20f9469cfc6c."""
MAX_CONTENTS = 64 * 2**20
"""Bytes of pickles before the numbers."""
MEMO_PUT = ("BINPUT", "LONG_BINPUT")
MEMO_GET = ("BINGET", "LONG_BINGET")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE")


@dataclass(frozen=True)
class Places:
    """Where the numbers are, as far as the file's outline tells."""

    named: tuple[str, ...]
    """The storage that each tensor of the contents names, in their order."""
    keys: tuple[str, ...]
    """The storages in the order of their numbers."""
    begin: int
    """Where the first one's count lies."""

    def located(
        self, file: BinaryIO, claimed: Sequence[tuple[int, int]], size: int
    ) -> Iterator[int]:
        """Where the numbers of each tensor's storage begin, in the order of the contents.

        Args:
            claimed: for each tensor (bytes that it needs of its storage, bytes of a number).
            size: of the file.

        Raises:
            ValueError: the outline and the claims do not fit, or the file is too short.
        """
        needed: dict[str, tuple[int, int]] = {}
        for key, (bytes_, width) in zip(self.named, claimed, strict=True):
            needed[key] = max(bytes_, needed.get(key, (0, width))[0]), width
        starts, position = {}, self.begin
        for key in self.keys:
            file.seek(position)
            (count,) = struct.unpack("<q", file.read(8))
            least, width = needed[key]
            total = count * width
            if total < least or position + 8 + total > size:
                raise ValueError("it claims more numbers than the file has")
            starts[key] = position + 8
            position += 8 + total
        for key in self.named:
            yield starts[key]


def outline(path: Path) -> Places:
    """Raises FileError: the file is no such one, or damaged."""
    try:
        with path.open("rb") as file:
            if file.read(len(BEGINNING)) != BEGINNING:
                raise FileError(f"{path.name} is a pickle, and none of torch's")
            for _ in ("version", "system"):
                _instructions(file)
            named = tuple(_storages_named(_instructions(file)))
            keys = tuple(arg for name, arg in _instructions(file) if name in TEXTS)
            return Places(named, tuple(map(str, keys)), file.tell())
    except (ValueError, IndexError, UnicodeDecodeError, struct.error) as error:
        raise FileError(f"{path.name} is cut off or damaged: {error}") from error


def _instructions(file: BinaryIO) -> list[tuple[str, object]]:
    """One pickle's instructions with their arguments."""
    found: list[tuple[str, object]] = []
    begin = file.tell()
    for instruction, argument, _ in pickletools.genops(file):
        found.append((instruction.name, argument))
        if file.tell() - begin > MAX_CONTENTS:
            raise ValueError("its table of contents is too long")
    return found


def _storages_named(instructions: list[tuple[str, object]]) -> Iterator[str]:
    """The key in each persistent id: ("storage", kind, key, location, count, view).

    Texts come as themselves or from the memo, where they were put when they first came.
    """
    memo: dict[object, object] = {}
    texts: list[str] = []
    last: object = None
    for name, argument in instructions:
        if name in MEMO_PUT:
            memo[argument] = last
            continue
        last = memo.get(argument) if name in MEMO_GET else argument if name in TEXTS else None
        if name == "MARK":
            texts = []
        elif isinstance(last, str):
            texts.append(last)
        elif name == "BINPERSID":
            if len(texts) != 3 or texts[0] != "storage":
                raise ValueError("a tensor is stored in a way that is not known here")
            yield texts[1]
