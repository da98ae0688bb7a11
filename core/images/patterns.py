"""Names for saved pictures, from patterns with A1111's tokens: `[seed]-[prompt_words]`.

As AUTOMATIC1111/stable-diffusion-webui 1.10.1 documents and fills them in. Whatever the prompt
says, what comes out is a name that every common file system takes, inside the folder meant for it.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from types import MappingProxyType
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from core.request import GenerationRequest

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PATTERN = 1000
"""Characters of a pattern that are looked at."""
MAX_PART = 128
"""Characters of a token's text; A1111's limit."""
MAX_NAME = 180
"""Bytes in UTF-8 of a name without number and ending: file systems take 255 in all."""
MAX_FOLDERS = 8
WORDS = 8
"""Words of [prompt_words], as in A1111."""

TIME = "%Y%m%d%H%M%S"

FORBIDDEN = '#<>:"/\\|?*'
"""What no part of a name may hold: Windows' list and A1111's `#`."""

RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.I)
"""Names that mean devices on Windows, with any ending."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a pattern can name: one picture's request, resolved, and its circumstances."""

    request: GenerationRequest
    now: datetime
    started: datetime
    """When the run began."""
    width: int
    height: int
    sampler: str = ""
    """A1111's titles."""
    scheduler: str = ""
    model_name: str = ""
    model_hash: str = ""
    """SHA-256 in hexadecimal."""
    index: int = 0
    """Number of the picture in its run, from 0."""
    images: int = 1
    """Pictures of the run."""
    first_seed: int | None = None
    user: str = ""
    image: Image | None = None
    """For [image_hash]."""


class _Skip(Exception):
    """The token has nothing to say here, and the text before it goes with it."""


def filled(pattern: str, facts: Facts) -> str:
    """The pattern with its tokens replaced; unknown ones stay as text.

    Not yet safe as a name: see `file_name` and `folders`.
    """
    done = []
    for match in _TOKEN.finditer(pattern[:MAX_PATTERN]):
        text, token = match[1], match[2]
        if token is None:
            done.append(text)
            continue
        name, *arguments = _taken_apart(token)
        fill = TOKENS.get(name.lower())
        if fill is None:
            done.append(f"{text}[{name}]")
            continue
        try:
            done.append(text + fill(facts, arguments))
        except _Skip:
            continue
    return "".join(done)


def file_name(pattern: str, facts: Facts) -> str:
    """One name without an ending; empty where the pattern comes to nothing."""
    return _safe(filled(pattern, facts))


def folders(pattern: str, facts: Facts) -> tuple[str, ...]:
    """The folders that a pattern names, outermost first: none of them leads out or up."""
    named = (_safe(part) for part in re.split(r"[/\\]", filled(pattern, facts)))
    return tuple(name for name in named if name)[:MAX_FOLDERS]


_TOKEN = re.compile(r"([^\[]*(?:\[(?![^\[\]]+\])[^\[]*)*)(?:\[([^\[\]]+)\]|\Z)")


def _taken_apart(token: str) -> list[str]:
    """`datetime<%H><UTC>` -> ["datetime", "%H", "UTC"]."""
    arguments: list[str] = []
    while (match := re.fullmatch(r"(.*)<([^>]*)>", token, re.S)) is not None:
        token = match[1]
        arguments.insert(0, match[2])
    return [token, *arguments]


def _clean(text: str, spaces: bool = True) -> str:
    """A part of a name, without separators; spaces kept, or made underlines."""
    text = text if spaces else text.replace(" ", "_")
    return _printable(text).lstrip(" ")[:MAX_PART].rstrip(" .")


def _printable(text: str) -> str:
    return "".join("_" if _is_bad(c) else c for c in text)


def _is_bad(char: str) -> bool:
    code = ord(char)
    # Control characters, halves of pairs, and what turns the direction of the text around it.
    return (
        char in FORBIDDEN
        or code < 32
        or 0x7F <= code < 0xA0
        or 0xD800 <= code < 0xE000
        or 0x200E <= code <= 0x200F
        or 0x2028 <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
    )


def _safe(name: str) -> str:
    """A name for a file or folder on any system, at most MAX_NAME bytes; no dots at its ends."""
    name = _printable(name).strip(" .")
    name = name.encode()[:MAX_NAME].decode(errors="ignore").rstrip(" .")
    return f"_{name}" if RESERVED.fullmatch(name) else name


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def _digest(text: str, arguments: list[str], default: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[
        : _length(arguments, default)
    ]


def _length(arguments: list[str], default: int) -> int:
    asked = arguments[0] if arguments else ""
    return int(asked) if re.fullmatch("[0-9]{1,4}", asked) else default


def _time(facts: Facts, arguments: list[str]) -> str:
    wanted = arguments[0] if arguments and arguments[0] else TIME
    moment = facts.now.astimezone(_zone(arguments[1]) if len(arguments) > 1 else None)
    try:
        text = moment.strftime(wanted)
    except (ValueError, UnicodeError):
        text = moment.strftime(TIME)
    return _clean(text)


def _zone(name: str) -> tzinfo | None:
    """The machine's own where the name says nothing."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def _prompt_words(facts: Facts, _: list[str]) -> str:
    words = re.split(rf"[\s{re.escape(string.punctuation)}]+", facts.request.prompt)
    return _clean(" ".join([word for word in words if word][:WORDS] or ["empty"]))


def _has_prompt(facts: Facts, arguments: list[str]) -> str:
    """[hasprompt<word|otherwise><…>]: each word that the prompt holds, or its replacement."""
    prompt = facts.request.prompt.lower()
    pairs = [argument.split("|") for argument in arguments if argument]
    found = [
        pair[0].lower() if pair[0].lower() in prompt else (pair[1] if len(pair) > 1 else "")
        for pair in pairs
    ]
    return _clean("".join(found), spaces=False)


def _image_hash(facts: Facts, arguments: list[str]) -> str:
    if facts.image is None:
        raise _Skip
    return hashlib.sha256(facts.image.tobytes()).hexdigest()[: _length(arguments, 64)]


def _denoising(facts: Facts, _: list[str]) -> str:
    part = facts.request.start or facts.request.enlarge
    if part is None or not part.strength:
        raise _Skip
    return _number(part.strength)


def _vae(facts: Facts, _: list[str]) -> str:
    """The name up to its first dot; A1111's word for "none chosen"."""
    if facts.request.vae is None:
        return "NoneType"
    parts = re.split(r"[/\\]", facts.request.vae)[-1].split(".")
    return _clean(parts[0] or parts[-1])


def _if_several(facts: Facts, text: str) -> str:
    if facts.images == 1:
        raise _Skip
    return text


def _set(value: int | None) -> str:
    return "" if value is None else str(value)


def _first_seed(facts: Facts) -> int | None:
    if facts.first_seed is not None:
        return facts.first_seed
    return None if facts.request.seed is None else facts.request.seed - facts.index


def _last_seed(facts: Facts) -> str:
    first = _first_seed(facts)
    return _if_several(facts, "" if first is None else str(first + facts.images - 1))


def _both(facts: Facts) -> str:
    prompt, negative = facts.request.prompt, facts.request.negative_prompt
    return f"{prompt} {negative}"


TOKENS: Mapping[str, Callable[[Facts, list[str]], str]] = MappingProxyType(
    {
        "basename": lambda f, a: "img",
        "seed": lambda f, a: _set(f.request.seed),
        "seed_first": lambda f, a: _set(_first_seed(f)),
        "seed_last": lambda f, a: _last_seed(f),
        "steps": lambda f, a: str(f.request.steps),
        "cfg": lambda f, a: _number(f.request.cfg_scale),
        "width": lambda f, a: str(f.width),
        "height": lambda f, a: str(f.height),
        "styles": lambda f, a: "None",
        "sampler": lambda f, a: _clean(f.sampler),
        "scheduler": lambda f, a: _clean(f.scheduler),
        "sampler_scheduler": lambda f, a: _clean(f"{f.sampler} {f.scheduler}".strip()),
        "model_hash": lambda f, a: _clean(f.model_hash[:10]),
        "model_name": lambda f, a: _clean(f.model_name),
        "date": lambda f, a: f.now.strftime("%Y-%m-%d"),
        "datetime": _time,
        "job_timestamp": lambda f, a: f.started.strftime(TIME),
        "prompt_hash": lambda f, a: _digest(f.request.prompt, a, 8),
        "negative_prompt_hash": lambda f, a: _digest(f.request.negative_prompt, a, 8),
        "full_prompt_hash": lambda f, a: _digest(_both(f), a, 8),
        "prompt": lambda f, a: _clean(f.request.prompt, spaces=False),
        "prompt_no_styles": lambda f, a: _clean(f.request.prompt),
        "prompt_spaces": lambda f, a: _clean(f.request.prompt),
        "prompt_words": _prompt_words,
        "batch_number": lambda f, a: _if_several(f, str(f.index + 1)),
        "batch_size": lambda f, a: str(f.images),
        "generation_number": lambda f, a: _if_several(f, str(f.index + 1)),
        "hasprompt": _has_prompt,
        "clip_skip": lambda f, a: str(f.request.clip_skip),
        "denoising": _denoising,
        "user": lambda f, a: _clean(f.user),
        "vae_filename": _vae,
        "none": lambda f, a: "",
        "image_hash": _image_hash,
    }
)
"""Token -> its text, from the facts and what stands in `<…>` behind its name."""
