"""All extensions of one house: which are there, which are on, and the shelves that they make.

A class because its state is guarded: the page enables and reloads while the engine runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from core.errors import ExtensionError, RequestError
from core.extend.about import About, about
from core.extend.guard import Account, Guard, Ledger
from core.extend.hookspecs import Place
from core.extend.kept import OPENING, Choices, Kept
from core.extend.loader import Found, Hung, Loaded, asked, extended, found_in, loaded, unload
from core.registry import Registry

State = Literal["on", "off", "left out"]


@dataclass(frozen=True)
class Extension:
    """One extension as a person sees it."""

    found: Found
    about: About
    state: State
    problem: str = ""
    """Why it is left out."""
    notes: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    """Those it gives something to."""
    account: Account = field(default_factory=Account)
    load_seconds: float = 0.0


class Extensions:
    """Loads, orders, switches and reloads. Thread-safe."""

    def __init__(
        self,
        built_in: Registry,
        folders: Sequence[tuple[Path, bool]],
        data: Path,
        outputs: Path,
        specs: Sequence[ModuleType] = (),
        all_off: bool = False,
        packages: bool = True,
        seconds: float = 20.0,
    ) -> None:
        """Loads what is on. Never raises for what an extension does.

        Args:
            built_in: the shelves without any extension.
            folders: where extensions lie, and whether they came with the house.
            data: where choices are kept, and what extensions keep.
            specs: further hookspecs; see `asked`.
            all_off: none is loaded, whatever was chosen.
        """
        self._built_in, self.folders, self._specs = built_in, tuple(folders), tuple(specs)
        self._data, self._outputs, self._packages = data, outputs, packages
        self._seconds, self.all_off = seconds, all_off
        self.ledger = Ledger()
        self.kept = Kept(data)
        self._lock = threading.RLock()
        self._loaded: dict[str, Loaded] = {}
        self._problems: dict[str, str] = {}
        self._listeners: list[Callable[[Registry], None]] = []
        self.registry = built_in
        self._after_last_start()
        if not all_off:
            for one in self._in_order(self.kept.read()):
                self._load_if_on(one)
        self.registry = self._shelves()

    # What there is

    def all(self) -> list[Extension]:
        """Every extension there is, in the order in which they act."""
        with self._lock:
            choices, accounts = self.kept.read(), self.ledger.accounts()
            return [self._shown(one, choices, accounts) for one in self._in_order(choices)]

    def one(self, name: str) -> Extension:
        """Raises RequestError naming all there are."""
        for extension in self.all():
            if extension.found.name == name:
                return extension
        there = ", ".join(extension.found.name for extension in self.all()) or "none"
        raise RequestError(f"no extension named {name[:80]!r}; there are: {there}", "extension")

    def asked(self, hook: str, **arguments: Any) -> list[tuple[Place, Any]]:
        """What the extensions that are on give to a hook of the further specs, in order.

        One that fails is named and left out.
        """
        answers: list[tuple[Place, Any]] = []
        failed = False
        with self._lock:
            for name, one in list(self._loaded.items()):
                try:
                    values = asked(one.plugins, hook, name, one.place, self._seconds, **arguments)
                except ExtensionError as error:
                    self._leave_out(name, error)
                    failed = True
                    continue
                answers += [(one.place, value) for value in values]
            if failed:
                self._put_up()
        return answers

    # What a person does

    def listen(self, listener: Callable[[Registry], None]) -> None:
        """`listener` is told of the shelves whenever they change."""
        self._listeners.append(listener)

    def enable(self, name: str) -> None:
        """On from now on, also after the next start.

        Raises:
            RequestError: there is none of that name.
            ExtensionError: it can't be loaded; it stays out.
        """
        with self._lock:
            one = self.one(name).found
            choices = self.kept.read()
            left_out = {k: v for k, v in choices.left_out.items() if k != name}
            self.kept.change(on=choices.on | {name}, off=choices.off - {name}, left_out=left_out)
            if not self.all_off and name not in self._loaded:
                self._load(one)
                self._put_up()
        if name in self._problems:
            raise ExtensionError(self._problems[name])

    def disable(self, name: str) -> None:
        """Off: none of its code runs from the next job on, nor after the next start."""
        with self._lock:
            self.one(name)
            choices = self.kept.read()
            self.kept.change(on=choices.on - {name}, off=choices.off | {name})
            self._forget(name)
            self._put_up()

    def reload(self, name: str) -> None:
        """Reads its files anew, while the queue goes on; a job that runs ends as it began.

        Raises:
            ExtensionError: it can't be loaded as it is now; then it is left out.
        """
        with self._lock:
            one = self.one(name)
            if one.state == "off":
                raise RequestError(f"{name} is off; enable it first", "extension")
            self._forget(name)
            unload(name, one.found.folder if one.found.entry is None else None)
            self._load(one.found)
            self._put_up()
        if name in self._problems:
            raise ExtensionError(self._problems[name])

    def order(self, names: Sequence[str]) -> None:
        """These first, as they are listed; the innermost wrapper is the first."""
        with self._lock:
            for name in names:
                self.one(name)
            self.kept.change(order=tuple(dict.fromkeys(names)))
            ranks = {one.name: i for i, one in enumerate(self._in_order(self.kept.read()))}
            self._loaded = dict(sorted(self._loaded.items(), key=lambda item: ranks[item[0]]))
            self._put_up()

    def opening(self) -> None:
        """Everything is loaded; what kills the process until `opened` is some extension's doing."""
        if any(not one.found.ships for one in self._loaded.values()):
            self.kept.opening()

    def opened(self) -> None:
        """The start went well."""
        self.kept.finished()

    # Within

    def _in_order(self, choices: Choices) -> list[Found]:
        ranks = {name: rank for rank, name in enumerate(choices.order)}
        there = found_in(self.folders, self._packages)
        return sorted(there, key=lambda one: (ranks.get(one.name, len(ranks)), one.name))

    def _place(self, one: Found) -> Place:
        return Place(one.name, one.folder, self._data / "extension-data" / one.name, self._outputs)

    def _after_last_start(self) -> None:
        """Whoever took the last start down is left out of this one."""
        culprit = self.kept.unfinished()
        if culprit is None:
            return
        choices = self.kept.read()
        reason = "the last start ended while it was being loaded"
        out = {culprit: f"{culprit}: {reason}"}
        if culprit == OPENING:
            own = [one.name for one in self._in_order(choices) if not one.ships]
            out = {name: f"{name}: the last start did not come to its end" for name in own}
        self.kept.change(left_out={**choices.left_out, **out})
        self.kept.finished()

    def _load_if_on(self, one: Found) -> None:
        choices = self.kept.read()
        if one.name in choices.left_out:
            self._problems[one.name] = choices.left_out[one.name]
        elif one.name not in choices.off and (one.name in choices.on or self._starts_on(one)):
            self._load(one)

    def _starts_on(self, one: Found) -> bool:
        """One that a person copied into the folder is not run before somebody enables it."""
        try:
            return one.ships and about(one.folder, one.name).starts_on
        except ExtensionError as error:
            self._problems[one.name] = str(error)
            return False

    def _load(self, one: Found) -> None:
        self._problems.pop(one.name, None)
        try:
            with self.kept.loading(one.name):
                guard = Guard(one.name, self.ledger)
                more = loaded(one, self._place(one), guard, self._specs, self._seconds)
            extended(self._shelves(), more)
        except ExtensionError as error:
            self._leave_out(one.name, error)
            if isinstance(error, Hung):  # the next start does not wait for it again
                left_out = {**self.kept.read().left_out, one.name: str(error)}
                self.kept.change(left_out=left_out)
        else:
            self._loaded[one.name] = more
            ranks = {f.name: i for i, f in enumerate(self._in_order(self.kept.read()))}
            self._loaded = dict(sorted(self._loaded.items(), key=lambda item: ranks[item[0]]))

    def _leave_out(self, name: str, error: ExtensionError) -> None:
        self._problems[name] = str(error)
        self.ledger.failed(name, str(error))
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._loaded.pop(name, None)
        unload(name)

    def _shelves(self) -> Registry:
        registry = self._built_in
        for one in self._loaded.values():
            registry = extended(registry, one)
        return registry

    def _put_up(self) -> None:
        self.registry = self._shelves()
        for listener in self._listeners:
            listener(self.registry)

    def _shown(self, one: Found, choices: Choices, accounts: Mapping[str, Account]) -> Extension:
        try:
            said = about(one.folder, one.name)
        except ExtensionError:
            said = About()
        account = accounts.get(one.name, Account())
        if one.name in self._loaded:
            more = self._loaded[one.name]
            hooks = tuple(sorted(_used(more)))
            return Extension(one, said, "on", "", more.notes, hooks, account, more.seconds)
        problem = self._problems.get(one.name, "")
        state: State = "left out" if problem and one.name not in choices.off else "off"
        return Extension(one, said, state, problem, account=account)


def _used(more: Loaded) -> set[str]:
    """The hooks an extension implements."""
    callers = vars(more.plugins.hook)
    return {name for name, caller in callers.items() if caller.get_hookimpls()}
