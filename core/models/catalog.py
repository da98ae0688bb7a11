"""What lies in the models folders, by kind and name. Reads headers only, and knows no torch.

Each look finds what is there now; what was read of a file is remembered, also over a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from core.errors import Cancelled, FileError, named
from core.models.background import Background
from core.models.describe import NO_EMBEDDING, Facts, facts_of_json, read_facts
from core.models.estimators import WHOLE_PICTURE, settled
from core.models.families import FAMILIES
from core.models.family import Card, Family, card_of
from core.models.folders import Found, folders_of, found_in
from core.models.kinds import FOLDERS, Kind, place_of
from core.models.names import chosen
from core.models.remembered import HashKind, Remembered
from core.settings import Settings

__all__ = [
    "FAMILIES",
    "WHOLE_PICTURE",
    "Catalog",
    "CheckpointFile",
    "Kind",
    "ModelFile",
    "VAEFile",
    "settled",
]

SHIPPED_BESIDE = {Kind.LORA: "loras", Kind.EMBEDDING: "embeddings", Kind.CONTROLNET: "guides"}
"""Folders beside the checkpoint that ships."""
Version: TypeAlias = tuple[Path, int, float]
"""A file as it was: path, bytes, time."""
POCKET = Path(__file__).parents[1] / "pocket" / "pocket.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model on disk, as far as its header and the files beside it tell."""

    kind: Kind
    name: str
    """Path below its folder, without the suffix of a model file; what requests call it."""
    path: Path
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970."""
    picture: Path | None
    """A preview picture beside it."""
    own_vae: Path | None
    """A VAE that lies beside a checkpoint under the same stem."""
    hash: str | None
    """SHA-256 of the file, hexadecimal, once it is known."""
    facts: Facts
    """What it says of itself; see there."""
    is_read: bool = True
    """Whether `facts` are in; they are being read otherwise."""

    @property
    def title(self) -> str:
        """As A1111 shows it: its name, and its short hash once that is known."""
        return f"{self.name} [{self.hash[:10]}]" if self.hash else self.name

    @property
    def aliases(self) -> tuple[str, ...]:
        """What else it may be called."""
        ways = (self.path.name, self.facts.alias, (self.hash or "")[:10], self.hash or "")
        return tuple(way for way in ways if way)


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
    lacks: tuple[str, ...] = ()
    """Parts that are not inside: "text encoder", "VAE"."""
    donor: CheckpointFile | None = None
    """The checkpoint whose text encoder, and VAE, are used where they are missing inside."""
    file: ModelFile | None = None
    """The same file with all that is known of it."""

    @property
    def title(self) -> str:
        return f"{self.name} ({self.family.title})"

    @property
    def version(self) -> Version:
        """Of a folder, that of all its files."""
        assert self.file is not None  # it comes from the catalog
        return self.path, self.file.size, self.file.modified

    @property
    def bytes(self) -> int:
        """On disk."""
        return 0 if self.file is None else self.file.size

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
        return self.card.description or (self.file.facts.description if self.file else "")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should hear when it is used."""
        if self.donor is None:
            return ()
        parts = " and ".join(self.lacks)
        are = "are" if len(self.lacks) > 1 else "is"
        return (f"{self.name} has no {parts} inside; {self.donor.name}'s {are} used",)


@dataclass(frozen=True)
class VAEFile:
    """A VAE in a file of its own."""

    name: str
    path: Path


class Catalog:
    """Finds models of every kind. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        shipped: Path = POCKET,
        families: Sequence[Family] = FAMILIES,
    ) -> None:
        """
        Args:
            families: those that are known; a checkpoint is of the first that takes it.
        """
        self._settings = settings
        self._shipped = shipped
        self.families = tuple(families)
        self._remembered = Remembered(settings.data_dir / "catalog.sqlite3")
        self._known: dict[tuple[Kind, Path], tuple[str, Facts]] = {}
        self._lock = threading.Lock()
        self._background = Background(self._read_all, self._unhashed, self._hashed_for_background)

    def know(self, families: Sequence[Family]) -> None:
        """Other families from now on; what a checkpoint is, is looked up anew."""
        if tuple(families) != self.families:
            with self._lock:
                self.families = tuple(families)
                self._known.clear()

    # Any kind

    def files(self, kind: Kind, wait: bool = True) -> tuple[ModelFile, ...]:
        """Every usable model of a kind by name; of checkpoints the one that ships is the last.

        `wait=False` opens no file: what is not read yet comes with empty facts, and the next look
        finds more.
        """
        found = (self._file(one, wait) for one in self._found(kind))
        return tuple(file for file in found if not file.facts.problem)

    def file(self, kind: Kind, name: str, field: str | None = None) -> ModelFile:
        """By name, or the way A1111 would call it: file name, title with hash, alias, hash.

        Raises:
            RequestError: there is none of that name, or several: all are named.
            FileError: there is, and it can't be used.
        """
        there = {one.name: one for one in self._found(kind)}
        if name in there:
            file = self._file(there[name])
        else:
            every = {one.name: self._file(one) for one in there.values()}
            aliases = {name: file.aliases for name, file in every.items()}
            file = every[chosen(aliases, name, kind, field)]
        if file.facts.problem:
            raise FileError(file.facts.problem)
        return file

    def unreadable(self, kind: Kind = Kind.CHECKPOINT) -> Mapping[str, str]:
        """Name and reason of each file of a kind that can't be used."""
        files = (self._file(one) for one in self._found(kind))
        bad = {f.name: f.facts.problem for f in files if f.facts.problem not in ("", NO_EMBEDDING)}
        if kind is Kind.CHECKPOINT:
            bad |= {c.name: _no_donor(c) for c in self._checkpoints() if _is_stranded(c)}
            if (problem := self._folders(kind)[1]) is not None:
                bad["extra_model_paths.yaml"] = problem
        return bad

    # Checkpoints and VAEs

    def checkpoints(self) -> tuple[CheckpointFile, ...]:
        """Every usable checkpoint: the person's own by name, then the one that ships."""
        return tuple(c for c in self._checkpoints() if not _is_stranded(c))

    def checkpoint(self, name: str | None) -> CheckpointFile:
        """By name, as `file`; None: the default.

        Raises:
            RequestError: there is none of that name, or several: all are named.
            FileError: there is, and it can't be used.
        """
        if name is None:
            return self.default()
        file = self.file(Kind.CHECKPOINT, name, "checkpoint")
        checkpoint = self._checkpoint(file)
        if "text encoder" in checkpoint.lacks:
            checkpoint = next(c for c in self._checkpoints() if c.name == checkpoint.name)
        if _is_stranded(checkpoint):
            raise FileError(_no_donor(checkpoint))
        return checkpoint

    def default(self) -> CheckpointFile:
        """The one the settings name, else the first own one, else the one that ships.

        Raises:
            RequestError, FileError: as `checkpoint`; FileError also where there is none at all.
        """
        if self._settings.checkpoint is not None:
            return self.checkpoint(self._settings.checkpoint)
        checkpoints = self.checkpoints()
        if not checkpoints:
            folder = self._settings.models_dir / FOLDERS[Kind.CHECKPOINT][0]
            raise FileError(f"no checkpoint was found; put one into {folder}")
        return checkpoints[0]

    def vaes(self) -> tuple[VAEFile, ...]:
        """The VAEs in models/VAE, by name."""
        return tuple(VAEFile(file.name, file.path) for file in self.files(Kind.VAE))

    def vae(self, name: str | None, checkpoint: CheckpointFile) -> VAEFile | None:
        """By name; None: the one beside the checkpoint, and if there is none the one inside.

        Raises:
            RequestError, FileError: as `file`.
        """
        if name is not None:
            file = self.file(Kind.VAE, name, "vae")
            return VAEFile(file.name, file.path)
        own = checkpoint.own_vae
        return None if own is None else VAEFile(own.stem, own)

    # Hashes

    def hash_of(self, path: Path, kind: HashKind = "file") -> str | None:
        """SHA-256 of a file as it is now, hexadecimal, if it is known already.

        Its first ten digits are A1111's short hash. `kind="tensors"` is the hash of what follows
        the header, of which A1111's "Lora hashes" are the first twelve.
        """
        return self._remembered.hash(_weights(path), kind)

    def hashed(
        self,
        path: Path,
        kind: HashKind = "file",
        goes_on: Callable[[int], bool] = lambda done: True,
    ) -> str:
        """The same, computed now if it is not known; `goes_on` is asked with the bytes done.

        Raises:
            FileError: the file can't be read.
            Cancelled: `goes_on` said no.
        """
        digest = self._remembered.hashed(_weights(path), kind, goes_on)
        if digest is None:
            raise Cancelled
        return digest

    def lora_hash(self, file: ModelFile) -> str:
        """What stands for a LoRA in A1111's "Lora hashes": twelve digits; computed if need be."""
        is_safe = file.path.suffix == ".safetensors"
        digest = file.facts.tensors_hash
        return (digest or self.hashed(file.path, "tensors" if is_safe else "file"))[:12]

    # In the background

    def begin(self) -> None:
        """Reads all headers, then all hashes, on a thread of low priority, until `end`."""
        self._background.begin()

    def end(self) -> None:
        self._background.end()
        self._remembered.close()

    @property
    def version(self) -> int:
        """Grows whenever the background has found out more: a reason to look again."""
        return self._background.version

    def _read_all(self) -> Iterable[object]:
        """One model after another is read, those that are known at once."""
        for kind in Kind:
            for one in self._found(kind):
                if not self._is_known(one):
                    self._facts(one)
                    yield one

    def _unhashed(self) -> list[tuple[Path, HashKind]]:
        """What is worth a hash: checkpoints and whatever A1111's text names by one."""
        wanted: list[tuple[Path, HashKind]] = []
        for kind in (Kind.LORA, Kind.EMBEDDING, Kind.CHECKPOINT, Kind.VAE, Kind.HYPERNETWORK):
            for file in self.files(kind, wait=False):
                wanted.append((_weights(file.path), "file"))
                if kind is Kind.LORA and not file.facts.tensors_hash:
                    wanted.append((file.path, "tensors"))
        return [(path, of) for path, of in wanted if self._remembered.hash(path, of) is None]

    def _hashed_for_background(self, path: Path, kind: HashKind) -> bool:
        going = self._background.goes_on
        return self._remembered.hashed(path, kind, lambda done: going()) is not None

    # Within

    def _folders(self, kind: Kind) -> tuple[list[Path], str | None]:
        """The folders of a kind, and what is wrong with the list of further ones."""
        try:
            return folders_of(kind, self._settings), None
        except FileError as error:
            plain = replace(self._settings, extra_model_paths=None)
            return folders_of(kind, plain), str(error)

    def _found(self, kind: Kind) -> list[Found]:
        """All of a kind, each under a name of its own, in the order of the folders."""
        found: dict[str, Found] = {}
        for root in self._folders(kind)[0]:
            for one in found_in(kind, root):
                name = one.name if one.name not in found else f"{one.name} ({root.name})"
                found.setdefault(name, replace(one, name=name))
        ordered = dict(sorted(found.items(), key=lambda item: item[0].casefold()))
        if kind is Kind.VAE:
            ordered |= {o.name: o for o in self._vaes_beside() if o.name not in ordered}
        for path in self._shipped_of(kind):
            stat = path.stat()
            shipped = Found(kind, path.stem, path, stat.st_size, stat.st_mtime_ns)
            ordered.setdefault(path.stem, shipped)
        return list(ordered.values())

    def _shipped_of(self, kind: Kind) -> list[Path]:
        """What comes with the house: a checkpoint, and beside it small files for it."""
        if kind is Kind.CHECKPOINT:
            return [self._shipped] if self._shipped.exists() else []
        folder = SHIPPED_BESIDE.get(kind)
        return sorted((self._shipped.parent / folder).glob("*.safetensors")) if folder else []

    def _vaes_beside(self) -> Iterable[Found]:
        """The VAEs that lie beside checkpoints may be chosen for others too."""
        for checkpoint in self._found(Kind.CHECKPOINT):
            if (path := checkpoint.own_vae) is not None:
                stat, name = path.stat(), f"{checkpoint.name}.vae"
                yield Found(Kind.VAE, name, path, stat.st_size, stat.st_mtime_ns)

    def _file(self, found: Found, wait: bool = True) -> ModelFile:
        is_read = wait or self._is_known(found)
        return ModelFile(
            kind=found.kind,
            name=found.name,
            path=found.path,
            size=found.size,
            modified=found.modified / 1e9,
            picture=found.picture,
            own_vae=found.own_vae,
            hash=self._remembered.hash(_weights(found.path)),
            facts=self._facts(found) if is_read else Facts(),
            is_read=is_read,
        )

    def _is_known(self, found: Found) -> bool:
        with self._lock:
            known = self._known.get((found.kind, found.path))
        return known is not None and known[0] == found.stamp

    def _facts(self, found: Found) -> Facts:
        key = found.kind, found.path
        with self._lock:
            known = self._known.get(key)
        if known is not None and known[0] == found.stamp:
            return known[1]
        families = self.families
        stamp = f"{found.kind} {found.stamp}"
        if found.kind is Kind.CHECKPOINT and families != FAMILIES:
            stamp += " " + " ".join(family.name for family in families)
        stored = self._remembered.facts(found.path, stamp)
        facts = None if stored is None else facts_of_json(stored)
        if facts is None:
            facts = read_facts(found, families)
            self._remembered.remember_facts(found.path, stamp, facts.as_json())
        with self._lock:
            if families == self.families:
                self._known[key] = found.stamp, facts
        return facts

    def _checkpoints(self) -> list[CheckpointFile]:
        """All that are checkpoints, each with its donor if it needs one and there is one."""
        whole = [self._checkpoint(file) for file in self.files(Kind.CHECKPOINT)]
        return [
            replace(c, donor=self._donor(c, whole)) if "text encoder" in c.lacks else c
            for c in whole
        ]

    def _checkpoint(self, file: ModelFile) -> CheckpointFile:
        facts = file.facts
        family = named({one.name: one for one in self.families}, facts.base, "family")
        return CheckpointFile(
            name=file.name,
            path=file.path,
            family=family,
            card=card_of(facts.card, file.path.name),
            prediction=facts.prediction,
            own_vae=file.own_vae,
            lacks=facts.lacks,
            file=file,
        )

    def _donor(self, wanting: CheckpointFile, whole: list[CheckpointFile]) -> CheckpointFile | None:
        """The default if it fits, else the first own one that does."""
        assert wanting.file is not None
        fitting = [
            c
            for c in whole
            if not c.lacks
            and c.family.fits == wanting.family.fits
            and c.path != self._shipped
            and c.file is not None
            and c.file.facts.text_width == wanting.file.facts.context
        ]
        named_default = (c for c in fitting if c.name == self._settings.checkpoint)
        return next(named_default, next(iter(fitting), None))


def _is_stranded(checkpoint: CheckpointFile) -> bool:
    return "text encoder" in checkpoint.lacks and checkpoint.donor is None


def _no_donor(checkpoint: CheckpointFile) -> str:
    return (
        f"{checkpoint.path.name} has no {' and no '.join(checkpoint.lacks)} inside, so it can't "
        f"read a prompt; put a whole {checkpoint.family.title} checkpoint into "
        f"{place_of(Kind.CHECKPOINT)}, and what is missing is taken from there"
    )


def _weights(path: Path) -> Path:
    """The file whose hash stands for a model: itself, or the U-Net of a folder."""
    if not path.is_dir():
        return path
    return next((path / "unet").glob("*.safetensors"), path)
