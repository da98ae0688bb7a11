"""What can go wrong, as one tree. Each message is a sentence for a person.

VitrineError
├── RequestError      what was asked for can't be made; says what was asked and what there is
├── FileError         a file that can't be read, or is not what its place asks for
├── AdapterError      a LoRA or embedding that does not fit
├── NotFinite         a network gave NaN or infinity; says where
├── OutOfMemory       the device is full, after one retry in smaller pieces
└── ExtensionError    an extension failed; says which

Cancelled             beside the tree: nothing went wrong
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class VitrineError(Exception):
    """Anything that ends as a sentence on the page."""


class RequestError(VitrineError):
    """What was asked for can't be made."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        """The request's field at fault, where it is one."""


class FileError(VitrineError):
    """A file that can't be read, or is not what its place asks for."""


class AdapterError(VitrineError):
    """A LoRA or an embedding that does not fit the model it is asked for."""


class NotFinite(VitrineError):
    """A network answered with NaN or infinity."""


class OutOfMemory(VitrineError):
    """The device's memory is too small for the request, also in smaller pieces."""


class ExtensionError(VitrineError):
    """An extension failed; the message begins with its name."""


class Cancelled(Exception):
    """The run was discarded because somebody asked for that."""


def named(shelf: Mapping[str, T], name: str, kind: str, field: str | None = None) -> T:
    """`shelf[name]`, or a RequestError that says what `kind` of things there are."""
    if name not in shelf:
        there = ", ".join(sorted(shelf)) or "none"
        raise RequestError(f"no {kind} named {name!r}; there are: {there}", field)
    return shelf[name]
