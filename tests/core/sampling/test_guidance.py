"""How a network is asked for several prompts at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.nn.attention import Attending, naive_attend
from core.nn.blocks import as_many
from core.nn.residuals import Residuals
from core.sampling.conditioning import Conditioning
from core.sampling.guidance import one_by_one, row_by_row, together
from core.sampling.prediction import Prediction, Predictor
from core.sampling.schedule import Schedule

SCHEDULE = Schedule(torch.linspace(0.1, 10, 20))


def test_a_call_in_parts_is_the_call() -> None:
    """The rows of images and prompts are their own affair."""

    def network(x: Tensor, timestep: Tensor, context: Tensor, *_: Any, **__: Any) -> Tensor:
        words = context.sum(dim=(1, 2))[:, None, None, None]
        return as_many(x * timestep[:, None, None, None], len(words)) + words

    predictor = Predictor(network, Prediction.EPS, SCHEDULE)
    x, sigma = torch.randn(3, 4, 2, 2), torch.tensor(2.0)
    asked = [Conditioning(torch.randn(1, 5, 4)), Conditioning(torch.randn(1, 5, 4))]
    whole = together(predictor, x, sigma, asked)
    for way in (one_by_one, row_by_row):
        assert all(map(torch.equal, way(predictor, x, sigma, asked), whole))


def test_who_looks_inside_sees_every_row_and_nothing_is_kept() -> None:
    seen: list[tuple[int, bool]] = []

    def network(x: Tensor, timestep: Tensor, context: Tensor, *_: Any, **told: Any) -> Tensor:
        seen.append((len(x), told["attending"].words is not None))
        return torch.zeros(len(context), 4, 2, 2)

    plain = Predictor(network, Prediction.EPS, SCHEDULE)
    x, sigma = torch.randn(1, 4, 2, 2), torch.tensor(2.0)
    prompts = [Conditioning(torch.randn(1, 5, 4)), Conditioning(torch.randn(1, 5, 4))]
    beside = [replace(prompt, concat=torch.zeros(1, 1, 2, 2)) for prompt in prompts]
    pooled = [replace(prompt, pooled=torch.zeros(1, 3)) for prompt in prompts]
    for predictor, asked in (
        (plain, prompts),
        (replace(plain, attending=Attending(attend=naive_attend)), prompts),
        (replace(plain, controls=(lambda *_: Residuals(),)), prompts),
        (replace(plain, looks=(lambda attending, *_: attending,)), prompts),
        (plain, beside),
        (plain, pooled),
    ):
        together(predictor, x, sigma, asked)
    assert seen == [(1, True), *[(2, False)] * 3, *[(2, True)] * 2]
