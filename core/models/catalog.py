"""What lies in the models folders, by name. Reads headers only, and knows no torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.errors import FileError, named
from core.models.family import Card, Family, read_card, recognised
from core.models.layouts import DIFFUSERS_INDEX, read_model_header, said_prediction
from core.models.sd1 import SD1
from core.models.sd2 import SD2
from core.models.sdxl import SDXL, SDXL_REFINER
from core.settings import Settings

FAMILIES: tuple[Family, ...] = (SD1, SD2, SDXL, SDXL_REFINER)
CHECKPOINT_FOLDERS = ("Stable-diffusion", "checkpoints")
VAE_FOLDERS = ("VAE", "vae")
ENDINGS = (".safetensors", ".ckpt", ".pt")
VAE_ENDINGS = tuple(mark + ending for mark in (".vae", "_vae") for ending in ENDINGS)
"""How a VAE that lies beside its checkpoint ends, after the checkpoint's own stem."""
POCKET = Path(__file__).parents[1] / "pocket" / "pocket.safetensors"


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk, as far as its header tells."""

    name: str
    """Path below its models folder, without the suffix; what requests call it."""
    path: Path
    family: Family
    card: Card = field(default_factory=Card)
    prediction: str | None = None
    """"eps" or "v", where the files beside it say; None: found out when it is loaded."""
    own_vae: Path | None = None
    """A VAE that lies beside it under the same stem."""

    @property
    def title(self) -> str:
        return f"{self.name} ({self.family.title})"

    @property
    def size(self) -> int:
        """Pixels on each side that it paints best."""
        return self.card.size or self.family.size

    @property
    def defaults(self) -> Mapping[str, int | float]:
        return self.card.defaults

    @property
    def examples(self) -> tuple[str, ...]:
        return self.card.examples

    @property
    def description(self) -> str:
        return self.card.description


@dataclass(frozen=True)
class VAEFile:
    """A VAE in a file of its own."""

    name: str
    path: Path


class Catalog:
    """Finds checkpoints; headers are read once per file and version. Thread-safe."""

    def __init__(self, settings: Settings, shipped: Path = POCKET) -> None:
        self._settings = settings
        self._shipped = shipped
        self._read: dict[tuple[Path, int, int], CheckpointFile | FileError] = {}
        self._lock = threading.Lock()

    def checkpoints(self) -> tuple[CheckpointFile, ...]:
        """Every readable checkpoint: the person's own by name, then the one that ships."""
        return tuple(c for c in self._scanned().values() if isinstance(c, CheckpointFile))

    def unreadable(self) -> Mapping[str, str]:
        """Name and reason of each file that is no checkpoint of a known family."""
        return {n: str(c) for n, c in self._scanned().items() if isinstance(c, FileError)}

    def checkpoint(self, name: str | None) -> CheckpointFile:
        """By name; None: the default.

        Raises:
            RequestError: there is none of that name.
            FileError: there is, and it can't be used.
        """
        if name is None:
            return self.default()
        found = named(self._scanned(), name, "checkpoint", "checkpoint")
        if isinstance(found, FileError):
            raise found
        return found

    def default(self) -> CheckpointFile:
        """The one the settings name, else the first own one, else the one that ships.

        Raises:
            RequestError, FileError: as `checkpoint`; FileError also where there is none at all.
        """
        if self._settings.checkpoint is not None:
            return self.checkpoint(self._settings.checkpoint)
        checkpoints = self.checkpoints()
        if not checkpoints:
            folder = self._settings.models_dir / CHECKPOINT_FOLDERS[0]
            raise FileError(f"no checkpoint was found; put one into {folder}")
        return checkpoints[0]

    def vaes(self) -> tuple[VAEFile, ...]:
        """The VAEs in models/VAE, by name."""
        found: dict[str, VAEFile] = {}
        for folder in VAE_FOLDERS:
            root = self._settings.models_dir / folder
            for path in _files_below(root):
                found.setdefault(_name(path, root), VAEFile(_name(path, root), path))
        return tuple(found.values())

    def vae(self, name: str | None, checkpoint: CheckpointFile) -> VAEFile | None:
        """By name; None: the one beside the checkpoint, and if there is none the one inside.

        Raises:
            RequestError: there is none of that name.
        """
        if name is not None:
            return named({vae.name: vae for vae in self.vaes()}, name, "VAE", "vae")
        own = checkpoint.own_vae
        return None if own is None else VAEFile(own.stem, own)

    def _scanned(self) -> dict[str, CheckpointFile | FileError]:
        found: dict[str, CheckpointFile | FileError] = {}
        for folder in CHECKPOINT_FOLDERS:
            root = self._settings.models_dir / folder
            for path in _models_below(root):
                name = _name(path, root)
                found.setdefault(name, self._opened(name, path))
        if self._shipped.exists():
            name = self._shipped.stem
            found.setdefault(name, self._opened(name, self._shipped))
        return found

    def _opened(self, name: str, path: Path) -> CheckpointFile | FileError:
        try:
            stat = path.stat()
            key = (path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            return FileError(f"{path.name} can't be read: {error.strerror or error}")
        with self._lock:
            if key not in self._read:
                self._read[key] = _opened(name, path)
            found = self._read[key]
        if isinstance(found, FileError):
            return found
        beside = (path.with_name(path.stem + ending) for ending in VAE_ENDINGS)
        return replace(found, own_vae=next((p for p in beside if p.exists()), None))


def _models_below(root: Path) -> list[Path]:
    """Single files, and folders in diffusers' layout; what belongs to either is left out."""
    if not root.is_dir():
        return []
    folders = [index.parent for index in sorted(root.rglob(DIFFUSERS_INDEX))]
    files = [
        path
        for path in _files_below(root)
        if not path.name.endswith(VAE_ENDINGS) and not any(f in path.parents for f in folders)
    ]
    return files + folders


def _files_below(root: Path) -> list[Path]:
    """Model files; of two of one name the safetensors one comes first, and counts."""
    found = [path for ending in ENDINGS for path in sorted(root.rglob("*" + ending))]
    return sorted(found, key=lambda path: path.with_suffix(""))


def _name(path: Path, root: Path) -> str:
    """Path below the folder, without the suffix of a model file."""
    relative = path.relative_to(root)
    return (relative.with_suffix("") if path.suffix in ENDINGS else relative).as_posix()


def _opened(name: str, path: Path) -> CheckpointFile | FileError:
    try:
        header = read_model_header(path)
        family = recognised(header, FAMILIES)
        return CheckpointFile(name, path, family, read_card(header), said_prediction(path))
    except FileError as error:
        return error
