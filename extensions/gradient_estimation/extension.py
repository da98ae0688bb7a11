"""A sampler and a schedule: gradient estimation (arXiv:2306.04848), Laplace (arXiv:2407.03297)."""

from __future__ import annotations

from core.extend import SamplerEntry, ScheduleEntry, hookimpl


@hookimpl
def samplers() -> list[SamplerEntry]:
    return [
        SamplerEntry(
            name="gradient_estimation",
            title="Gradient Estimation",
            help="Euler that leans away from its last slope: good pictures in few steps.",
            target=f"{__name__}.steps:gradient_estimation",
        )
    ]


@hookimpl
def schedules() -> list[ScheduleEntry]:
    return [
        ScheduleEntry(
            name="laplace",
            title="Laplace",
            help="Most steps around the middle noise levels.",
            target=f"{__name__}.steps:laplace",
            options=("sigma_min", "sigma_max"),
        )
    ]
