"""`launch.py download`: a model by its repository or address, into the folder of its kind.

Sizes and hashes come from huggingface.co or civitai.com; what arrives is checked against them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import urllib.parse
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import FileError, RequestError, VitrineError
from core.events import Loading
from core.models.fetch import Web, discard, fetched, settled
from core.models.files import shown_bytes
from core.models.folders import ENDINGS
from core.models.kinds import FOLDERS, Kind, kind_of
from core.models.layouts import read_file_header
from core.settings import Settings, read_settings

HUB = "https://huggingface.co"
CIVITAI = "https://civitai.com"
SHOWN = 20
KINDS = {kind.name.lower(): kind for kind in Kind}
"""What --to can be."""
_CIVITAI_KINDS = {
    "Checkpoint": Kind.CHECKPOINT,
    "LORA": Kind.LORA,
    "LoCon": Kind.LORA,
    "DoRA": Kind.LORA,
    "TextualInversion": Kind.EMBEDDING,
    "Hypernetwork": Kind.HYPERNETWORK,
    "Controlnet": Kind.CONTROLNET,
    "Upscaler": Kind.UPSCALER,
    "VAE": Kind.VAE,
}
_WEIGHTS = tuple(sorted({ending for endings in ENDINGS.values() for ending in endings} - {".png"}))
_FOLDER_FILES = re.compile(
    r"model_index\.json|scheduler/[\w.-]+\.json|(unet|vae|text_encoder|text_encoder_2)"
    r"/(config\.json|(diffusion_pytorch_model|model)\.safetensors)"
)
"""What of a diffusers repository is read here."""


GENERIC = (
    "pytorch_lora_weights",
    "diffusion_pytorch_model",
    "diffusion_pytorch_model.fp16",
    "model",
    "model.fp16",
    "adapter_model",
    "learned_embeds",
)
"""Names that say nothing beside those of other repositories."""


@dataclass(frozen=True)
class Item:
    """One file to fetch."""

    url: str
    name: str
    """Path below the folder it is put into."""
    size: int | None = None
    sha256: str | None = None
    kind: Kind | None = None
    """None: told by what is inside."""


@dataclass(frozen=True)
class Wanted:
    """What a person asked for."""

    source: str
    """"owner/name", or an address."""
    file: str | None = None
    kind: Kind | None = None
    sha256: str | None = None


def downloaded(
    wanted: Wanted, settings: Settings, web: Web, hub: str = HUB, civitai: str = CIVITAI
) -> Generator[Loading, None, list[Path]]:
    """Fetches what was asked for; returns where it lies.

    Raises:
        RequestError: an address that is not asked, several files to choose from, a wrong name.
        FileError: not there, damaged, no model, no room, or a file of that name is there.
    """
    items = items_of(wanted, web, hub, civitai)
    if wanted.sha256 is not None:
        if len(items) != 1:
            raise RequestError("--sha256 is of one file; choose it with --file")
        items = [replace(items[0], sha256=wanted.sha256)]
    paths = []
    for item in items:
        known = None if item.kind is None else _target(item, item.kind, settings)
        if known is not None and known.exists():
            if len(items) > 1 and known.stat().st_size == item.size:
                continue  # of a folder that was broken off
            raise FileError(f"{known} is there already; nothing was changed")
        part = _waiting_place(item, settings)
        yield from fetched(item.url, part, web, item.size, item.sha256)
        target = _target(item, _kind_of_fetched(part, item), settings)
        settled(part, target)
        paths.append(target)
    return paths


def items_of(wanted: Wanted, web: Web, hub: str = HUB, civitai: str = CIVITAI) -> list[Item]:
    """The files behind a repository or an address.

    Raises:
        RequestError, FileError: as `downloaded`.
    """
    source = wanted.source.strip()
    source = re.sub(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/", f"{HUB}/", source)
    source = re.sub(r"^(https?://)?(www\.)?civitai\.com/", f"{CIVITAI}/", source)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        items = _of_repository(web, hub, source, "main", wanted.file)
    elif source.startswith(hub + "/"):
        items = _of_hub_address(web, hub, source, wanted.file)
    elif source.startswith(civitai + "/"):
        items = _of_civitai(web, civitai, source, wanted.file)
    elif re.match(r"https?://", source):
        items = [Item(source, wanted.file or _last_part(source))]
    else:
        raise RequestError(f"{source!r} is no repository (owner/name) and no address (https://…)")
    for item in items:
        _check_name(item.name)
    return [replace(item, kind=wanted.kind or item.kind) for item in items]


# --- huggingface.co ------------------------------------------------------------------------------


def _of_hub_address(web: Web, hub: str, source: str, file: str | None) -> list[Item]:
    path = urllib.parse.unquote(urllib.parse.urlsplit(source).path).strip("/")
    found = re.fullmatch(
        r"([\w.-]+/[\w.-]+)(?:/(?:resolve|blob|tree|raw)/([^/]+)(?:/(.+))?)?", path
    )
    if found is None:
        raise RequestError(f"{source} is not the address of a model or of a file of one")
    repository, revision, inside = found.groups()
    return _of_repository(web, hub, repository, revision or "main", file or inside)


def _of_repository(
    web: Web, hub: str, repository: str, revision: str, file: str | None
) -> list[Item]:
    """One file of a repository; without a name its only one, or the parts of a diffusers model."""
    quoted = urllib.parse.quote(revision, safe="")
    table = web.table(f"{hub}/api/models/{repository}/revision/{quoted}?blobs=true")
    try:
        commit = str(table["sha"])
        there = {str(one["rfilename"]): one for one in table["siblings"]}
    except (TypeError, KeyError) as error:
        raise FileError(f"{repository}: the list of its files can't be read") from error

    def item(name: str, put_as: str, kind: Kind | None = None) -> Item:
        lfs = there[name].get("lfs") or {}
        size = lfs.get("size", there[name].get("size"))
        url = f"{hub}/{repository}/resolve/{commit}/{urllib.parse.quote(name)}"
        return Item(url, put_as, size, lfs.get("sha256"), kind)

    if file is not None:
        if file not in there:
            raise RequestError(_choose(repository, f"has no file {file!r}", there))
        return [item(file, _telling_name(file, repository))]
    alone = [name for name in there if "/" not in name and name.endswith(".safetensors")]
    if len(alone) == 1:
        return [item(alone[0], _telling_name(alone[0], repository))]
    if "model_index.json" in there and not alone:
        folder = repository.partition("/")[2]
        parts = [name for name in there if _FOLDER_FILES.fullmatch(name)]
        if not any(name.startswith("unet/") and name.endswith(".safetensors") for name in parts):
            raise FileError(f"{repository} has no unet in one .safetensors file")
        # the index last: what is broken off in between is no model yet
        parts.sort(key=lambda name: name == "model_index.json")
        return [item(name, f"{folder}/{name}", Kind.CHECKPOINT) for name in parts]
    raise RequestError(_choose(repository, "has several files or none", there))


def _telling_name(file: str, repository: str) -> str:
    """The file's own name, or the repository's where all of them call it the same."""
    path = PurePosixPath(file)
    if path.stem not in GENERIC:
        return path.name
    return repository.partition("/")[2] + path.suffix


def _choose(repository: str, what: str, there: dict[str, Any]) -> str:
    models = sorted(name for name in there if name.endswith(_WEIGHTS))
    shown = ", ".join(models[:SHOWN]) + (", …" if len(models) > SHOWN else "")
    return f"{repository} {what}; choose one with --file: {shown or 'it has no model files'}"


# --- civitai.com ---------------------------------------------------------------------------------


def _of_civitai(web: Web, civitai: str, source: str, file: str | None) -> list[Item]:
    """The chosen or the primary file of a version; of a model, its latest version."""
    parts = urllib.parse.urlsplit(source)
    version = urllib.parse.parse_qs(parts.query).get("modelVersionId", [""])[0]
    found = re.match(r"/(api/download/models|models)/(\d+)", parts.path)
    if found is None:
        raise RequestError(f"{source} is not the address of a model at civitai.com")
    if found[1] != "models":
        version = found[2]
    try:
        if not version.isdigit():
            table = web.table(f"{civitai}/api/v1/models/{found[2]}")
            kind, table = table["type"], table["modelVersions"][0]
        else:
            table = web.table(f"{civitai}/api/v1/model-versions/{version}")
            kind = table["model"]["type"]
        files = {str(one["name"]): one for one in table["files"]}
        chosen = file or next((n for n, one in files.items() if one.get("primary")), min(files))
        if chosen not in files:
            raise RequestError(_choose(source, f"has no file {chosen!r}", files))
        one = files[chosen]
        sha256 = (one.get("hashes") or {}).get("SHA256")
        # civitai says sizes in rounded kilobytes: the hash is the check
        return [Item(str(one["downloadUrl"]), chosen, None, sha256, _CIVITAI_KINDS.get(kind))]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise FileError(f"{source}: the answer of civitai.com can't be read") from error


# --- names and places ----------------------------------------------------------------------------


def _last_part(url: str) -> str:
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name


def _check_name(name: str) -> None:
    """Below the folder it is put into, visible, and of a model: whatever a server says."""
    parts = name.split("/")
    plain = all(re.fullmatch(r"[^\x00-\x1f\x7f<>:\"|?*\\/]{1,200}", part) for part in parts)
    if not plain or any(part.startswith(".") for part in parts):
        raise RequestError(f"{name[:80]!r} can't be the name of a file here")
    if not name.endswith((*_WEIGHTS, ".json")):
        raise RequestError(f"{name[:80]!r} is no model file; those end in {', '.join(_WEIGHTS)}")


def _target(item: Item, kind: Kind, settings: Settings) -> Path:
    folder = settings.models_dir / FOLDERS[kind][0]
    if kind is Kind.EMBEDDING and settings.embeddings_dir is not None:
        folder = settings.embeddings_dir
    return folder / item.name


def _waiting_place(item: Item, settings: Settings) -> Path:
    """Where a file waits until it is whole: a place of its own for each address."""
    mark = hashlib.sha256(item.url.encode()).hexdigest()[:12]
    return settings.models_dir / ".downloads" / mark / PurePosixPath(item.name).name


def _kind_of_fetched(part: Path, item: Item) -> Kind:
    """Which kind of model a fetched file is.

    Raises:
        FileError: it is damaged, and removed; or its names tell nothing: it is kept for --to.
    """
    if item.name.endswith(".json") and item.kind is not None:
        return item.kind
    kind, problem = item.kind, ""
    if kind is None or item.name.endswith(".safetensors"):
        try:
            inside = kind_of(read_file_header(part))
            kind = kind or inside
        except FileError as error:
            if item.name.endswith(".safetensors"):
                discard(part)
                raise
            problem = f" ({error})"
    if kind is None:
        raise FileError(
            f"what {item.name} is for can't be told{problem}; say so with --to "
            f"{', '.join(KINDS)}: it is not fetched again"
        )
    return kind


# --- the command ---------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 it can't be, 130 stopped by the person."""
    options = _parser().parse_args(words)
    settings = read_settings(options.root)
    if options.models_dir is not None:
        settings = replace(settings, models_dir=options.models_dir.expanduser().absolute())
    wanted = Wanted(options.source, options.file, KINDS.get(options.to), options.sha256)
    try:
        for path in _shown(downloaded(wanted, settings, Web(tokens=tokens()))):
            print(path)
    except VitrineError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\n{error.filename}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def tokens() -> dict[str, str]:
    """The person's own tokens, each for its host alone."""
    from huggingface_hub import get_token

    found = {"huggingface.co": get_token(), "civitai.com": os.environ.get("CIVITAI_TOKEN")}
    return {host: token.strip() for host, token in found.items() if token}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.py download", description="Fetch a model into the folder of its kind."
    )
    parser.add_argument("source", help="owner/name at huggingface.co, or an address")
    parser.add_argument("--file", metavar="NAME", help="which file of a repository")
    parser.add_argument("--to", choices=KINDS, help="what it is, where the file does not tell")
    parser.add_argument("--sha256", metavar="HEX", help="what the file's SHA-256 must be")
    home = Path(__file__).parents[2]
    parser.add_argument("--models-dir", type=Path, help="where models lie")
    parser.add_argument("--root", type=Path, default=home, help=argparse.SUPPRESS)
    return parser


def _shown(events: Generator[Loading, None, list[Path]]) -> list[Path]:
    """The paths in the end; says on stderr how far it is."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            sys.stderr.write("\n")
            return list(end.value)
        share = f"{100 * event.done // event.total} % of {shown_bytes(event.total)}"
        how_far = share if event.total else shown_bytes(event.done)
        sys.stderr.write(f"\r{event.part}: {how_far}          ")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
