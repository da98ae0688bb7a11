"""Who may call what: one ASGI middleware in front of the page, the API and every WebSocket.

It knows requests, not routes: whatever is mounted behind it is guarded alike. Errors leave it as
one sentence and a short id; the traceback goes to the log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import html
import json
import logging
import re
import secrets
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("vitrine.gate")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BODY_LIMIT = 64 * 2**20
SAFE_METHODS = frozenset({"GET", "HEAD"})

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")

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

    def __init__(self, app: ASGIApp, rules: Rules, failures: Failures | None = None) -> None:
        self.app, self.rules = app, rules
        self.failures = failures or Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        call = Call(scope)
        answered = _Answer(send, call, self.rules)
        try:
            self._check(call)
            cookies = self._session(scope, call)
            answered.cookies = cookies
            await self.app(scope, self._bounded(call, receive, answered), answered.send)
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
        changes = call.is_websocket or call.method not in SAFE_METHODS
        if changes and call.origin is not None and call.origin != call.own_origin:
            raise Refusal(403, "Another site may not do this.")
        opened = call.method == "GET" and call.header("sec-fetch-mode") == "navigate"
        if call.header("sec-fetch-site") == "cross-site" and not opened:
            raise Refusal(403, "Another site may not do this.")
        if call.length > self.rules.body_limit:
            raise Refusal(413, self._too_large())
        if self.rules.token is not None:
            self._identify(call, self.rules.token)

    def _identify(self, call: Call, token: str) -> None:
        """Raises Refusal unless the caller has shown the token, now or earlier."""
        cookie = call.cookie(self.rules.token_cookie)
        if cookie is not None and _same(cookie, self.rules.cookie_value):
            if "token" in call.query:
                raise self._entrance(call)
            return
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
        if not _same(offered, token):
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
            raise self._entrance(call)

    def _entrance(self, call: Call) -> Refusal:
        """The token leaves the address bar and becomes a cookie."""
        rest = [(k, v) for k, v in urllib.parse.parse_qsl(call.query_string) if k != "token"]
        # A path of two slashes would name another host.
        place = "/" + call.path.lstrip("/")
        target = urllib.parse.quote(place) + ("?" + urllib.parse.urlencode(rest) if rest else "")
        cookie = _cookie(self.rules.token_cookie, self.rules.cookie_value)
        return Refusal(303, "", ((b"location", target.encode()), (b"set-cookie", cookie)))

    def _session(self, scope: Scope, call: Call) -> tuple[bytes, ...]:
        """Names the caller in the scope; returns the cookie to set, if it has none yet."""
        known = call.cookie(self.rules.session_cookie)
        if known is not None and 32 <= len(known) <= 128 and known.isascii():
            scope["vitrine.owner"] = owner_of(known)
            return ()
        if self.rules.token is not None and call.bearer is not None:
            # A program that shows the token and keeps no cookies is one and the same every time.
            scope["vitrine.owner"] = owner_of("bearer " + self.rules.cookie_value)
            return ()
        fresh = secrets.token_urlsafe(32)
        scope["vitrine.owner"] = owner_of(fresh)
        return (_cookie(self.rules.session_cookie, fresh, days=365),)

    def _bounded(self, call: Call, receive: Receive, answered: _Answer) -> Receive:
        """`receive`, handing on no more than the limit, whatever length was announced."""
        if call.is_websocket:
            return receive
        taken = 0

        async def receive_bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.rules.body_limit:
                # Answered here: what is behind would make a "bad request" of an exception.
                await answered.refuse(Refusal(413, self._too_large()))
                return {"type": "http.disconnect"}
            return message

        return receive_bounded

    def _too_large(self) -> str:
        return f"That is too large: at most {self.rules.body_limit // 2**20} MB at a time."


def owner_of(session: str) -> str:
    """The name jobs carry: not the cookie itself, so a stored job gives nobody a session."""
    return "session-" + hashlib.sha256(session.encode()).hexdigest()[:32]


class Call:
    """What the gate wants to know of a request."""

    def __init__(self, scope: Scope) -> None:
        self.is_websocket = scope["type"] == "websocket"
        self.method: str = "GET" if self.is_websocket else scope["method"]
        self.path: str = scope["path"]
        self.scheme = scope.get("scheme", "http").replace("ws", "http")
        self.address: str = (scope.get("client") or ("unknown", 0))[0]
        self.query_string = scope.get("query_string", b"").decode("latin-1")
        self.query = dict(urllib.parse.parse_qsl(self.query_string))
        self._headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            # A header sent twice must not be read one way here and another behind the gate.
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            joiner = "; " if key == "cookie" else ","
            self._headers[key] = (
                self._headers[key] + joiner + text if key in self._headers else text
            )

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    @property
    def host(self) -> str:
        """The name in the Host header, without its port; empty if there is none."""
        found = _HOST.fullmatch((self.header("host") or "").strip().lower())
        return found[1].strip("[]").rstrip(".") if found else ""

    @property
    def origin(self) -> str | None:
        return self.header("origin")

    @property
    def own_origin(self) -> str:
        return f"{self.scheme}://{(self.header('host') or '').strip()}"

    @property
    def length(self) -> int:
        text = self.header("content-length") or "0"
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def opens_a_page(self) -> bool:
        return self.method == "GET" and "text/html" in (self.header("accept") or "")

    def cookie(self, name: str) -> str | None:
        try:
            morsel = SimpleCookie(self.header("cookie") or "").get(name)
        except CookieError:
            return None
        return morsel.value if morsel else None

    @property
    def bearer(self) -> str | None:
        """The token in the Authorization header: Bearer, or the password of Basic."""
        kind, _, value = (self.header("authorization") or "").partition(" ")
        if kind.lower() == "bearer":
            return value.strip()
        if kind.lower() != "basic":
            return None
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return decoded.partition(":")[2]

    def offered(self) -> str | None:
        return self.query.get("token") or self.bearer


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
                if name.lower() not in ours and not name.lower().startswith(b"access-control-")
            ]
            fresh = [(b"set-cookie", cookie) for cookie in self.cookies]
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
        body = b"" if refusal.status == 303 else text.encode()
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
