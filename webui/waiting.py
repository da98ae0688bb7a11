"""The queue's routes: who waits for what, in which order, until when; and every change of it, live.

Everybody sees and moves their own jobs; of others' there is only a number. The machine's own user
may see and stop everybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from core.engine.engine import Engine
from core.engine.job import Job
from core.errors import RequestError
from webui.house import check_house, is_house, json_object
from webui.stream import Stage, owner, until_gone

LETTERS = 120
"""Of a prompt, in the queue."""
TOGETHER_SECONDS = 0.05
"""Changes so close together are told as one."""


def routes(stage: Stage) -> APIRouter:
    """Everything under /api/queue."""
    router = APIRouter()
    _telling(router, stage)
    _changing(router, stage)
    return router


def _telling(router: APIRouter, stage: Stage) -> None:
    engine = stage.engine

    @router.get("/api/queue")
    def queue(request: Request, everybody: bool = False) -> dict[str, Any]:
        """The caller's waiting and running jobs in the order they will be begun; everybody's for
        the machine's own user who asks so."""
        if everybody:
            check_house(request)
        return queue_of(engine, request, everybody)

    @router.websocket("/api/queue/events")
    async def events(socket: WebSocket) -> None:
        """The same as /api/queue, now and after each change."""
        await socket.accept()
        telling = asyncio.create_task(_told(socket, engine))
        await until_gone(socket, telling, "the queue")


def _changing(router: APIRouter, stage: Stage) -> None:
    engine = stage.engine

    @router.post("/api/queue/order")
    async def order(request: Request) -> dict[str, Any]:
        """{"jobs": [ids]}: the caller's own waiting jobs, in the order wanted; from the machine's
        own user also somebody else's, who is one person."""
        ids = _ids(await json_object(request))
        if ids is None:
            raise RequestError("jobs must be a list of ids", "jobs")
        whose = owner(request)
        if is_house(request) and ids:
            owners = {job.id: job.owner for job in engine.jobs()}
            whose = owners.get(ids[0], whose)
        await run_in_threadpool(engine.arrange, ids, whose)
        return queue_of(engine, request)

    @router.post("/api/queue/pause")
    async def pause(request: Request) -> dict[str, Any]:
        """{"paused": true or false, "everybody": false}: the caller's own jobs wait, or all do."""
        asked = await json_object(request)
        paused, everybody = asked.get("paused"), _flag(asked, "everybody")
        if not isinstance(paused, bool):
            raise RequestError("paused must be true or false", "paused")
        if everybody:
            check_house(request)
        await run_in_threadpool(engine.pause, paused, None if everybody else owner(request))
        return queue_of(engine, request)

    @router.post("/api/queue/cancel")
    async def cancel(request: Request) -> dict[str, Any]:
        """{"jobs": [ids]}: these are discarded. Without "jobs": all own ones that wait, with
        "running": true also the one that runs, with "everybody": true not only the own ones."""
        asked = await json_object(request)
        ids, everybody = _ids(asked), _flag(asked, "everybody")
        if everybody:
            check_house(request)
        mine, running = owner(request), _flag(asked, "running")
        await run_in_threadpool(_cancel, engine, mine, everybody, ids, running)
        return queue_of(engine, request)


def queue_of(engine: Engine, caller: HTTPConnection, everybody: bool = False) -> dict[str, Any]:
    """`house`: whether the caller may pause and discard everybody's."""
    info, mine = engine.describe(), owner(caller)
    jobs = _unfinished(engine, mine, everybody)
    return {
        "house": is_house(caller),
        "paused": engine.is_paused(mine),
        "everybody_paused": engine.is_paused(),
        "waiting": info.waiting,
        "running": info.running,
        "jobs": [
            {**_entry(engine, job, mine), **({"owner": job.owner} if everybody else {})}
            for job in jobs
        ],
    }


def _unfinished(engine: Engine, mine: str, everybody: bool) -> list[Job]:
    """In the order they will be begun, the running one first."""
    jobs = [job for job in engine.jobs(None if everybody else mine) if not job.state.is_over]
    return sorted(jobs, key=engine.place)


def _entry(engine: Engine, job: Job, mine: str) -> dict[str, Any]:
    request = job.request
    return {
        "id": job.id,
        "state": job.state.value,
        "place": engine.place(job),
        "wait": engine.expected(job),
        "mine": job.owner == mine,
        "prompt": request.prompt[:LETTERS],
        "images": request.images,
        "steps": request.steps,
        "width": request.width,
        "height": request.height,
    }


def _cancel(
    engine: Engine, mine: str, everybody: bool, ids: Sequence[str] | None, running: bool
) -> None:
    """Raises RequestError for an id that is not among the jobs there are; then none is gone."""
    there = {job.id: job for job in _unfinished(engine, mine, everybody)}
    if ids is not None and (strange := [id for id in ids if id not in there]):
        raise RequestError(f"no job {strange[0][:40]!r} of yours is waiting or running", "jobs")
    if ids is None:
        ids = [id for id, job in there.items() if running or job.state.value == "waiting"]
    for id in ids:
        there[id].cancel()
    engine.changes.tell()


def _ids(asked: dict[str, Any]) -> list[str] | None:
    ids = asked.get("jobs")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(id, str) for id in ids)):
        raise RequestError("jobs must be a list of ids", "jobs")
    return ids


def _flag(asked: dict[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false", name)
    return value


async def _told(socket: WebSocket, engine: Engine) -> None:
    """Sends the queue whenever it is another one than was sent last."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closing
            loop.call_soon_threadsafe(changed.set)

    engine.changes.listen(heard)
    sent = None
    try:
        while True:
            now = await run_in_threadpool(queue_of, engine, socket)
            if (still := _but_waits(now)) != sent:
                sent = still
                await socket.send_text(json.dumps(now))
            await changed.wait()
            await asyncio.sleep(TOGETHER_SECONDS)
            changed.clear()
    finally:
        engine.changes.forget(heard)


def _but_waits(queue: dict[str, Any]) -> dict[str, Any]:
    """All of it that does not change with the clock alone."""
    jobs = [{**job, "wait": job["wait"] is None} for job in queue["jobs"]]
    return {**queue, "jobs": jobs}
