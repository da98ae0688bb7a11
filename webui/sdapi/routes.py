"""The routes of `/sdapi/v1`, and the few outside it that clients look for first."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from core.engine.engine import Load, Unload
from core.engine.job import Job, JobState
from core.errors import Cancelled, RequestError, VitrineError
from core.images.infotext import VERSION
from core.images.inputs import Inputs
from core.settings import Settings
from webui.people import People
from webui.sdapi import controlnet, extras, lists, progress
from webui.sdapi.answer import answered
from webui.sdapi.given import ApiError, Given
from webui.sdapi.names import Names
from webui.sdapi.options import Options
from webui.sdapi.translate import Asked, Translator
from webui.show import unexpected
from webui.stream import Busy, Missing, Stage, owner, sentences

log = logging.getLogger("vitrine.sdapi")

PREFIX = "/sdapi/v1"
BODY_LIMIT = 64 * 2**20
LOOK_SECONDS = (0.01, 0.25)
"""How often a blocked call looks whether its job is over: at first, and at last."""
TASKS = 256
"""Clients' own names of jobs that are remembered."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class InTheirWords(APIRoute):
    """Errors leave these routes in A1111's shape."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                answer = await handler(request)
            except VitrineError as error:
                answer = refused(error)
            answer.headers["x-vitrine-version"] = VERSION.removeprefix("vitrine-")
            return answer

        return handled


def refused(error: VitrineError) -> JSONResponse:
    """A1111's four keys, and the sentence in each place where a client may look for it."""
    status = getattr(error, "status", None) or sentences(error).status_code
    if not isinstance(error, RequestError | Busy | Missing):
        status = 500
    body = {
        "error": type(error).__name__,
        "detail": str(error),
        "body": "",
        "errors": str(error),
    }
    return JSONResponse(body, status_code=status)


class Api:
    """What the routes share."""

    def __init__(self, stage: Stage, settings: Settings, people: People) -> None:
        self.stage, self.settings = stage, settings
        self.names = Names(stage.engine, settings)
        self.options = Options(people, self.names)
        self.translator = Translator(self.names, Inputs(settings.data_dir / "inputs"), self.styles)
        self._tasks: OrderedDict[tuple[str, str], str] = OrderedDict()

    @property
    def styles(self) -> Path:
        """`styles.csv` in the data folder, or where A1111 has it: beside the models folder."""
        own = self.settings.data_dir / "styles.csv"
        return own if own.exists() else self.settings.models_dir.parent / "styles.csv"

    def asked(self, given: Given, who: str, from_picture: bool) -> Asked:
        options = self.options.effective(who, given.object("override_settings"))
        translate = self.translator.img2img if from_picture else self.translator.txt2img
        return translate(given, options)

    def begin(self, asked: Asked, who: str) -> list[Job]:
        """All the call's jobs, or none of them."""
        jobs: list[Job] = []
        try:
            for request in asked.requests:
                jobs.append(self.stage.submit(request, who, saves=asked.saves))
        except VitrineError:
            for job in jobs:
                job.cancel()
            raise
        return jobs

    def remember(self, who: str, task: str, job: Job) -> None:
        self._tasks[who, task] = job.id
        while len(self._tasks) > TASKS:
            self._tasks.popitem(last=False)

    def job_of(self, who: str, task: str) -> Job | None:
        """The caller's job under its own name for it."""
        id = self._tasks.get((who, task))
        return None if id is None else self.stage.job(id, who)

    async def painted(self, request: Request, from_picture: bool) -> Response:
        """Makes what the body asks for, and answers when it is there."""
        who, given = owner(request), Given(await json_body(request))
        asked = await run_in_threadpool(self.asked, given, who, from_picture)
        jobs = await run_in_threadpool(self.begin, asked, who)
        if task := given.text("force_task_id"):
            self.remember(who, task, jobs[0])
        for job in jobs:
            await over(job)
        check_ended(jobs)
        engine = self.stage.engine
        body = await run_in_threadpool(answered, jobs, asked, given.body, engine.registry)
        headers = {"x-job-id": ",".join(job.id for job in jobs)}
        if asked.ignored:
            headers["x-vitrine-ignored"] = (
                ", ".join(asked.ignored).encode("ascii", "replace").decode()
            )
        return JSONResponse(body, headers=headers)


async def over(job: Job) -> None:
    """Returns when the job is over, without holding a thread meanwhile."""
    pause, longest = LOOK_SECONDS
    while not job.state.is_over:
        await asyncio.sleep(pause)
        pause = min(longest, pause * 1.2)


def check_ended(jobs: list[Job]) -> None:
    """Raises what went wrong. A job that was called off is an answer with fewer pictures."""
    for job in jobs:
        if isinstance(job.error, VitrineError):
            raise job.error
        if job.error is not None and not isinstance(job.error, Cancelled):
            raise ApiError(500, unexpected(job.error))


async def json_body(request: Request) -> Any:
    """A1111's routes take an empty body for an empty object. Raises ApiError for no JSON."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise ApiError(413, f"a body has at most {BODY_LIMIT // 2**20} MB")
    try:
        return json.loads(bytes(data) or b"{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(422, "the body is no JSON") from error


def routes(stage: Stage, settings: Settings, people: People) -> APIRouter:
    """Everything under /sdapi/v1, and /internal/ping and progress."""
    router = APIRouter(route_class=InTheirWords)
    api = Api(stage, settings, people)
    _painting(router, api)
    _steering(router, api)
    _options(router, api)
    _lists(router, api)
    _models(router, api)
    _internal(router, api)
    controlnet.routes(router, api.names, json_body)
    _missing(router)
    return router


def closed() -> APIRouter:
    """What stands in their place where they are not to be had."""
    router = APIRouter(route_class=InTheirWords)

    async def is_closed(path: str) -> Response:
        raise ApiError(404, "A1111's interface is off on the network; --api at the start opens it")

    router.add_api_route(PREFIX + "/{path:path}", is_closed, methods=["GET", "POST"])
    return router


def _painting(router: APIRouter, api: Api) -> None:
    engine = api.stage.engine

    @router.post(PREFIX + "/txt2img")
    async def txt2img(request: Request) -> Response:
        return await api.painted(request, from_picture=False)

    @router.post(PREFIX + "/img2img")
    async def img2img(request: Request) -> Response:
        return await api.painted(request, from_picture=True)

    @router.post(PREFIX + "/extra-single-image")
    async def extra_single(request: Request) -> dict[str, Any]:
        given = Given(await json_body(request))
        return await run_in_threadpool(extras.single, given, engine, api.names, owner(request))

    @router.post(PREFIX + "/extra-batch-images")
    async def extra_batch(request: Request) -> dict[str, Any]:
        given = Given(await json_body(request))
        return await run_in_threadpool(extras.batch, given, engine, api.names, owner(request))

    @router.post(PREFIX + "/png-info")
    async def png_info(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(extras.png_info, Given(await json_body(request)))

    @router.post(PREFIX + "/interrogate")
    async def interrogate(request: Request) -> Response:
        given = Given(await json_body(request))
        if not given.value("image"):
            raise ApiError(404, "Image not found", "image")
        model = given.text("model") or "clip"
        raise ApiError(
            501, f"no captioner is installed: Vitrine has no {model!r} to describe pictures with"
        )


def _steering(router: APIRouter, api: Api) -> None:
    stage = api.stage

    @router.get(PREFIX + "/progress")
    def how_far(
        request: Request, skip_current_image: bool = False, job: str | None = None
    ) -> dict[str, Any]:
        who = owner(request)
        found = progress.current(stage, who, job)
        return progress.told(stage, who, found, with_picture=not skip_current_image)

    @router.post(PREFIX + "/interrupt")
    def interrupt(request: Request, job: str | None = None) -> dict[str, Any]:
        found = progress.current(stage, owner(request), job)
        if found is not None:
            # A waiting job has nothing to finish with.
            found.cancel() if found.state is JobState.WAITING else found.interrupt()
        return {}

    @router.post(PREFIX + "/skip")
    def skip(request: Request, job: str | None = None) -> None:
        found = progress.current(stage, owner(request), job)
        if found is not None:
            found.skip()


def _options(router: APIRouter, api: Api) -> None:
    @router.get(PREFIX + "/options")
    def options(request: Request) -> dict[str, Any]:
        return api.options.of(owner(request))

    @router.post(PREFIX + "/options")
    async def change(request: Request) -> None:
        values = Given(await json_body(request)).body
        await run_in_threadpool(api.options.change, owner(request), values)

    @router.get(PREFIX + "/cmd-flags")
    def cmd_flags() -> dict[str, Any]:
        off = ("share", "ngrok", "api_auth", "gradio_auth", "nowebui", "medvram", "lowvram")
        return {"api": True, **dict.fromkeys(off, None)}

    @router.get(PREFIX + "/version")
    def told_version() -> dict[str, str]:
        return {"version": VERSION.removeprefix("vitrine-"), "app": "vitrine"}


def _lists(router: APIRouter, api: Api) -> None:
    for path, listed in (
        ("/samplers", lists.samplers),
        ("/schedulers", lists.schedulers),
        ("/sd-models", lists.sd_models),
        ("/sd-vae", lists.sd_vae),
        ("/upscalers", lists.upscalers),
        ("/latent-upscale-modes", lists.latent_upscale_modes),
        ("/hypernetworks", lists.hypernetworks),
        ("/realesrgan-models", lists.realesrgan_models),
        ("/loras", lists.loras),
        ("/embeddings", lists.embeddings),
    ):
        router.add_api_route(PREFIX + path, _listed(listed, api.names), methods=["GET"])

    @router.get(PREFIX + "/prompt-styles")
    def prompt_styles() -> list[dict[str, Any]]:
        return lists.prompt_styles(api.styles)

    @router.get(PREFIX + "/memory")
    def memory() -> dict[str, Any]:
        return lists.memory()

    @router.get(PREFIX + "/scripts")
    def scripts() -> dict[str, list[str]]:
        return {"txt2img": [controlnet.SCRIPT], "img2img": [controlnet.SCRIPT]}

    def none() -> list[Any]:
        return []

    for path in ("/script-info", "/extensions", "/face-restorers", "/sd-modules"):
        router.add_api_route(PREFIX + path, none, methods=["GET"])


def _listed(listed: Callable[[Names], Any], names: Names) -> Callable[[], Any]:
    def answer() -> Any:
        return listed(names)

    return answer


def _models(router: APIRouter, api: Api) -> None:
    engine = api.stage.engine

    def nothing_to_do() -> None:
        """Every look at the folders finds what is there now."""

    for what in ("checkpoints", "vae", "loras", "embeddings"):
        router.add_api_route(f"{PREFIX}/refresh-{what}", nothing_to_do, methods=["POST"])

    @router.post(PREFIX + "/unload-checkpoint")
    async def unload(request: Request) -> dict[str, Any]:
        await asyncio.wrap_future(engine.inspect(Unload(), owner(request)))
        return {}

    @router.post(PREFIX + "/reload-checkpoint")
    async def reload(request: Request) -> None:
        who = owner(request)
        options = await run_in_threadpool(api.options.effective, who, {})
        name = str(options["sd_model_checkpoint"]) or None
        await asyncio.wrap_future(engine.inspect(Load(name), who))


def _internal(router: APIRouter, api: Api) -> None:
    @router.get("/internal/ping")
    def ping() -> dict[str, Any]:
        return {}

    @router.get("/user")
    @router.get("/user/")
    def user() -> None:
        """gradio's own, of the version that A1111 has: by it programs ask whether anybody is there.
        Nobody logs in here by a name."""

    @router.get("/app_id")
    @router.get("/app_id/")
    def app_id() -> dict[str, Any]:
        return {"app_id": api.stage.id}

    @router.get("/internal/pending-tasks")
    def pending(request: Request) -> dict[str, Any]:
        mine = [job for job in api.stage.engine.jobs(owner(request)) if not job.state.is_over]
        return {"size": len(mine), "tasks": [job.id for job in mine]}

    @router.post("/internal/progress")
    async def how_far(request: Request) -> dict[str, Any]:
        given, who = Given(await json_body(request)), owner(request)
        job = api.job_of(who, given.text("id_task") or "")
        wants = given.value("live_preview") is None or given.truth("live_preview")
        return await run_in_threadpool(_task, api, who, job, wants)


def _task(api: Api, who: str, job: Job | None, wants_picture: bool) -> dict[str, Any]:
    is_over = job is not None and job.state.is_over
    waits = job is not None and job.state is JobState.WAITING
    told = progress.told(api.stage, who, None if is_over else job, wants_picture)
    picture = told["current_image"]
    return {
        "active": job is not None and not is_over and not waits,
        "queued": waits,
        "completed": is_over,
        "progress": told["progress"] if job is not None and not is_over else None,
        "eta": told["eta_relative"] or None,
        "live_preview": None if picture is None else f"data:image/jpeg;base64,{picture}",
        "id_live_preview": told["state"]["sampling_step"] if picture else -1,
        "textinfo": told["textinfo"],
    }


NOT_THERE = {
    "train": "nothing is trained here",
    "create": "nothing is trained here",
    "server-kill": "the server is stopped where it was started",
    "server-restart": "the server is restarted where it was started",
    "server-stop": "the server is stopped where it was started",
}
"""The first part of a route that A1111 or an extension of it has -> why it is not here."""


def _missing(router: APIRouter) -> None:
    async def missing(path: str) -> Response:
        first = path.partition("/")[0]
        why = NOT_THERE.get(first, "A1111's clients may find it elsewhere, not here")
        raise ApiError(404, f"there is no route {PREFIX}/{path[:80]}: {why}")

    async def no_controlnet(path: str) -> Response:
        raise ApiError(404, f"there is no route /controlnet/{path[:80]} here")

    async def of_an_extension(path: str) -> Response:
        raise ApiError(
            404, f"there is no route /sdapi/{path[:80]}: its extension is not installed here"
        )

    for route, answer in (
        (PREFIX + "/{path:path}", missing),
        ("/controlnet/{path:path}", no_controlnet),
        ("/sdapi/{path:path}", of_an_extension),
    ):
        router.add_api_route(route, answer, methods=["GET", "POST"])
