"""Keeps gradio from writing type stubs beside its own files at every import: half of its time.

gradio.component_meta describes each component in a .pyi file as the class is made. Nobody here
reads those, and a folder that can't be written should not matter.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULE = "gradio.component_meta"
WRITER = "create_or_modify_pyi"


def skip_stubs() -> None:
    """To be called before gradio is imported; without effect after that."""
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, once, as it would be found anyway, and loads it with a quiet writer."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Quiet(spec.loader)
        return spec


class _Quiet(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # Another gradio may call it otherwise: then it goes on as it likes.
        if hasattr(module, WRITER):
            setattr(module, WRITER, _nothing)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Writes no stub."""
