"""Routes about the house itself: the queue, who is here, the links that let others in.

What changes others' rights is for the machine's own user alone, who sits at the machine.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from core.engine.engine import Engine
from core.errors import RequestError, VitrineError
from webui.gate import LOOPBACK, Rules
from webui.guests import Links, Presence
from webui.stream import Stage, json_body, owner


class Forbidden(VitrineError):
    """The caller may not do this."""

    status = 403


def is_house(connection: HTTPConnection) -> bool:
    """Whether the caller is the machine's own user, as the gate found."""
    return connection.scope.get("vitrine.role") == "house"


def check_house(request: Request) -> None:
    if not is_house(request):
        raise Forbidden("only the machine's own user may do this, at the machine itself")


def routes(stage: Stage, links: Links, presence: Presence, rules: Rules) -> APIRouter:
    """Everything under /api/queue, /api/people and /api/links."""
    router = APIRouter()
    _queue(router, stage)
    _people(router, presence)
    _links(router, links, rules)
    return router


def _queue(router: APIRouter, stage: Stage) -> None:
    engine = stage.engine

    @router.get("/api/queue")
    def queue(request: Request) -> dict[str, Any]:
        """The caller's waiting and running jobs in the order they will be begun."""
        return queue_of(engine, owner(request))

    @router.post("/api/queue/order")
    async def order(request: Request) -> dict[str, Any]:
        """{"jobs": [ids]}: the caller's own waiting jobs, in the order wanted."""
        ids = (await _object(request)).get("jobs")
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise RequestError("jobs must be a list of ids", "jobs")
        mine = owner(request)
        await run_in_threadpool(engine.arrange, ids, mine)
        return queue_of(engine, mine)

    @router.post("/api/queue/pause")
    async def pause(request: Request) -> dict[str, Any]:
        """{"paused": true or false, "everybody": false}: the caller's own jobs wait, or all do."""
        asked = await _object(request)
        paused, everybody = asked.get("paused"), asked.get("everybody", False)
        if not isinstance(paused, bool) or not isinstance(everybody, bool):
            raise RequestError("paused and everybody must be true or false", "paused")
        if everybody:
            check_house(request)
        mine = owner(request)
        await run_in_threadpool(engine.pause, paused, None if everybody else mine)
        return queue_of(engine, mine)


def queue_of(engine: Engine, mine: str) -> dict[str, Any]:
    info = engine.describe()
    jobs = [job for job in engine.jobs(mine) if not job.state.is_over]
    return {
        "paused": engine.is_paused(mine),
        "everybody_paused": engine.is_paused(),
        "waiting": info.waiting,
        "running": info.running,
        "jobs": [
            {
                "id": job.id,
                "state": job.state.value,
                "place": engine.place(job),
                "wait": engine.expected(job),
            }
            for job in sorted(jobs, key=engine.place)
        ],
    }


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


def _links(router: APIRouter, links: Links, rules: Rules) -> None:
    @router.get("/api/links")
    def listed(request: Request) -> dict[str, Any]:
        """`needed`: whether a token is asked for at all."""
        check_house(request)
        told = [
            {"id": link.id, "name": link.name, "role": link.role, "created": link.created}
            for link in links.all()
        ]
        return {"needed": rules.token is not None, "links": told}

    @router.post("/api/links")
    async def add(request: Request) -> dict[str, Any]:
        """{"name": whom it is for, "role": "guest" or "viewer"} in; the token out, this once.

        A viewer sees what whoever makes the link sees, and changes nothing.
        """
        check_house(request)
        asked = await _object(request)
        name, role = asked.get("name", ""), asked.get("role", "guest")
        if not isinstance(name, str) or role not in ("guest", "viewer"):
            raise RequestError("a link has a name, and a role: guest or viewer", "name")
        watches = owner(request) if role == "viewer" else ""
        link, token = await run_in_threadpool(links.add, name, role, watches)
        urls = [
            f"{request.url.scheme}://{host}:{rules.port}/?token={token}" for host in near(rules)
        ]
        told = {"id": link.id, "name": link.name, "role": link.role, "token": token}
        return {**told, "urls": urls}

    @router.delete("/api/links/{id}")
    def revoke(id: str, request: Request) -> dict[str, str]:
        check_house(request)
        links.revoke(id)
        return {"revoked": id}


def near(rules: Rules) -> list[str]:
    """This machine's addresses as others on the network know them; its own where there is none."""
    numbers = [host for host in rules.hosts - LOOPBACK if re.fullmatch(r"[0-9.]{7,15}", host)]
    return sorted(numbers) or ["127.0.0.1"]


async def _object(request: Request) -> dict[str, Any]:
    body = await json_body(request)
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return body
