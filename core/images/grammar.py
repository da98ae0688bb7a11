"""The grammar of A1111's text: prompt, negative prompt, then one line of keys and values.

As AUTOMATIC1111/stable-diffusion-webui 1.10.1 writes and reads it. What the keys mean is the
business of `infotext` and `pasted`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import RequestError

MAX_LENGTH = 1_000_000
"""Characters; longer texts are no infotext."""

NEGATIVE = "Negative prompt:"

UNNAMED_SCHEDULES = ("normal", "ddim_uniform", "timesteps", "time_uniform")
"""What A1111 uses for "Automatic" where the sampler asks for nothing; it writes "Automatic"."""

OPTIONS = {
    "eta": ("Eta", 1.0),
    "s_churn": ("Sigma churn", 0.0),
    "s_tmin": ("Sigma tmin", 0.0),
    "s_tmax": ("Sigma tmax", None),
    "s_noise": ("Sigma noise", 1.0),
}
"""Field of SamplerOptions -> A1111's key and the default it leaves out, in A1111's order."""

WITHOUT_NOISE = ("ddim", "dpm_fast", "dpm_adaptive")
"""Samplers whose eta is 0 unless it is set."""

FILLS = {"colour": "fill", "noise": "latent noise", "nothing": "latent nothing"}
"""Values of Fill -> A1111's "Masked content"; it leaves "original" out."""


@dataclass(frozen=True)
class Infotext:
    """What an infotext says, unjudged: `read(str(infotext)) == infotext` for every one read."""

    prompt: str
    negative: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The last line's keys and values in their order; values unquoted."""

    def __str__(self) -> str:
        negative = f"\n{NEGATIVE} {self.negative}" if self.negative else ""
        pairs = ", ".join(k if k == v else f"{k}: {quoted(v)}" for k, v in self.fields.items())
        return f"{self.prompt}{negative}\n{pairs}".strip()


def quoted(value: str) -> str:
    """As JSON if it would be misread otherwise, else as it is."""
    misread = re.search('[,:\n]|^["\\s]|\\s$', value)
    return json.dumps(value, ensure_ascii=False) if misread else value


def unquoted(value: str) -> str:
    """The inverse of `quoted`; what only looks quoted stays as it is."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def read(text: str) -> Infotext:
    """Takes an infotext apart.

    As A1111 does, the last line holds the fields if it has three of them at least; else all of it
    is prompt.

    Raises:
        RequestError: it is longer than MAX_LENGTH.
    """
    if len(text) > MAX_LENGTH:
        raise RequestError(f"{len(text):,} characters are too many for generation parameters")
    *lines, last = (line.rstrip("\r") for line in text.strip().split("\n"))
    pairs = _pairs(last)
    if sum(key is not None for key, _ in pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in lines:
        if line.lstrip().startswith(NEGATIVE):
            into, line = negative, line.lstrip()[len(NEGATIVE) :].removeprefix(" ")
        into.append(line)
    fields = {value if key is None else key: value for key, value in pairs}
    return Infotext("\n".join(prompt), "\n".join(negative), fields)


_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=,|\Z)')


def _pairs(line: str) -> list[tuple[str | None, str]]:
    r"""The fields of a line; what stands between commas without a key has key None.

    Finds what A1111's `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)` finds, but in linear
    time: that expression takes minutes for a long line without a colon.
    """
    pairs: list[tuple[str | None, str]] = []
    done = seen = 0  # ends of the last field and of the last colon looked at
    while (colon := line.find(":", seen)) >= 0:
        key = _key(line[seen:colon])
        seen = colon + 1
        if key is None:
            continue
        pairs += _lone(line[done : colon - len(key)])
        start = _SPACE.match(line, seen).end()  # type: ignore[union-attr]
        if match := _QUOTED.match(line, start):
            end = match.end()
        else:
            comma = line.find(",", start)
            end = comma if comma >= 0 else len(line)
        pairs.append((key, unquoted(line[start:end])))
        done = seen = end + 1
    return pairs + _lone(line[done:])


def _key(before: str) -> str | None:
    """The key at the end of what stands before a colon: two characters at least."""
    run = re.split(r"[^\w \-/]", before)[-1].lstrip(" -/")
    return run if len(run) > 1 else None


def _lone(between: str) -> list[tuple[str | None, str]]:
    """What stands alone between commas: A1111 writes a key that equals its value once."""
    return [(None, piece) for raw in between.split(",") if (piece := raw.strip())]
