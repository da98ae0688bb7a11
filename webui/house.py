"""Routes about the house itself: who is here, the links that let others in.

What changes others' rights is for the machine's own user alone, who sits at the machine.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from core.errors import RequestError, VitrineError
from webui.codes import qr_picture
from webui.gate import LOOPBACK, Rules
from webui.guests import Links, Presence
from webui.stream import json_body, owner


class Forbidden(VitrineError):
    """The caller may not do this."""

    status = 403


def is_house(connection: HTTPConnection) -> bool:
    """Whether the caller is the machine's own user, as the gate found."""
    return connection.scope.get("vitrine.role") == "house"


def check_house(request: Request) -> None:
    if not is_house(request):
        raise Forbidden("only the machine's own user may do this, at the machine itself")


def routes(links: Links, presence: Presence, rules: Rules) -> APIRouter:
    """Everything under /api/people and /api/links."""
    router = APIRouter()
    _people(router, presence)
    _links(router, links, presence, rules)
    return router


def _people(router: APIRouter, presence: Presence) -> None:
    @router.get("/api/people")
    def people(request: Request) -> list[dict[str, Any]]:
        """Who is here. Addresses are told to the machine's own user alone."""
        mine, told = owner(request), []
        for caller in presence.here():
            entry: dict[str, Any] = {"name": caller.name, "role": caller.role}
            entry["you"] = caller.owner == mine
            if is_house(request):
                entry |= {"address": caller.address, "seconds": round(caller.seen)}
            told.append(entry)
        return told


def _links(router: APIRouter, links: Links, presence: Presence, rules: Rules) -> None:
    @router.get("/api/links")
    def listed(request: Request) -> dict[str, Any]:
        """`needed`: whether a token is asked for at all; `here`: whether somebody who came by that
        link is here."""
        check_house(request)
        names = {caller.name for caller in presence.here()}
        told = [
            {
                "id": link.id,
                "name": link.name,
                "role": link.role,
                "created": link.created,
                "here": link.name in names,
            }
            for link in links.all()
        ]
        return {"needed": rules.token is not None, "links": told}

    @router.post("/api/links")
    async def add(request: Request) -> dict[str, Any]:
        """{"name": whom it is for, "role": "guest" or "viewer"} in; the token out, this once,
        in addresses to open and as a QR code of the first.

        A viewer sees what whoever makes the link sees, and changes nothing.
        """
        check_house(request)
        asked = await json_object(request)
        name, role = asked.get("name", ""), asked.get("role", "guest")
        if not isinstance(name, str) or role not in ("guest", "viewer"):
            raise RequestError("a link has a name, and a role: guest or viewer", "name")
        watches = owner(request) if role == "viewer" else ""
        link, token = await run_in_threadpool(links.add, name, role, watches)
        urls = [
            f"{request.url.scheme}://{host}:{rules.port}/?token={token}" for host in near(rules)
        ]
        told = {"id": link.id, "name": link.name, "role": link.role, "token": token}
        return {**told, "urls": urls, "qr": qr_picture(urls[0])}

    @router.delete("/api/links/{id}")
    def revoke(id: str, request: Request) -> dict[str, str]:
        check_house(request)
        names = [link.name for link in links.all() if link.id == id]
        links.revoke(id)
        for name in names:
            presence.shown_out(name)
        return {"revoked": id}


def address(rules: Rules, request: Request) -> str:
    """This server's, as others on the network know it: the caller's own way where that is one."""
    host, port = request.url.hostname, request.url.port
    if host in LOOPBACK or host is None:
        host, port = near(rules)[0], rules.port
    return f"{request.url.scheme}://{host}" + (f":{port}" if port else "")


def near(rules: Rules) -> list[str]:
    """This machine's addresses as others on the network know them; its own where there is none."""
    numbers = [host for host in rules.hosts - LOOPBACK if re.fullmatch(r"[0-9.]{7,15}", host)]
    return sorted(numbers) or ["127.0.0.1"]


async def json_object(request: Request) -> dict[str, Any]:
    body = await json_body(request)
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return body
