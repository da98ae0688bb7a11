"""How finished runs from the same noise compare: calls, seconds, distance to a finer one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from core.engine.job import Job
from core.errors import RequestError
from core.events import Finished, Step
from webui.stream import Stage, owner

if TYPE_CHECKING:
    from torch import Tensor

LANES = 9
"""Runs at most, the reference among them."""


def routes(stage: Stage) -> APIRouter:
    router = APIRouter(prefix="/api/explain")

    @router.get("/race")
    def race(jobs: str, request: Request, reference: str = "") -> dict[str, Any]:
        """`jobs`: ids joined by commas; `reference`: of the run that distances are measured to."""
        ids = jobs.split(",")
        if len(ids) >= LANES:
            raise RequestError(f"at most {LANES - 1} runs can be compared")
        mine = owner(request)
        last = ended(stage.job(reference, mine)) if reference else None
        return {"lanes": [lane(stage.job(id, mine), last) for id in ids]}

    return router


def lane(job: Job, reference: Tensor | None) -> dict[str, Any]:
    """What a run cost, and how far its end and its estimates on the way are from `reference`.

    Distances are root mean squares over all numbers of the latents, whose own spread is about 1.
    """
    steps = [event for event in job.events() if isinstance(event, Step)]
    finished = next((event for event in job.events() if isinstance(event, Finished)), None)
    last = ended(job)
    same = reference is not None and last is not None and reference.shape == last.shape
    return {
        "id": job.id,
        "calls": finished.evaluations if finished else None,
        "seconds": sum(step.seconds for step in steps) if finished else None,
        "distance": distance(last, reference) if same else None,
        "steps": [
            {
                "at": step.state.index,
                "sigma": step.sigma,
                "distance": distance(step.state.denoised, reference) if same else None,
            }
            for step in steps
        ],
    }


def ended(job: Job) -> Tensor | None:
    """The latents (1 c h w) that a run came to; None while it has not."""
    steps = [event for event in job.events() if isinstance(event, Step)]
    return steps[-1].state.latents if steps and job.state.is_over else None


def distance(one: Tensor | None, other: Tensor | None) -> float | None:
    if one is None or other is None:
        return None
    return float((one - other).square().mean().sqrt())
