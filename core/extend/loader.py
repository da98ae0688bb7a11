"""Finds extensions, and loads one: its module, its hooks, what they give.

Whatever an extension does while it is loaded (raise, exit, hang) ends in an ExtensionError that
names it. It knows no order, no choices and no page.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import pluggy

from core.errors import ExtensionError
from core.extend import hookspecs
from core.extend.about import About, about
from core.extend.guard import Guard, guarded
from core.extend.hookspecs import CORE_HOOKS, PROJECT, Place
from core.registry import Registry

MODULE = "extension.py"
PACKAGE = "vitrine_extension_"
"""Before the name of an extension's module, so that it hides no other package."""
GROUP = "vitrine.extensions"
"""The entry points of installed packages."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What an extension may be called: its folder's name."""
SECONDS = 20.0
"""How long an import or a hook may take."""
HEAVY = ("torch", "transformers")
"""Packages that an extension should not ask for at its top level."""

T = TypeVar("T")


class Hung(ExtensionError):
    """It did not come to an end in its time."""


@dataclass(frozen=True)
class Found:
    """An extension that is there, whether or not it is loaded."""

    name: str
    folder: Path
    ships: bool = False
    """Whether it came with the house."""
    entry: EntryPoint | None = None
    """Where it is a package that was installed."""


@dataclass(frozen=True)
class Loaded:
    """An extension whose code runs."""

    found: Found
    about: About
    plugins: pluggy.PluginManager
    place: Place
    gives: Mapping[str, tuple[Any, ...]]
    """What the core's hooks gave, guarded, by hook."""
    notes: tuple[str, ...]
    seconds: float


def found_in(folders: Iterable[tuple[Path, bool]], packages: bool = True) -> list[Found]:
    """All extensions, by name; of two of one name the first folder's counts.

    Args:
        folders: where extensions lie, and whether they came with the house.
        packages: whether installed packages are looked through.
    """
    found: dict[str, Found] = {}
    for folder, ships in folders:
        for path in sorted(folder.glob(f"*/{MODULE}")):
            name = path.parent.name
            if NAME.fullmatch(name):
                found.setdefault(name, Found(name, path.parent, ships))
    for entry in entry_points(group=GROUP) if packages else ():
        if NAME.fullmatch(entry.name):
            spec = importlib.util.find_spec(entry.module.partition(".")[0])
            folder = Path(spec.origin).parent if spec and spec.origin else Path()
            found.setdefault(entry.name, Found(entry.name, folder, entry=entry))
    return sorted(found.values(), key=lambda one: one.name)


def loaded(
    found: Found,
    place: Place,
    guard: Guard,
    specs: Sequence[ModuleType] = (),
    seconds: float = SECONDS,
) -> Loaded:
    """The extension, its code run and its hooks asked.

    Args:
        specs: further modules of hookspecs; their hooks are asked later, by whoever knows them.

    Raises:
        ExtensionError: whatever went wrong, beginning with its name.
    """
    began = time.perf_counter()
    said = about(found.folder, found.name)
    before = {name for name in HEAVY if name in sys.modules}
    try:
        module = _within(seconds, found.name, "its import", lambda: _imported(found))
        plugins = _plugins(found.name, module, specs)
        gives = {
            hook: tuple(
                guarded(value, guard) for value in asked(plugins, hook, found.name, place, seconds)
            )
            for hook in CORE_HOOKS
        }
    except ExtensionError:
        unload(found.name)
        raise
    heavy = [name for name in HEAVY if name in sys.modules and name not in before]
    notes = tuple(f"it imports {name} at its top level, which slows the start" for name in heavy)
    taken = time.perf_counter() - began
    return Loaded(found, said, plugins, place, MappingProxyType(gives), notes, taken)


def asked(
    plugins: pluggy.PluginManager,
    hook: str,
    name: str,
    place: Place,
    seconds: float = SECONDS,
    **arguments: Any,
) -> list[Any]:
    """What one hook of one extension gives, checked against the kind of its shelf.

    Raises:
        ExtensionError: it fails, hangs or gives something else.
    """

    def call() -> list[Any]:
        answers = getattr(plugins.hook, hook)(place=place, **arguments)
        return [value for answer in answers for value in answer]

    values = _within(seconds, name, f"its hook {hook}", call)
    kind = CORE_HOOKS.get(hook)
    for value in values if kind is not None else ():
        if not isinstance(value, kind or object):
            raise ExtensionError(
                f"{name}: {hook} gives a list of {getattr(kind, '__name__', kind)}, "
                f"not {type(value).__name__}"
            )
        _check_settings(value, name, hook)
    return values


def extended(registry: Registry, more: Loaded) -> Registry:
    """The shelves with what an extension gives put on them.

    Raises:
        ExtensionError: a name is taken already.
    """
    name = more.found.name
    shelves: dict[str, Any] = {}
    kinds = dict(registry.settings_kinds())
    for hook, values in more.gives.items():
        shelf = dict(getattr(registry, hook))
        for value in values:
            if value.name in shelf:
                raise ExtensionError(f"{name}: there is something named {value.name!r} already")
            # Those of a guide travel with the guide, not in the extras.
            settings = None if hook == "preprocessors" else getattr(value, "settings", None)
            if settings is not None and kinds.setdefault(value.name, settings) is not settings:
                raise ExtensionError(
                    f"{name}: {value.name!r} has two kinds of settings; give it another name"
                )
            shelf[value.name] = value
        shelves[hook] = MappingProxyType(shelf)
    return replace(registry, **shelves)


def unload(name: str, folder: Path | None = None) -> None:
    """Forgets an extension's modules, so that the next load reads them anew.

    Args:
        folder: its files. Python takes what it compiled for new where a file changed within the
            same second and kept its length, so that goes too.
    """
    for compiled in folder.rglob("__pycache__") if folder is not None else ():
        shutil.rmtree(compiled, ignore_errors=True)
    package = PACKAGE + name
    for module in [m for m in sys.modules if m == package or m.startswith(package + ".")]:
        del sys.modules[module]


def _imported(found: Found) -> ModuleType:
    if found.entry is not None:
        module = found.entry.load()
        if not isinstance(module, ModuleType):
            raise ImportError(f"the entry point {found.entry.value} names no module")
        return module
    name = PACKAGE + found.name
    # The folder is the package and extension.py its first module, so that it may be of several
    # files: `from .grammar import read`.
    spec = importlib.util.spec_from_file_location(
        name, found.folder / MODULE, submodule_search_locations=[str(found.folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{found.folder / MODULE} is no Python module")
    importlib.invalidate_caches()
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _plugins(name: str, module: ModuleType, specs: Sequence[ModuleType]) -> pluggy.PluginManager:
    """A plugin manager that holds this extension alone."""
    plugins = pluggy.PluginManager(PROJECT)
    for spec in (hookspecs, *specs):
        plugins.add_hookspecs(spec)
    try:
        plugins.register(module, name)
        plugins.check_pending()
    except pluggy.PluginValidationError as error:
        there = ", ".join(sorted(vars(plugins.hook)))
        raise ExtensionError(f"{name}: {error}; the hooks there are: {there}") from error
    return plugins


def _within(seconds: float, name: str, what: str, call: Callable[[], T]) -> T:
    """The result of `call`, made on a thread of its own.

    A thread that hangs can't be ended: it is left behind, and the extension out.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name=f"extension {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Hung(f"{name}: {what} took more than {seconds:g} s and was given up")
    if errors:
        (error,) = errors
        if isinstance(error, ExtensionError):
            raise error
        if isinstance(error, SystemExit):
            raise ExtensionError(f"{name}: {what} called sys.exit({error.code!r})") from error
        raise ExtensionError(f"{name}: {what} failed: {type(error).__name__}: {error}") from error
    return results[0]


def _check_settings(value: Any, name: str, hook: str) -> None:
    """Settings are a frozen dataclass, every field of which has a default."""
    kind = getattr(value, "settings", None)
    if kind is None:
        return
    is_frozen = dataclasses.is_dataclass(kind) and vars(kind)["__dataclass_params__"].frozen
    if not is_frozen:
        raise ExtensionError(f"{name}: the settings of {hook} must be a frozen dataclass")
    for field in dataclasses.fields(kind):
        missing = dataclasses.MISSING
        if field.default is missing and field.default_factory is missing:
            raise ExtensionError(f"{name}: the setting {field.name} needs a default")
