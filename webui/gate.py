"""Who may call what: one ASGI middleware in front of the page, the API and every WebSocket.

It knows requests, not routes: whatever is mounted behind it is guarded alike. Errors leave it as
one sentence and a short id; the traceback goes to the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import html
import json
import logging
import secrets
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from webui.call import Call, Scope
from webui.guests import Link, Links, Presence, Rates, cookie_of, until_revoked

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("vitrine.gate")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BODY_LIMIT = 64 * 2**20
SOCKETS = 64
"""WebSockets one caller may hold open."""
CALLS_AT_ONCE, CALLS_PER_SECOND = 600, 60
"""From one address; a page asks for about a hundred files when it is opened."""
BYTES_AT_ONCE, BYTES_PER_SECOND = 512 * 2**20, 8 * 2**20
"""Of bodies, from one address."""
BODY_SECONDS = 60
"""Between two pieces of a body."""
SAFE_METHODS = frozenset({"GET", "HEAD"})
WATCH_PAGE = "/watch"
WATCHED = (
    WATCH_PAGE,
    *("/vitrine/", "/favicon.ico", "/api/session", "/api/jobs", "/api/queue", "/api/people"),
    *("/frames/", "/images/", "/api/pictures/", "/api/shared"),
)
"""Where viewers may look; a page of another address is answered with their own one."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the gate lets through. Fixed at the start; nothing a client says changes it."""

    port: int
    hosts: frozenset[str] = LOOPBACK
    """Names and addresses this server answers to, without ports, in lower case."""
    token: str | None = None
    """None: no token is asked for."""
    origins: frozenset[str] = frozenset()
    """Other origins that may call, "https://host:port"; with their own credentials, never ours."""
    has_sdapi: bool = True
    """Whether A1111's interface is there for its clients."""
    body_limit: int = BODY_LIMIT
    cookie_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Drawn at every start, so a weak token does not make a weak cookie."""

    @property
    def token_cookie(self) -> str:
        """Cookies ignore ports, so the name carries it."""
        return f"vitrine_token_{self.port}"

    @property
    def session_cookie(self) -> str:
        return f"vitrine_session_{self.port}"

    @property
    def cookie_value(self) -> str:
        """What the token is exchanged for."""
        token = (self.token or "").encode()
        return hmac.new(self.cookie_key, token, hashlib.sha256).hexdigest()


class Refusal(Exception):
    """An answer other than the one asked for.

    `page` is shown instead of the sentence to a browser that opens a page.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        page: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers, self.page = status, sentence, headers, page


class Failures:
    """Counts wrong tokens per address; each one makes the next attempt wait longer.

    Bounded: the address that failed longest ago is forgotten first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, addresses: int = 4096) -> None:
        self._clock, self._addresses = clock, addresses
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until `address` may try again; 0 is at once."""
        count, last = self._failed.get(address, (0, 0.0))
        if count < 3:
            return 0.0
        return max(0.0, last + min(60.0, 2.0 ** (count - 3)) - self._clock())

    def failed(self, address: str) -> int:
        count = self._failed.pop(address, (0, 0.0))[0] + 1
        self._failed[address] = (count, self._clock())
        while len(self._failed) > self._addresses:
            self._failed.popitem(last=False)
        return count

    def succeeded(self, address: str) -> None:
        self._failed.pop(address, None)


class Gate:
    """The middleware. Lets a call pass, or answers it here."""

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        failures: Failures | None = None,
        links: Links | None = None,
        presence: Presence | None = None,
    ) -> None:
        """
        Args:
            links: named ways in beside the token; None: there are none.
            presence: is told of every call.
        """
        self.app, self.rules = app, rules
        self.failures = failures or Failures()
        self.links, self.presence = links, presence or Presence()
        self._calls = Rates(CALLS_AT_ONCE, CALLS_PER_SECOND)
        self._bytes = Rates(BYTES_AT_ONCE, BYTES_PER_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        call = Call(scope)
        answered = _Answer(send, call, self.rules)
        try:
            self._check(call)
            if call.is_asking_first:
                raise self._allowed(call)
            link = self._identify(call)
            answered.cookies = self._session(scope, call, link)
            self._measure(scope, call)
            with self._present(scope, call):
                receive = self._bounded(call, receive, answered)
                if link is not None and self.links is not None and call.is_websocket:
                    receive = until_revoked(receive, answered.send, self.links, link)
                await self.app(scope, receive, answered.send)
        except Refusal as refusal:
            await answered.refuse(refusal)
        except Exception:
            if answered.is_refused:
                return
            problem = secrets.token_hex(3)
            log.exception("%s %s failed (id %s)", call.method, call.path, problem)
            sentence = f"Something went wrong (id {problem}); the log has the details."
            await answered.refuse(Refusal(500, sentence))

    def _check(self, call: Call) -> None:
        if call.host not in self.rules.hosts:
            raise Refusal(
                421, "This address is not one this server answers to; start it with --allow-host."
            )
        if call.origin is not None and call.origin in self.rules.origins:
            self._check_length(call)
            return
        changes = call.is_websocket or call.method not in SAFE_METHODS
        if changes and call.origin is not None and call.origin != call.own_origin:
            raise Refusal(403, "Another site may not do this.")
        opened = call.method == "GET" and call.header("sec-fetch-mode") == "navigate"
        if call.header("sec-fetch-site") == "cross-site" and not opened:
            raise Refusal(403, "Another site may not do this.")
        self._check_length(call)

    def _check_length(self, call: Call) -> None:
        if call.length > self.rules.body_limit:
            raise Refusal(413, self._too_large())

    def _allowed(self, call: Call) -> Refusal:
        """The answer to a browser that asks whether another origin may call."""
        return Refusal(
            204,
            "",
            (
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", b"authorization, content-type"),
                (b"access-control-max-age", b"600"),
            ),
        )

    def _identify(self, call: Call) -> Link | None:
        """The link by which the caller comes, if it is one.

        Raises Refusal unless the caller has shown the token or a link's, now or earlier.
        """
        token = self.rules.token
        if token is None:
            return None
        cookie = call.cookie(self.rules.token_cookie)
        if cookie is not None:
            link = None if self.links is None else self.links.of_cookie(cookie)
            if link is not None or _same(cookie, self.rules.cookie_value):
                if "token" in call.query:
                    raise self._entrance(call, cookie)
                return link
        offered = call.offered()
        if offered is None:
            raise Refusal(
                401,
                "A token is needed: open the link that was printed at the start.",
                ((b"www-authenticate", b'Bearer realm="Vitrine"'),),
                _TOKEN_PAGE,
            )
        wait = self.failures.wait(call.address)
        if wait > 0:
            raise Refusal(
                429,
                f"Too many wrong tokens; try again in {wait:.0f} s.",
                ((b"retry-after", str(int(wait) + 1).encode()),),
            )
        link = None if self.links is None else self.links.of_token(offered)
        if link is None and not _same(offered, token):
            count = self.failures.failed(call.address)
            log.warning("wrong token from %s (%d in a row)", call.address, count)
            raise Refusal(
                401,
                "That token is not the right one.",
                ((b"www-authenticate", b'Bearer realm="Vitrine"'),),
                _TOKEN_PAGE,
            )
        self.failures.succeeded(call.address)
        if "token" in call.query and call.method == "GET" and not call.is_websocket:
            fresh = self.rules.cookie_value if link is None else cookie_of(offered)
            raise self._entrance(call, fresh)
        return link

    def _entrance(self, call: Call, value: str) -> Refusal:
        """The token leaves the address bar and becomes a cookie."""
        rest = [(k, v) for k, v in urllib.parse.parse_qsl(call.query_string) if k != "token"]
        # A path of two slashes would name another host.
        place = "/" + call.path.lstrip("/")
        target = urllib.parse.quote(place) + ("?" + urllib.parse.urlencode(rest) if rest else "")
        cookie = _cookie(self.rules.token_cookie, value)
        return Refusal(303, "", ((b"location", target.encode()), (b"set-cookie", cookie)))

    def _session(self, scope: Scope, call: Call, link: Link | None) -> tuple[bytes, ...]:
        """Names the caller in the scope; returns the cookie to set, if it has none yet."""
        # The guests of a proxy that runs here come from this machine too, by another name.
        is_home = call.address in LOOPBACK and call.host in LOOPBACK and link is None
        scope["vitrine.role"] = link.role if link is not None else "house" if is_home else "guest"
        scope["vitrine.name"] = link.name if link is not None else ""
        if link is not None and link.role == "viewer":
            if call.opens_a_page and not call.path.startswith(WATCHED):
                raise Refusal(303, "", ((b"location", WATCH_PAGE.encode()),))
            if call.method not in SAFE_METHODS or not call.path.startswith(WATCHED):
                raise Refusal(403, "This link is for watching only.")
            scope["vitrine.owner"] = link.watches
            scope["vitrine.caller"] = f"viewer {link.name} {call.address}"
            return ()
        known = call.cookie(self.rules.session_cookie)
        if known is not None and 32 <= len(known) <= 128 and known.isascii():
            scope["vitrine.owner"] = owner_of(known)
            return ()
        if call.bearer:
            # A program that shows the token and keeps no cookies is one and the same every time.
            # Where no token is asked for, what it shows is the name it wants to go by.
            shown = call.bearer if self.rules.token is None else self.rules.cookie_value
            shown = shown if link is None else link.id
            scope["vitrine.owner"] = owner_of(f"bearer {shown} {call.user}".strip())
            return ()
        if call.is_of_a_program:
            # A1111's clients keep no cookies; each machine of theirs is one caller.
            scope["vitrine.owner"] = owner_of(f"address {call.address}")
            return ()
        fresh = secrets.token_urlsafe(32)
        scope["vitrine.owner"] = owner_of(fresh)
        return (_cookie(self.rules.session_cookie, fresh, days=365),)

    def _measure(self, scope: Scope, call: Call) -> None:
        """Raises Refusal for a caller who asks for too much. This machine may ask for anything."""
        if call.is_websocket and self.presence.sockets(caller_of(scope)) >= SOCKETS:
            raise Refusal(429, f"{SOCKETS} connections at a time are enough.")
        if call.address in LOOPBACK:
            return
        wait = max(
            self._calls.wait(call.address),
            self._bytes.wait(call.address, call.length) if call.length else 0.0,
        )
        if wait > 0:
            after = str(int(wait) + 1).encode()
            raise Refusal(429, "Too much at once; wait a little.", ((b"retry-after", after),))

    @contextlib.contextmanager
    def _present(self, scope: Scope, call: Call) -> Iterator[None]:
        """Says who is here, for as long as the call lasts."""
        about = (caller_of(scope), scope["vitrine.name"], scope["vitrine.role"], call.address)
        self.presence.heard(*about, sockets=int(call.is_websocket))
        try:
            yield
        finally:
            if call.is_websocket:
                self.presence.heard(*about, sockets=-1)

    def _bounded(self, call: Call, receive: Receive, answered: _Answer) -> Receive:
        """`receive`, handing on no more than the limit, whatever length was announced."""
        if call.is_websocket:
            return receive
        taken, is_whole = 0, False

        async def receive_bounded() -> Message:
            nonlocal taken, is_whole
            try:
                # What comes behind a whole body is only that the caller has gone.
                message = await asyncio.wait_for(receive(), None if is_whole else BODY_SECONDS)
            except TimeoutError:
                await answered.refuse(Refusal(408, "The rest of that did not come."))
                return {"type": "http.disconnect"}
            is_whole = is_whole or not message.get("more_body", False)
            taken += len(message.get("body", b""))
            if taken > self.rules.body_limit:
                # Answered here: what is behind would make a "bad request" of an exception.
                await answered.refuse(Refusal(413, self._too_large()))
                return {"type": "http.disconnect"}
            return message

        return receive_bounded

    def _too_large(self) -> str:
        return f"That is too large: at most {self.rules.body_limit // 2**20} MB at a time."


def caller_of(scope: Scope) -> str:
    """Who calls. A viewer goes by another one's name in the house, and by its own one here."""
    return str(scope.get("vitrine.caller", scope["vitrine.owner"]))


def owner_of(session: str) -> str:
    """The name jobs carry: not the cookie itself, so a stored job gives nobody a session."""
    return "session-" + hashlib.sha256(session.encode()).hexdigest()[:32]


class _Answer:
    """The way back: adds the house's headers, and knows whether an answer has begun."""

    def __init__(self, send: Send, call: Call, rules: Rules) -> None:
        self._send, self._call, self._rules = send, call, rules
        self.cookies: Iterable[bytes] = ()
        self._begun = False
        self.is_refused = False
        """The gate has answered; whatever comes from behind it now is dropped."""

    async def send(self, message: Message) -> None:
        if not self.is_refused:
            await self._dressed(message)

    async def _dressed(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            self._begun = True
            ours = {name for name, _ in _HEADERS}
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if name.lower() not in ours
                and not (name.lower().startswith(b"access-control-") and not self.is_refused)
            ]
            fresh = [(b"set-cookie", cookie) for cookie in self.cookies]
            if (origin := self._call.origin) is not None and origin in self._rules.origins:
                fresh += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
            message = {**message, "headers": [*kept, *_HEADERS, *fresh]}
        elif message["type"] == "websocket.close":
            self._begun = True
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self.is_refused:
            return
        self.is_refused = True
        if self._begun:
            # Too late for another answer; the server closes the connection.
            if self._call.is_websocket:
                await self._send({"type": "websocket.close", "code": 1011})
            return
        if self._call.is_websocket:
            await self._send({"type": "websocket.close", "code": 1008, "reason": refusal.sentence})
            return
        if self._call.opens_a_page:
            kind, text = b"text/html; charset=utf-8", refusal.page or _page(refusal.sentence)
        else:
            kind, text = b"application/json", json.dumps({"error": refusal.sentence})
        body = b"" if refusal.status in (204, 303) else text.encode()
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *refusal.headers,
        ]
        await self._dressed(
            {"type": "http.response.start", "status": refusal.status, "headers": headers}
        )
        await self._dressed({"type": "http.response.body", "body": body})


def _same(offered: str, wanted: str) -> bool:
    return hmac.compare_digest(offered.encode(), wanted.encode())


def _cookie(name: str, value: str, days: int | None = None) -> bytes:
    age = f"; Max-Age={days * 86400}" if days else ""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Lax{age}".encode()


_STYLE = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>Vitrine</title>"
    "<meta name=viewport content='width=device-width'>"
    "<style>:root{color-scheme:light dark}body{font:18px/1.5 system-ui,sans-serif;max-width:32rem;"
    "margin:18vh auto;padding:0 1.5rem}input,button{font:inherit;padding:.6rem .8rem;"
    "min-height:44px;box-sizing:border-box}</style><h1>Vitrine</h1>"
)

_TOKEN_PAGE = _STYLE + (
    "<p>This Vitrine asks for its token. It was printed where it was started, as a link; "
    "you can also type it here.</p><form><label>Token <input name=token autocomplete=off "
    "autofocus required></label> <button>Open</button></form>"
)


def _page(sentence: str) -> str:
    return _STYLE + "<p>" + html.escape(sentence) + "</p>"
