"""Predictions of several prompts to one denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from core.nn.attention import Words
from core.sampling.conditioning import Conditioning
from core.sampling.latest import Latest
from core.sampling.prediction import Predictor
from core.sampling.state import Denoiser


@dataclass(frozen=True)
class Predictions:
    """What the network said at one point, before it is combined."""

    x: Tensor
    """(b c h w) latents at `sigma`."""
    sigma: Tensor
    conds: tuple[Tensor, ...]
    """The estimate for each part of the prompt (one, unless it has AND)."""
    weights: tuple[float, ...]
    uncond: Tensor | None
    """The estimate for the negative prompt; None where it has no say."""


Combine: TypeAlias = Callable[[Predictions], Tensor]
Ask: TypeAlias = Callable[[Predictor, Tensor, Tensor, Sequence[Conditioning]], tuple[Tensor, ...]]
"""(predictor, x, sigma, prompts of one row each) -> the estimate for each, shaped like x."""


def classifier_free(cfg_scale: float) -> Combine:
    """uncond + cfg_scale · Σ weight · (cond − uncond).

    arXiv:2207.12598, equation 6, with their 1 + w written as cfg_scale; several prompts as in
    arXiv:2206.01714, equation 11.
    """

    def combine(predictions: Predictions) -> Tensor:
        if predictions.uncond is None:
            return predictions.conds[0]
        guided = predictions.uncond
        for cond, weight in zip(predictions.conds, predictions.weights, strict=True):
            guided = guided + weight * cfg_scale * (cond - predictions.uncond)
        return guided

    return combine


def guided(
    predictor: Predictor,
    positive: Sequence[tuple[Conditioning, float]],
    negative: Conditioning,
    cfg_scale: float,
    combine: Combine,
    ask: Ask | None = None,
) -> Denoiser:
    """A denoiser that asks the network for every prompt and combines the answers.

    At cfg_scale 1 with one prompt the negative one has no say, so it is not asked.

    Args:
        positive: each part of the prompt with its weight; one row of context each.
        negative: one row of context.
        ask: how the network is asked; None: together.
    """
    ask = ask or together
    conditionings = [conditioning for conditioning, _ in positive]
    weights = tuple(weight for _, weight in positive)
    alone = cfg_scale == 1 and weights == (1.0,)
    asked = conditionings if alone else [*conditionings, replace(negative, negative=(True,))]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        answers = ask(predictor, x, sigma, asked)
        conds = tuple(answers[: len(weights)])
        uncond = None if alone else answers[-1]
        return combine(Predictions(x, sigma, conds, weights, uncond))

    return denoise


def together(
    predictor: Predictor, x: Tensor, sigma: Tensor, asked: Sequence[Conditioning]
) -> tuple[Tensor, ...]:
    """One network call for all prompts, where their contexts have the same length."""
    if len({conditioning.context.shape[1] for conditioning in asked}) > 1:
        return one_by_one(predictor, x, sigma, asked)
    told = _stacked(asked, x.shape[0], predictor.told)
    return predictor(x, sigma, told).chunk(len(asked))


def _stacked(asked: Sequence[Conditioning], images: int, latest: Latest | None) -> Conditioning:
    """The rows of all prompts, each for so many images; with a place for what the network makes of
    them where the latest are kept."""

    def stacked(words: Words | None) -> Conditioning:
        return replace(Conditioning.stacked([c.repeated(images) for c in asked]), words=words)

    if latest is None:
        return stacked(None)
    parts = [part for c in asked for part in (c.context, c.pooled, c.concat)]
    return latest.of([*parts, images], lambda: stacked(Words(images)))


def one_by_one(
    predictor: Predictor, x: Tensor, sigma: Tensor, asked: Sequence[Conditioning]
) -> tuple[Tensor, ...]:
    """A network call for each prompt: less memory, the same answers to rounding."""
    return tuple(predictor(x, sigma, c.repeated(x.shape[0])) for c in asked)


def row_by_row(
    predictor: Predictor, x: Tensor, sigma: Tensor, asked: Sequence[Conditioning]
) -> tuple[Tensor, ...]:
    """A network call for each prompt of each image."""
    return tuple(torch.cat([predictor(row, sigma, c) for row in x.split(1)]) for c in asked)
