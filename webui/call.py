"""A call as the gate reads it: each header once, whatever way it was sent."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]

PROGRAMS = ("/sdapi/", "/internal/")
"""Routes that programs call."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")


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
    def is_asking_first(self) -> bool:
        """Whether a browser asks on behalf of another origin, before the call itself."""
        return self.method == "OPTIONS" and self.header("access-control-request-method") is not None

    @property
    def user(self) -> str:
        """The name in a Basic header: programs that share a token are told apart by it."""
        kind, _, value = (self.header("authorization") or "").partition(" ")
        if kind.lower() != "basic":
            return ""
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0][:80]
        except (binascii.Error, UnicodeDecodeError):
            return ""

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

    @property
    def is_of_a_program(self) -> bool:
        """Whether the route is one that programs call, which seldom keep cookies."""
        return self.path.startswith(PROGRAMS)

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
