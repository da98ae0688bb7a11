"""Who may come in beside the machine's own user, who is here, and how much each may ask for.

Links are kept by hash: whoever reads the file can't open the door with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from core.errors import FileError, RequestError

Role = Literal["house", "guest", "viewer"]
"""The machine's own user; anybody who may make pictures; who may only watch."""

MOST_LINKS = 200
MOST_CALLERS = 1000
REVOKED_SECONDS = 1.0
"""How often an open WebSocket looks whether its link still opens the door."""
HERE_SECONDS = 60.0
"""Who was heard within this, or holds a WebSocket, is here."""


@dataclass(frozen=True)
class Link:
    """A named way in. Its token is shown once, when it is made."""

    id: str
    name: str
    role: Role
    proof: str
    """SHA-256 of the cookie that the token is exchanged for."""
    watches: str = ""
    """A viewer's: whose jobs are to be seen."""
    created: float = 0.0
    """Seconds since 1970."""


class Links:
    """The links there are, in a file that is whole at any time. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            FileError: the file is there and can't be read.
        """
        self._path, self._lock = path, threading.Lock()
        self._links: dict[str, Link] = {}
        try:
            for entry in json.loads(path.read_text(encoding="utf-8")):
                link = Link(**entry)
                self._links[link.id] = link
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            raise FileError(f"the links in {path} can't be read: {error}") from error

    def all(self) -> list[Link]:
        with self._lock:
            return list(self._links.values())

    def add(self, name: str, role: Role, watches: str = "") -> tuple[Link, str]:
        """A new link and its token.

        Raises:
            RequestError: no name, a taken one, or too many links.
            FileError: it can't be kept.
        """
        name = name.strip()[:80]
        if not name:
            raise RequestError("a link needs a name: whom is it for?", "name")
        if role not in ("guest", "viewer"):
            raise RequestError(f"a link is for a guest or a viewer, not {role!r}", "role")
        token = secrets.token_urlsafe(24)
        with self._lock:
            if any(link.name == name for link in self._links.values()):
                raise RequestError(f"there is a link for {name!r} already; revoke it first", "name")
            if len(self._links) >= MOST_LINKS:
                raise RequestError(f"there are {MOST_LINKS} links already", "name")
            proof = _digest(cookie_of(token))
            link = Link(secrets.token_hex(4), name, role, proof, watches, time.time())
            self._keep({**self._links, link.id: link})
        return link, token

    def revoke(self, id: str) -> None:
        """It opens nothing any more, from the next call on. Raises RequestError for no such one."""
        with self._lock:
            if id not in self._links:
                raise RequestError(f"there is no link {id[:40]!r}", "id")
            self._keep({key: link for key, link in self._links.items() if key != id})

    def of_cookie(self, value: str) -> Link | None:
        proof, found = _digest(value), None
        for link in self.all():
            if hmac.compare_digest(proof, link.proof):
                found = link
        return found

    def has(self, id: str) -> bool:
        """Whether that link still opens the door."""
        with self._lock:
            return id in self._links

    def of_token(self, token: str) -> Link | None:
        return self.of_cookie(cookie_of(token))

    def _keep(self, links: dict[str, Link]) -> None:
        text = json.dumps([asdict(link) for link in links.values()], indent=1)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            raise FileError(f"the links can't be kept: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)
        self._links = links


def until_revoked(
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
    links: Links,
    link: Link,
) -> Callable[[], Awaitable[Any]]:
    """`receive` of a WebSocket that came by a link: with the link, the connection ends."""
    pending: asyncio.Future[Any] | None = None

    async def received() -> Any:
        nonlocal pending
        waited = pending = pending or asyncio.ensure_future(receive())
        try:
            while links.has(link.id):
                done, _ = await asyncio.wait({waited}, timeout=REVOKED_SECONDS)
                if done:
                    pending = None
                    return waited.result()
        except asyncio.CancelledError:
            waited.cancel()
            raise
        waited.cancel()
        await send({"type": "websocket.close", "code": 1008, "reason": "the link was taken back"})
        return {"type": "websocket.disconnect", "code": 1008}

    return received


def cookie_of(token: str) -> str:
    """What a link's token is exchanged for."""
    return _digest("vitrine cookie " + token)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Caller:
    """Somebody who was heard."""

    owner: str
    name: str
    role: Role
    address: str
    seen: float
    sockets: int = 0


class Presence:
    """Who is here. Bounded: who was heard longest ago is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._callers: OrderedDict[str, Caller] = OrderedDict()

    def heard(self, owner: str, name: str, role: Role, address: str, sockets: int = 0) -> None:
        """`sockets`: 1 where a WebSocket opens, -1 where it closes."""
        with self._lock:
            known = self._callers.pop(owner, None)
            if known is None and sockets < 0:
                return  # was shown out meanwhile
            held = max(0, (known.sockets if known else 0) + sockets)
            self._callers[owner] = Caller(owner, name, role, address, self._clock(), held)
            while len(self._callers) > MOST_CALLERS:
                self._callers.popitem(last=False)

    def shown_out(self, name: str) -> None:
        """Who came by the link of that name is not here any more."""
        with self._lock:
            for owner in [key for key, caller in self._callers.items() if caller.name == name]:
                del self._callers[owner]

    def sockets(self, owner: str) -> int:
        with self._lock:
            known = self._callers.get(owner)
            return known.sockets if known else 0

    def here(self) -> list[Caller]:
        """Who is here now; `seen` in seconds ago."""
        with self._lock:
            now = self._clock()
            return [
                replace(caller, seen=now - caller.seen)
                for caller in self._callers.values()
                if caller.sockets or now - caller.seen < HERE_SECONDS
            ]


class Rates:
    """A bucket for each caller: so much at once, then so much a second. Bounded as `Presence`."""

    def __init__(
        self, most: float, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._per_second, self._clock = most, per_second, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str, amount: float = 1.0) -> float:
        """Takes `amount`, and answers 0; or takes nothing, and answers in how many seconds."""
        now = self._clock()
        left, then = self._left.pop(caller, (self._most, now))
        left = min(self._most, left + (now - then) * self._per_second)
        # More than the bucket holds passes where the bucket is full.
        needed = min(amount, self._most)
        missing = needed - left
        self._left[caller] = (left if missing > 0 else left - needed, now)
        while len(self._left) > MOST_CALLERS:
            self._left.popitem(last=False)
        return max(0.0, missing / self._per_second)
