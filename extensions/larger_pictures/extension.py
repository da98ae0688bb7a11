"""Self-attention kept as sharp as in training when there are more pixels (arXiv:2306.08645)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.extend import AttentionWrapper, hookimpl, setting
from webui.hookspecs import Panel

if TYPE_CHECKING:
    from torch import Tensor

    from core.nn.attention import Attending, Site


@dataclass(frozen=True)
class Settings:
    times: float = setting(
        2.25, low=0.1, high=64, help="How many times more pixels than the model was trained with."
    )


def sharpened(attending: Attending, settings: Settings) -> Attending:
    """Self-attention over N tokens with the entropy it has over those of training.

    Section 3.2: the scale √(1 / d) becomes √(log_T N / d), where T = N / times.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        tokens = k.shape[-2]
        trained = max(2.0, tokens / settings.times)
        if site.kind == "self" and tokens > 1:
            q = q * math.sqrt(math.log(tokens) / math.log(trained))
        return attending.attend(q, k, v, site)

    return replace(attending, attend=attend)


@hookimpl
def attention_wrappers() -> list[AttentionWrapper]:
    return [AttentionWrapper("larger_pictures", Settings, sharpened)]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("larger_pictures", Settings, "Steady attention in larger pictures")]
