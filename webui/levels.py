"""The noise levels a run would walk, for the page's axis: known before anything runs."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from core.engine.engine import Engine
from core.errors import RequestError
from core.request import GenerationRequest, ScheduleOptions
from core.resolve import BOUNDS, OPTION_BOUNDS
from webui.fields import AUTOMATIC

_PLAIN = ScheduleOptions()


def routes(engine: Engine) -> APIRouter:
    router = APIRouter()

    @router.get("/api/levels")
    def levels(
        sampler: str,
        schedule: str,
        steps: int,
        rho: float | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        discard: Literal["yes", "no"] | None = None,
    ) -> Any:
        """See `walked`. Empty while the engine gets ready: no error, for browsers write those
        into their console."""
        discards = None if discard is None else discard == "yes"
        options = ScheduleOptions(
            rho=rho, sigma_min=sigma_min, sigma_max=sigma_max, discard_penultimate=discards
        )
        told = walked(engine, sampler, schedule, steps, options)
        return told if told else JSONResponse({}, 202, headers={"retry-after": "1"})

    return router


def walked(
    engine: Engine,
    sampler: str,
    schedule: str,
    steps: int,
    options: ScheduleOptions = _PLAIN,
) -> dict[str, Any]:
    """The falling levels of a run from noise, and the timestep of each; of the schedule that SD
    1.x, 2.x and XL were trained on. Nothing while torch is not there yet.

    Raises:
        RequestError: no such sampler or schedule, too many steps, an option out of its bounds.
    """
    low, high = BOUNDS["steps"]
    if not low <= steps <= high:
        raise RequestError(f"steps must be a whole number from {low} to {high}", "steps")
    for name, bound in OPTION_BOUNDS.items():
        value = getattr(options, name, None)
        if value is not None and not bound[0] <= value <= bound[1]:
            raise RequestError(f"{name} must lie between {bound[0]:g} and {bound[1]:g}", name)
    entry = engine.registry.sampler(sampler)
    name = entry.schedule if schedule == AUTOMATIC else schedule
    asked = GenerationRequest(
        prompt="",
        sampler=entry.name,
        schedule=engine.registry.schedule(name).name,
        steps=steps,
        schedule_options=options,
    )
    if not engine.describe().ready:
        return {}
    from core.engine.axis import levels

    sigmas, timesteps = levels(asked, engine.registry)
    return {"sigmas": sigmas, "timesteps": timesteps}
