"""Lists of words in text files: one line each, `#` begins a remark. It knows no prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MOST_BYTES = 2**20
"""Of one list."""
MOST_FILES = 5_000


class Lists(Mapping[str, Sequence[str]]):
    """By name: the path below a folder, without `.txt`. Read when asked, so new files count."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """The first folder that has a list of a name has it."""
        self._folders = folders

    def __getitem__(self, name: str) -> Sequence[str]:
        lines = _lines(self._files()[name])
        if not lines:
            raise KeyError(name)
        return lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._files())

    def __len__(self) -> int:
        return len(self._files())

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in self._folders:
            for path in sorted(folder.rglob("*.txt"))[:MOST_FILES]:
                name = path.relative_to(folder).with_suffix("").as_posix()
                found.setdefault(name, path)
        return found


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MOST_BYTES)
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
