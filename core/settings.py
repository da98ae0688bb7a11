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
Memory = Literal["plenty", "medvram", "lowvram"]
Tiles = Literal["automatic", "always", "never"]
Compile = Literal["off", "blocks"]
Switch = Literal["off", "on"]


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
    """Of U-Net and text encoder; "automatic" goes by device and file."""
    vae_precision: Precision = "automatic"
    memory: Memory = "plenty"
    """What of a checkpoint lies on the device: "plenty": all of it; "medvram": the part that is
    at work; "lowvram": of the U-Net only the block that is at work. Without effect on a CPU."""
    vae_tiles: Tiles = "automatic"
    """Whether the VAE works on overlapping tiles of a large picture; "automatic": where it would
    not fit as a whole."""
    compile: Compile = "off"
    """What of a U-Net goes through torch.compile: "blocks": its transformer blocks, which takes
    about a minute at the first picture. On a graphics card (cuda) alone."""
    cuda_graphs: Switch = "off"
    """Whether calls of the U-Net are recorded on the card and played back, at the price of memory
    there. On a graphics card (cuda) alone."""
    checkpoint: str | None = None
    """Name of the default checkpoint; None: your first own one, else the one that ships."""
    checkpoints_in_memory: int = 1
    """How many stay loaded; switching between them then reads no file."""
    checkpoints_in_ram: int = 0
    """How many more wait in plain memory where the device has its own; without effect on a CPU."""
    checkpoints_dir: Path | None = None
    """A further folder of checkpoints; those of the models folder are read too. So with the next:
    A1111's --ckpt-dir, --vae-dir, --lora-dir, --embeddings-dir and so on."""
    vaes_dir: Path | None = None
    loras_dir: Path | None = None
    embeddings_dir: Path | None = None
    hypernetworks_dir: Path | None = None
    upscalers_dir: Path | None = None
    controlnets_dir: Path | None = None
    extra_model_paths: Path | None = None
    """A file of further folders in ComfyUI's format."""
    trace_quota_mb: int = 2048
    """Recorded runs are kept up to this much, oldest deleted first."""

    @property
    def traces_dir(self) -> Path:
        return self.data_dir / "traces"


def default_settings(root: Path) -> Settings:
    """Everything below one folder: `models/`, `embeddings/`, `outputs/`, `data/`."""
    return Settings(
        data_dir=root / "data",
        models_dir=root / "models",
        outputs_dir=root / "outputs",
        embeddings_dir=root / "embeddings",
        extra_model_paths=root / "extra_model_paths.yaml",
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


_COUNTS = {"trace_quota_mb": 0, "checkpoints_in_memory": 1, "checkpoints_in_ram": 0}
"""Settings that are whole numbers, and the least each can be."""
_CHOICES = {
    "precision": get_args(Precision),
    "vae_precision": get_args(Precision),
    "memory": get_args(Memory),
    "vae_tiles": get_args(Tiles),
    "compile": get_args(Compile),
    "cuda_graphs": get_args(Switch),
}
_PLACES = ("_dir", "_paths")
"""How the names of settings end that are files or folders."""


def with_values(settings: Settings, values: dict[str, Any], root: Path) -> Settings:
    """`settings` with some fields replaced; relative folders are below `root`.

    Raises:
        RequestError: an unknown name or a value of the wrong kind.
    """
    known = {f.name for f in fields(settings)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise RequestError(f"no setting named {name!r}; there are: {', '.join(sorted(known))}")
        if name in _COUNTS:
            if type(value) is not int or value < _COUNTS[name]:
                least = _COUNTS[name]
                raise RequestError(f"{name} must be a whole number from {least}, not {value!r}")
        elif not isinstance(value, str):
            raise RequestError(f"{name} must be text in quotes, not {value!r}")
        elif name in _CHOICES and value not in _CHOICES[name]:
            raise RequestError(f"{name} can be {', '.join(_CHOICES[name])}, not {value!r}")
        changes[name] = root / Path(value).expanduser() if name.endswith(_PLACES) else value
    return replace(settings, **changes)
