"""Our own routes: a session's jobs, their events over a WebSocket, their frames and images.

Every route looks a job up by its id and its owner; to anyone else it is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import secrets
import struct
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any, get_args

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from core.engine.engine import DecodeStep, Engine, View
from core.engine.job import Job, JobState
from core.errors import RequestError, VitrineError
from core.events import ImageDone
from core.request import GenerationRequest
from webui.show import FrameKey, Place, Shows, image_message, shown, thumbnail

log = logging.getLogger("vitrine.stream")

IMMUTABLE = {"cache-control": "private, max-age=31536000, immutable"}
REQUEST_LIMIT = 2**20
"""Bytes of a request's JSON."""
WATCHERS = 32
"""WebSockets one session may hold open."""
WAITING = 64
"""Jobs one session may have waiting."""
WAITING_IN_ALL = 1000
"""Jobs of everybody."""
FULL_FRAMES = 128 * 2**20
"""Bytes of fully decoded frames that are kept."""
DECODE_SECONDS = 60
"""How long a request for a full frame waits for it."""
PLACE_SECONDS = 0.5
"""How often a waiting job's place is looked at."""

VIEW_NUMBER: dict[View, int] = {"latents": 0, "denoised": 1}
FRAME_HEADER = struct.Struct("<BBHI")
"""Before each JPEG: format (1), view, image, index; little-endian, 8 bytes."""


class Missing(VitrineError):
    """There is no such thing, or it is somebody else's."""


class Busy(VitrineError):
    """Not now."""


def owner(connection: HTTPConnection) -> str:
    """The caller's session, as the gate named it."""
    return str(connection.scope["vitrine.owner"])


class Stage:
    """What the routes share: the engine and what has been made visible of its jobs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shows = Shows()
        self.full = FullFrames(engine)
        self.watchers: Counter[str] = Counter()
        self.id = secrets.token_hex(8)
        """Of this run of the server: a watcher that comes back learns that numbers began anew."""

    def job(self, id: str, owner: str) -> Job:
        """Raises Missing for an unknown id, and for somebody else's."""
        # An engine reads old jobs from disk, so one that is on show is not asked for again.
        show = self.shows.known(id)
        try:
            job = show.job if show is not None else self.engine.job(id)
        except RequestError as error:
            raise Missing("there is no such job") from error
        if job.owner != owner:
            raise Missing("there is no such job")
        return job

    def submit(self, request: GenerationRequest, owner: str, saves: bool = True) -> Job:
        """Raises RequestError, FileError, or Busy when too many of this owner's are waiting."""
        if self.engine.describe().waiting >= WAITING_IN_ALL:
            raise Busy(f"{WAITING_IN_ALL} jobs are waiting already; come back later")
        mine = self.engine.jobs(owner)
        if sum(job.state is JobState.WAITING for job in mine) >= WAITING:
            raise Busy(f"{WAITING} jobs of yours are waiting already; let some finish first")
        return self.engine.submit(request, owner, saves)

    def summary(self, job: Job) -> dict[str, Any]:
        """A job in JSON values."""
        over = job.state.is_over
        images = [event for event in job.events() if isinstance(event, ImageDone)]
        return {
            "id": job.id,
            "state": job.state.value,
            "created": job.created,
            "place": None if over else self.engine.place(job),
            "wait": None if over else self.engine.expected(job),
            "request": shown(job.request),
            "images": [image_message(done) for done in images],
        }


class FullFrames:
    """Steps decoded by the checkpoint's own VAE, kept while there is room."""

    def __init__(self, engine: Engine, budget: int = FULL_FRAMES) -> None:
        self._engine, self._budget = engine, budget
        self._kept: OrderedDict[tuple[str, FrameKey], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def frame(self, job: Job, key: FrameKey, place: Place) -> bytes:
        """The frame of a key; `place` says which pass and step that is.

        Raises Busy while the engine has jobs to run: they come first."""
        with self._lock:
            if (kept := self._kept.get((job.id, key))) is not None:
                self._kept.move_to_end((job.id, key))
                return kept
        info = self._engine.describe()
        if info.running or info.waiting:
            raise Busy("the engine is at work; ask again when it rests")
        query = DecodeStep(job.id, key.image, place.step, key.view, place.pass_index)
        try:
            picture = self._engine.inspect(query, job.owner).result(DECODE_SECONDS)
        except TimeoutError as error:
            raise Busy("the decoder takes its time; ask again later") from error
        from core.images.preview import jpeg

        frame = jpeg(picture.convert("RGB"), quality=90)
        with self._lock:
            self._kept[job.id, key] = frame
            while sum(map(len, self._kept.values())) > self._budget:
                self._kept.popitem(last=False)
        return frame


def routes(stage: Stage) -> APIRouter:
    """Everything under /api, /frames and /images."""
    router = APIRouter()
    _job_routes(router, stage)
    _picture_routes(router, stage)

    @router.websocket("/api/jobs/{id}/events")
    async def events(socket: WebSocket, id: str, after: int = 0) -> None:
        await _watched(socket, stage, id, after)

    return router


def _job_routes(router: APIRouter, stage: Stage) -> None:
    @router.get("/api/session")
    def session(request: Request) -> dict[str, Any]:
        """The caller's jobs, oldest first, and what runs them."""
        info = stage.engine.describe()
        return {
            "engine": {
                "ready": info.ready,
                "device": info.device,
                "precision": info.precision,
                "problem": info.problem,
            },
            "jobs": [stage.summary(job) for job in stage.engine.jobs(owner(request))],
        }

    @router.post("/api/jobs")
    async def submit(request: Request) -> dict[str, str]:
        asked = GenerationRequest.from_json(await json_body(request))
        job = await run_in_threadpool(stage.submit, asked, owner(request))
        return {"id": job.id}

    @router.get("/api/jobs")
    def jobs(request: Request) -> list[dict[str, Any]]:
        return [stage.summary(job) for job in stage.engine.jobs(owner(request))]

    @router.get("/api/jobs/{id}")
    def job(id: str, request: Request) -> dict[str, Any]:
        return stage.summary(stage.job(id, owner(request)))

    @router.post("/api/jobs/{id}/interrupt")
    def interrupt(id: str, request: Request) -> dict[str, str]:
        job = stage.job(id, owner(request))
        # A waiting job has nothing to finish with.
        if job.state is JobState.WAITING:
            job.cancel()
        else:
            job.interrupt()
        return {"state": job.state.value}

    @router.post("/api/jobs/{id}/skip")
    def skip(id: str, request: Request) -> dict[str, str]:
        job = stage.job(id, owner(request))
        job.skip()
        return {"state": job.state.value}

    @router.delete("/api/jobs/{id}")
    @router.post("/api/jobs/{id}/cancel")
    def cancel(id: str, request: Request) -> dict[str, str]:
        job = stage.job(id, owner(request))
        job.cancel()
        stage.engine.changes.tell()
        return {"state": job.state.value}


def _picture_routes(router: APIRouter, stage: Stage) -> None:
    @router.get("/frames/{id}/{image}/{view}/{index}.jpg")
    def frame(
        id: str, image: int, view: str, index: int, request: Request, full: bool = False
    ) -> Response:
        job = stage.job(id, owner(request))
        known = {name: name for name in get_args(View)}
        if view not in known:
            raise Missing("there is no such view")
        key = FrameKey(image, known[view], index)
        show = stage.shows.of(job)
        if job.state.is_over:
            show.settle(timeout=10)
        data = show.frame(key)
        if data is None:
            raise Missing("there is no such frame")
        place = show.place(key)
        if full and place is not None:
            try:
                data = stage.full.frame(job, key, place)
            except Busy:
                # No error, and nothing yet: browsers write errors into their console.
                return Response(status_code=202, headers={"retry-after": "1"})
        return Response(data, media_type="image/jpeg", headers=IMMUTABLE)

    @router.get("/images/{id}/{index}.png")
    def image(id: str, index: int, request: Request, download: bool = False) -> Response:
        done = _done(stage, id, index, request)
        path = done.path
        if path is not None and path.suffix.lower() == ".png" and path.is_file():
            kind = "attachment" if download else "inline"
            return FileResponse(
                path,
                media_type="image/png",
                filename=path.name,
                headers=IMMUTABLE,
                content_disposition_type=kind,
            )
        return Response(png(done), media_type="image/png", headers=IMMUTABLE)

    @router.get("/images/{id}/{index}/thumbnail.jpg")
    def small(id: str, index: int, request: Request) -> Response:
        from core.images.preview import jpeg

        done = _done(stage, id, index, request)
        data = jpeg(thumbnail(done.image), quality=88)
        return Response(data, media_type="image/jpeg", headers=IMMUTABLE)


def _done(stage: Stage, id: str, index: int, request: Request) -> ImageDone:
    job = stage.job(id, owner(request))
    show = stage.shows.of(job)
    if job.state.is_over:
        show.settle(timeout=10)
    done = show.image(index)
    if done is None:
        raise Missing("there is no such image")
    return done


def png(done: ImageDone) -> bytes:
    """The picture as a file, for one that could not be saved."""
    stream = io.BytesIO()
    done.image.save(stream, "PNG")
    return stream.getvalue()


async def json_body(request: Request) -> Any:
    """Raises RequestError for what is no JSON, and for more than a request can hold."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > REQUEST_LIMIT:
            raise RequestError(f"a request has at most {REQUEST_LIMIT:,} bytes")
    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise RequestError("that is no JSON") from error


def sentences(error: VitrineError) -> JSONResponse:
    """An error as the API's answer: one sentence, and the field where it is one."""
    status = 422
    if isinstance(error, Missing):
        status = 404
    elif isinstance(error, Busy):
        status = 429
    elif not isinstance(error, RequestError):
        status = getattr(error, "status", 409)
    body = {"error": str(error), "field": getattr(error, "field", None)}
    return JSONResponse(body, status_code=status)


async def _watched(socket: WebSocket, stage: Stage, id: str, after: int) -> None:
    """Sends a job's messages above `after`, then whatever comes, until it is over.

    Messages are sent all and in order; of frames only the newest, so whoever is slow falls behind
    in pictures and not in time. The rest can be fetched.
    """
    mine = str(socket.scope.get("vitrine.caller", owner(socket)))
    try:
        job = stage.job(id, owner(socket))
    except Missing:
        await socket.close(code=4404, reason="there is no such job")
        return
    if stage.watchers[mine] >= WATCHERS:
        await socket.close(code=4429, reason="too many watchers")
        return
    stage.watchers[mine] += 1
    await socket.accept()
    await socket.send_text(json.dumps([{"type": "hello", "server": stage.id}]))
    try:
        await until_gone(socket, asyncio.create_task(_sent(socket, stage, job, after)), job.id)
    finally:
        stage.watchers[mine] -= 1
        if not stage.watchers[mine]:
            del stage.watchers[mine]


async def until_gone(socket: WebSocket, sending: asyncio.Task[None], what: str) -> None:
    """Lets `sending` send until it is done, or whoever listens goes; then nothing is left of it."""
    listening = asyncio.create_task(_closed(socket))
    try:
        await asyncio.wait({listening, sending}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and sending.exception() is None:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close()
    finally:
        listening.cancel()
        sending.cancel()
        _, problem = await asyncio.gather(listening, sending, return_exceptions=True)
        # A watcher may go while something is sent to it; anything else is a fault of ours.
        if isinstance(problem, Exception) and not isinstance(
            problem, RuntimeError | WebSocketDisconnect
        ):
            log.error("watching %s failed", what, exc_info=problem)


async def _closed(socket: WebSocket) -> None:
    """Returns when the watcher goes; nothing is asked of it, so what it says is dropped."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _sent(socket: WebSocket, stage: Stage, job: Job, after: int) -> None:
    show = await run_in_threadpool(stage.shows.of, job)
    more = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closing
            loop.call_soon_threadsafe(more.set)

    show.listen(heard)
    more.set()
    sent: Iterable[FrameKey] = ()
    place: dict[str, Any] | None = None
    try:
        while True:
            waiting = job.state is JobState.WAITING
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(more.wait(), PLACE_SECONDS if waiting else None)
            more.clear()
            if waiting and (now := _place(stage.engine, job)) != place:
                place = now
                told = {"type": "place", **now, "wait": stage.engine.expected(job)}
                await socket.send_text(json.dumps([told]))
            over = show.over
            if messages := show.messages(after):
                after += len(messages)
                await socket.send_text(json.dumps(messages))
            latest = show.latest()
            if tuple(latest) != sent:
                sent = tuple(latest)
                for key, frame in latest.items():
                    await socket.send_bytes(framed(key, frame))
            if over:
                return
    finally:
        show.forget(heard)


def _place(engine: Engine, job: Job) -> dict[str, Any]:
    paused = engine.is_paused(job.owner) or engine.is_paused()
    return {"place": engine.place(job), "paused": paused}


def framed(key: FrameKey, frame: bytes) -> bytes:
    """A JPEG with its header, as sent over the WebSocket."""
    return FRAME_HEADER.pack(1, VIEW_NUMBER[key.view], key.image, key.step) + frame
