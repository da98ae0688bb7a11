"""Whose time, whose fault: the guard between the house and an extension's functions."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from core.additions import AttentionWrapper, DenoiserWrapper
from core.errors import ExtensionError, NotFinite
from core.extend.guard import Guard, Ledger, guarded
from core.nn.attention import PLAIN, Attending, Site, plain_attend

X, SIGMA = torch.ones(1, 4, 2, 2), torch.tensor(2.0)


@dataclass(frozen=True)
class Settings:
    pass


def test_what_the_house_does_inside_is_not_their_time() -> None:
    ledger = Ledger()

    def slow(x: Tensor, sigma: Tensor) -> Tensor:
        time.sleep(0.2)
        return x

    def wrap(denoise, settings):  # type: ignore[no-untyped-def]
        return lambda x, sigma: denoise(x, sigma) * 2

    wrapper = guarded(DenoiserWrapper("one", Settings, wrap), Guard("one", ledger))
    assert torch.equal(wrapper.wrap(slow, Settings())(X, SIGMA), X * 2)
    assert ledger.accounts()["one"].seconds < 0.1


def test_an_error_of_the_house_is_not_their_fault() -> None:
    ledger = Ledger()

    def failing(x: Tensor, sigma: Tensor) -> Tensor:
        raise NotFinite("a network gave NaN")

    def wrap(denoise, settings):  # type: ignore[no-untyped-def]
        return lambda x, sigma: denoise(x, sigma)

    def broken(denoise, settings):  # type: ignore[no-untyped-def]
        return lambda x, sigma: 1 / 0

    guard = Guard("one", ledger)
    with pytest.raises(NotFinite):
        guarded(DenoiserWrapper("one", Settings, wrap), guard).wrap(failing, 0)(X, SIGMA)
    assert not ledger.accounts()["one"].errors
    with pytest.raises(ExtensionError, match=r"^one: "):
        guarded(DenoiserWrapper("one", Settings, broken), guard).wrap(lambda x: x, 0)(X, SIGMA)
    assert ledger.accounts()["one"].errors == 1


def test_what_is_handed_back_untouched_is_the_houses_own() -> None:
    guard = Guard("one", Ledger())

    def wrap(attending: Attending, settings: Settings) -> Attending:
        def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
            return attending.attend(q, k, v, site) + 1

        return Attending(attending.sources, attend)

    wrapped = guarded(AttentionWrapper("one", Settings, wrap), guard).wrap(PLAIN, Settings())
    assert wrapped.sources is PLAIN.sources
    q = torch.randn(1, 1, 4, 8)
    site = Site("middle", 0, 0, "self")
    assert torch.equal(wrapped.attend(q, q, q, site), plain_attend(q, q, q, site) + 1)
