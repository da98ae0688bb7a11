"""Where models of each kind lie, under A1111's names and ComfyUI's, and which files are there.

Looks at names, sizes and times only; no file is opened but `extra_model_paths.yaml`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import FileError
from core.models.kinds import FOLDERS, Kind
from core.settings import Settings

_YAML_KEYS = {
    "checkpoints": Kind.CHECKPOINT,
    "diffusion_models": Kind.CHECKPOINT,
    "unet": Kind.CHECKPOINT,
    "vae": Kind.VAE,
    "loras": Kind.LORA,
    "embeddings": Kind.EMBEDDING,
    "hypernetworks": Kind.HYPERNETWORK,
    "upscale_models": Kind.UPSCALER,
    "controlnet": Kind.CONTROLNET,
    "t2i_adapter": Kind.CONTROLNET,
    "clip_vision": Kind.IMAGE_ENCODER,
    "vae_approx": Kind.TINY_VAE,
}
_SETTINGS = {
    Kind.CHECKPOINT: "checkpoints_dir",
    Kind.VAE: "vaes_dir",
    Kind.LORA: "loras_dir",
    Kind.EMBEDDING: "embeddings_dir",
    Kind.HYPERNETWORK: "hypernetworks_dir",
    Kind.UPSCALER: "upscalers_dir",
    Kind.CONTROLNET: "controlnets_dir",
}

_WEIGHTS = (".safetensors", ".ckpt", ".pt")
ENDINGS: Mapping[Kind, tuple[str, ...]] = {
    Kind.CHECKPOINT: _WEIGHTS,
    Kind.VAE: (*_WEIGHTS, ".bin"),
    Kind.LORA: (*_WEIGHTS, ".bin"),
    Kind.EMBEDDING: (".safetensors", ".pt", ".bin", ".png"),
    Kind.HYPERNETWORK: (".safetensors", ".pt", ".ckpt"),
    Kind.UPSCALER: (".safetensors", ".pth", ".pt", ".ckpt", ".bin"),
    Kind.CONTROLNET: (".safetensors", ".pth", ".ckpt", ".pt", ".bin"),
    Kind.IMAGE_ENCODER: (".safetensors", ".bin", ".pt"),
    Kind.TINY_VAE: (".safetensors", ".pth", ".pt"),
    Kind.DEPTH: (".safetensors", ".bin", ".pth", ".pt"),
    Kind.POSE: (".safetensors", ".bin", ".pth", ".pt"),
    Kind.DETECTOR: (".safetensors", ".bin", ".pth", ".pt"),
}
"""Of two files of one stem the one whose ending comes first counts as the plain name."""
VAE_ENDINGS = tuple(mark + ending for mark in (".vae", "_vae") for ending in _WEIGHTS)
"""How a VAE that lies beside its checkpoint ends, after the checkpoint's own stem."""
PICTURES = tuple(
    mark + ending for mark in (".preview", "") for ending in (".png", ".jpg", ".jpeg", ".webp")
)
"""How a picture beside a model ends, after the model's stem; the first that is there counts."""
SIDECARS = (".json", ".civitai.info", ".description.txt", ".txt")
"""How files that describe the model beside them end."""
DIFFUSERS_INDEX = "model_index.json"
"""What marks a folder in diffusers' layout."""
MAX_DEPTH = 12
"""Folders within folders; beyond it a link most likely leads in a circle."""
MAX_YAML = 2**20


@dataclass(frozen=True)
class Found:
    """A model on disk, before it is opened."""

    kind: Kind
    name: str
    """Path below its folder, without the suffix of a model file."""
    path: Path
    size: int
    """Bytes; of a folder, those of all its files."""
    modified: int
    """Nanoseconds; of a folder, its latest file."""
    beside: Mapping[str, tuple[Path, int]] = field(default_factory=dict)
    """Suffix after the stem → path and time of files that belong to it."""

    @property
    def stamp(self) -> str:
        """Changes whenever the file, or one that describes it, does."""
        beside = [(end, time) for end, (_, time) in self.beside.items() if end in SIDECARS]
        return f"{self.size} {self.modified} {beside}"

    @property
    def picture(self) -> Path | None:
        """The picture beside it; an embedding inside a picture is its own."""
        if self.path.suffix == ".png":
            return self.path
        return next((self.beside[end][0] for end in PICTURES if end in self.beside), None)

    @property
    def own_vae(self) -> Path | None:
        return next((self.beside[end][0] for end in VAE_ENDINGS if end in self.beside), None)


def folders_of(kind: Kind, settings: Settings) -> list[Path]:
    """Every folder of a kind, whether it is there or not, each once.

    Raises:
        FileError: `extra_model_paths.yaml` can't be read.
    """
    first, last = _extra(settings.extra_model_paths)
    own = [settings.models_dir / name for name in FOLDERS[kind]]
    told = getattr(settings, _SETTINGS[kind]) if kind in _SETTINGS else None
    own += [told] if told is not None else []
    return _each_once([*first.get(kind, []), *own, *last.get(kind, [])])


def _each_once(paths: list[Path]) -> list[Path]:
    """Without those that are the same folder: on many disks `VAE` is `vae`."""
    seen: set[object] = set()
    kept = []
    for path in paths:
        path = Path(os.path.abspath(path))
        try:
            stat = path.stat()
            mark: object = (stat.st_dev, stat.st_ino)
        except OSError:
            mark = path
        if mark not in seen:
            seen.add(mark)
            kept.append(path)
    return kept


def _extra(path: Path | None) -> tuple[dict[Kind, list[Path]], dict[Kind, list[Path]]]:
    """ComfyUI's list of further folders: those that are a default, and the others."""
    first: dict[Kind, list[Path]] = {}
    last: dict[Kind, list[Path]] = {}
    if path is None or not path.exists():
        return first, last
    for section in _sections(path):
        is_default = str(section.get("is_default", "")).lower() == "true"
        base = _absolute(str(section.get("base_path") or ""), path.parent)
        for key, value in section.items():
            if key not in _YAML_KEYS or value is None:
                continue
            lines = value if isinstance(value, list) else str(value).split("\n")
            wanted = [_absolute(str(line).strip(), base) for line in lines if str(line).strip()]
            (first if is_default else last).setdefault(_YAML_KEYS[key], []).extend(wanted)
    return first, last


def _sections(path: Path) -> list[Mapping[str, Any]]:
    import yaml

    try:
        if path.stat().st_size > MAX_YAML:
            raise FileError(f"{path.name} is larger than a list of folders can be")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise FileError(f"{path.name} can't be read: {said}") from error
    if values is None:
        return []
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values() if v):
        raise FileError(f"{path.name} is not a list of folders by program, as ComfyUI has it")
    return [section for section in values.values() if section]


def _absolute(text: str, base: Path) -> Path:
    return base / Path(os.path.expandvars(text)).expanduser()


def found_in(kind: Kind, root: Path) -> Iterator[Found]:
    """Every model of a kind below a folder, in the order of their names.

    Links are followed. Names that begin with a dot are left out, and so is what belongs to a
    checkpoint or a diffusers folder rather than being a model itself.
    """
    found = sorted(_walked(kind, root), key=lambda one: _order(one, kind))
    taken: set[str] = set()
    for one in found:
        if one.name in taken:  # another ending of the same stem: told apart by it
            name = one.path.relative_to(root).as_posix()
            one = Found(kind, name, one.path, one.size, one.modified, one.beside)
        taken.add(one.name)
        yield one


def _order(one: Found, kind: Kind) -> tuple[str, int]:
    suffix = one.path.suffix.lower()
    return one.name, ENDINGS[kind].index(suffix) if suffix in ENDINGS[kind] else -1


def _walked(kind: Kind, root: Path) -> Iterator[Found]:
    waiting = [(root, 0)]
    seen: set[tuple[int, int]] = set()
    while waiting:
        folder, depth = waiting.pop()
        stats = _listing(folder)
        if kind is Kind.CHECKPOINT and DIFFUSERS_INDEX in stats:
            yield _whole_folder(folder, root)
            continue
        for name in [name for name, one in stats.items() if stat.S_ISDIR(one.st_mode)]:
            whole = os.stat(folder / name)  # on Windows a listing has no numbers of folders
            mark = whole.st_dev, whole.st_ino
            if depth < MAX_DEPTH and mark not in seen:
                seen.add(mark)
                waiting.append((folder / name, depth + 1))
        yield from _files_in(kind, folder, root, stats)


def _listing(folder: Path) -> dict[str, os.stat_result]:
    """Name → stat of what lies in a folder and can be looked at; nothing if it can't."""
    stats = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    try:
                        stats[entry.name] = entry.stat()
                    except OSError:
                        continue  # a link that leads nowhere
    except OSError:
        return {}
    return stats


def _files_in(
    kind: Kind, folder: Path, root: Path, stats: Mapping[str, os.stat_result]
) -> Iterator[Found]:
    for name, own in stats.items():
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in ENDINGS[kind] or not stat.S_ISREG(own.st_mode):
            continue
        if kind is Kind.CHECKPOINT and name.endswith(VAE_ENDINGS):
            continue
        if kind is Kind.EMBEDDING and suffix.lower() == ".png" and _is_preview(stem, stats):
            continue
        beside = {
            end: (folder / (stem + end), stats[stem + end].st_mtime_ns)
            for end in (*SIDECARS, *PICTURES, *VAE_ENDINGS)
            if stem + end in stats and stem + end != name
        }
        below = (folder / stem).relative_to(root).as_posix()
        yield Found(kind, below, folder / name, own.st_size, own.st_mtime_ns, beside)


def _is_preview(stem: str, stats: Mapping[str, os.stat_result]) -> bool:
    """Whether a picture shows the embedding beside it, and is none itself."""
    model = stem.removesuffix(".preview")
    others = [ending for ending in ENDINGS[Kind.EMBEDDING] if ending != ".png"]
    return stem.endswith(".preview") or any(model + ending in stats for ending in others)


def _whole_folder(folder: Path, root: Path) -> Found:
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    name = folder.relative_to(root).as_posix() if folder != root else folder.name
    size = sum(one.st_size for one in stats)
    return Found(Kind.CHECKPOINT, name, folder, size, max(one.st_mtime_ns for one in stats))
