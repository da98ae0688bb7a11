"""How this machine is set up: one frozen value, made at the start and handed on.

Read from a TOML file in the data folder; what only the start may set (folders, device) is all here.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from core.errors import FileError, RequestError

Precision = Literal["automatic", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Folders, device and precision."""

    data_dir: Path
    """Everything Vitrine writes that is not a picture: queue, traces, settings."""
    models_dir: Path
    outputs_dir: Path
    device: str = "automatic"
    """"automatic", "cpu", "cuda", "cuda:1", "mps"."""
    precision: Precision = "automatic"
    checkpoint: str | None = None
    """Name of the default checkpoint; None: your first own one, else the one that ships."""
    checkpoints_in_memory: int = 1
    """How many stay loaded; switching between them then reads no file."""
    trace_quota_mb: int = 2048
    """Recorded runs are kept up to this much, oldest deleted first."""

    @property
    def traces_dir(self) -> Path:
        return self.data_dir / "traces"


def default_settings(root: Path) -> Settings:
    """Everything below one folder: `models/`, `outputs/`, `data/`."""
    return Settings(
        data_dir=root / "data", models_dir=root / "models", outputs_dir=root / "outputs"
    )


def read_settings(root: Path) -> Settings:
    """`default_settings(root)` with what `root/vitrine.toml` says, if it is there.

    Raises:
        FileError: the file is no TOML, or names something there is not.
    """
    settings = default_settings(root)
    path = root / "vitrine.toml"
    if not path.exists():
        return settings
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path} can't be read as TOML: {error}") from error
    return with_values(settings, values, root)


_COUNTS = {"trace_quota_mb": 0, "checkpoints_in_memory": 1}
"""Settings that are whole numbers, and the least each can be."""


def with_values(settings: Settings, values: dict[str, Any], root: Path) -> Settings:
    """`settings` with some fields replaced; relative folders are below `root`.

    Raises:
        RequestError: an unknown name or a value of the wrong kind.
    """
    known = {f.name: f.type for f in fields(settings)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise RequestError(f"no setting named {name!r}; there are: {', '.join(sorted(known))}")
        if name.endswith("_dir"):
            value = root / Path(str(value)).expanduser()
        elif name == "precision" and value not in get_args(Precision):
            raise RequestError(f"precision can be {', '.join(get_args(Precision))}, not {value!r}")
        elif name in _COUNTS and (not isinstance(value, int) or value < _COUNTS[name]):
            raise RequestError(f"{name} must be a whole number from {_COUNTS[name]}, not {value!r}")
        changes[name] = value
    return replace(settings, **changes)
