"""Stands between the house and an extension's functions: takes their time, and names them where
they fail. What the house itself does inside them is neither their time nor their fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from core.adapters.kinds import AdapterKind
from core.additions import (
    AttentionWrapper,
    CombineWrapper,
    DenoiserWrapper,
    Finisher,
    Reader,
    RequestStep,
)
from core.entries import SamplerEntry, ScheduleEntry
from core.errors import Cancelled, ExtensionError, VitrineError
from core.images.guides import Preprocessor
from core.models.family import Family

KEPT_ERRORS = 5
"""Sentences kept of each extension."""


@dataclass
class Account:
    """What one extension has cost so far."""

    seconds: float = 0.0
    calls: int = 0
    errors: int = 0
    sentences: list[str] = field(default_factory=list)
    """The last few."""


class Ledger:
    """Time spent and errors, by extension. Thread-safe."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()

    def spent(self, name: str, seconds: float) -> None:
        with self._lock:
            account = self._accounts.setdefault(name, Account())
            account.seconds += seconds
            account.calls += 1

    def failed(self, name: str, sentence: str) -> None:
        with self._lock:
            account = self._accounts.setdefault(name, Account())
            account.errors += 1
            account.sentences = [*account.sentences, sentence][-KEPT_ERRORS:]

    def accounts(self) -> Mapping[str, Account]:
        """As they are now."""
        with self._lock:
            return {name: replace(account) for name, account in self._accounts.items()}


class Guard:
    """The guard of one extension."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name, self.ledger = name, ledger

    def calling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function.

        Raises:
            ExtensionError: it raised, and what it raised is no sentence of its own.
        """
        return Meter(self).outside(function)

    def fail(self, error: BaseException) -> NoReturn:
        """Raises what a person is told of an error of the extension's."""
        if isinstance(error, VitrineError) and not isinstance(error, ExtensionError):
            self.ledger.failed(self.name, str(error))
            raise error
        sentence = f"{self.name}: {type(error).__name__}: {error}"
        self.ledger.failed(self.name, sentence)
        raise ExtensionError(sentence) from error


class Meter:
    """Follows one chain of calls: of the house's, into the extension, into the house again."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._elsewhere = 0.0
        self._passing: BaseException | None = None

    def outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The extension's function, as the house calls it."""
        whole: Callable[..., Any] | None = getattr(function, "__wrapped_by_house__", None)
        if whole is not None:  # handed back as it was given
            return whole

        def call(*args: Any) -> Any:
            self._elsewhere, self._passing = 0.0, None
            began = time.perf_counter()
            try:
                return function(*args)
            except (Exception, SystemExit) as error:
                if error is self._passing or isinstance(error, Cancelled):
                    raise
                self._guard.fail(error)
            finally:
                spent = time.perf_counter() - began - self._elsewhere
                self._guard.ledger.spent(self._guard.name, spent)

        return call

    def inside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The house's function, as the extension calls it."""

        def call(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args)
            except BaseException as error:
                self._passing = error
                raise
            finally:
                self._elsewhere += time.perf_counter() - began

        call.__wrapped_by_house__ = function  # type: ignore[attr-defined]
        return call


@dataclass(frozen=True, kw_only=True)
class GuardedSampler(SamplerEntry):
    """A sampler of an extension's."""

    guard: Guard = field(repr=False, compare=False)

    def load(self, options: Mapping[str, Any]) -> Any:
        sampler = self.guard.calling(super().load)(options)
        return replace(sampler, step=_sampling(self.guard, sampler.step))


@dataclass(frozen=True, kw_only=True)
class GuardedSchedule(ScheduleEntry):
    """A schedule of an extension's."""

    guard: Guard = field(repr=False, compare=False)

    def load(self) -> Any:
        spacing = self.guard.calling(super().load)()

        def spaced(*args: Any, **options: Any) -> Any:
            return self.guard.calling(lambda: spacing(*args, **options))()

        return spaced


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardedAdapterKind(AdapterKind):
    """A kind of LoRA of an extension's. Another one after each reload, so nothing read is kept."""

    guard: Guard = field(repr=False)

    def load(self) -> Any:
        reader = self.guard.calling(super().load)()

        def read(parts: Any, scale: Any) -> dict[Any, Any]:
            made = self.guard.calling(lambda: dict(reader(parts, scale)))()
            return {of: _changing(self.guard, change) for of, change in made.items()}

        return read


@dataclass(frozen=True, eq=False)
class GuardedChange:
    """A change of an extension's own making."""

    change: Any
    guard: Guard

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.guard.calling(lambda: tuple(self.change.shape))()
        return shape

    def delta(self, original: Any) -> Any:
        return self.guard.calling(self.change.delta)(original)


def _changing(guard: Guard, change: Any) -> Any:
    """The house's own changes need no guard, and are laid on faster as they are."""
    own = type(change).__module__ == "core.adapters.changes"
    return change if own else GuardedChange(change, guard)


def _matching(guard: Guard, matches: Callable[..., Any]) -> Callable[..., bool]:
    """One that fails takes no file for its own; what it raised is in the ledger."""
    asked = guard.calling(matches)

    def matches_or_not(header: Any) -> bool:
        try:
            return bool(asked(header))
        except VitrineError:
            return False

    return matches_or_not


def _sampling(guard: Guard, step: Callable[..., Any]) -> Callable[..., Any]:
    meter = Meter(guard)
    guarded_step = meter.outside(step)

    def sample(denoise: Any, state: Any, sigmas: Any, noise: Any) -> Any:
        return guarded_step(meter.inside(denoise), state, sigmas, noise)

    return sample


def _wrapping(guard: Guard, wrap: Callable[..., Any]) -> Callable[..., Any]:
    """For wrappers of one function."""

    def wrapped(inner: Callable[..., Any], settings: Any) -> Callable[..., Any]:
        meter = Meter(guard)
        outer = guard.calling(wrap)(meter.inside(inner), settings)
        return meter.outside(outer)

    return wrapped


def _attending(guard: Guard, wrap: Callable[..., Any]) -> Callable[..., Any]:
    """For wrappers of a way of attending, which is two functions."""

    def wrapped(inner: Any, settings: Any) -> Any:
        sources, attend = Meter(guard), Meter(guard)
        given = replace(
            inner, sources=sources.inside(inner.sources), attend=attend.inside(inner.attend)
        )
        outer = guard.calling(wrap)(given, settings)
        return replace(
            outer, sources=sources.outside(outer.sources), attend=attend.outside(outer.attend)
        )

    return wrapped


def guarded(value: Any, guard: Guard) -> Any:
    """What a hook gave, with `guard` before each of its functions."""
    match value:
        case RequestStep():
            return replace(value, change=guard.calling(value.change))
        case Finisher():
            return replace(value, finish=guard.calling(value.finish))
        case Reader():
            return replace(value, read=guard.calling(value.read))
        case CombineWrapper():
            return replace(value, wrap=_wrapping(guard, value.wrap))
        case DenoiserWrapper():
            return replace(value, wrap=_wrapping(guard, value.wrap))
        case AttentionWrapper():
            return replace(value, wrap=_attending(guard, value.wrap))
        case Preprocessor():
            ask = None if value.ask is None else guard.calling(value.ask)
            return replace(value, make=guard.calling(value.make), ask=ask)
        case Family():
            numbers = None if value.numbers is None else guard.calling(value.numbers)
            return replace(value, matches=_matching(guard, value.matches), numbers=numbers)
        case AdapterKind():
            return GuardedAdapterKind(**vars(value), guard=guard)
        case SamplerEntry():
            return GuardedSampler(**_fields(value), guard=guard)
        case ScheduleEntry():
            return GuardedSchedule(**_fields(value), guard=guard)
    return value


def _fields(entry: SamplerEntry | ScheduleEntry) -> dict[str, Any]:
    return dict(vars(entry))
