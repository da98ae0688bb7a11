"""Which LoRAs, hypernetworks and embeddings a run uses, and which model wears which just now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from core.adapters.hypernetwork import Hypernetwork, check_fits, hypernetwork_sources
from core.adapters.kinds import KINDS, AdapterKind
from core.adapters.lora import Lora
from core.adapters.patch import Applied, Use
from core.models.adapters import read_hypernetwork, read_lora
from core.models.catalog import Catalog, Kind
from core.models.checkpoint import Checkpoint
from core.models.embeddings import EmbeddingFile, Known, Shelf, known
from core.nn.attention import PLAIN, Attending
from core.request import GenerationRequest, HypernetUse, LoraUse
from core.sampling.latest import Latest
from core.text.tokenizer import Tokenizer

KEPT_FILES = 16
"""Adapter files that stay in memory after their last use."""

T = TypeVar("T")


class Adapting:
    """Reads adapters, and puts them on and off. For the engine's thread alone."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._shelf = Shelf(catalog)
        self._files: OrderedDict[tuple[Path, int, int, Hashable], object] = OrderedDict()
        self._known, self._named = Latest(), Latest()

    def put_on(
        self, model: Checkpoint, uses: Sequence[LoraUse], kinds: Sequence[AdapterKind] = KINDS
    ) -> tuple[Applied, ...]:
        """The model has just these LoRAs, of these kinds, from now on; the same again cost nothing.

        Raises:
            RequestError, FileError, AdapterError: one is not there or does not fit; the model then
                is as it came, without any.
        """
        return model.wear([self._use(use, kinds) for use in uses])

    def attending(self, model: Checkpoint, uses: Sequence[HypernetUse]) -> Attending:
        """How the U-Net attends with these hypernetworks.

        Raises:
            RequestError, FileError, AdapterError: one is not there or does not fit.
        """
        if not uses:
            return PLAIN
        nets = [self._hypernet(use.name) for use in uses]
        for net in nets:
            check_fits(net, model.network)
        weights = [use.weight for use in uses]
        return hypernetwork_sources(nets, weights, model.device, model.dtype)

    def embeddings(self, model: Checkpoint, request: GenerationRequest) -> Known:
        """The embeddings that the request's prompts name.

        Raises:
            FileError, AdapterError: one of them can't be read.
        """
        files = self._shelf.files()
        texts = [(request.prompt, False), (request.negative_prompt, True)]
        return self._known.of(
            [model.tokenizer, *model.text.widths, *_asked(request), *files],
            lambda: known(
                model.tokenizer, model.text.widths, files, texts, request.steps, request.emphasis
            ),
        )

    def named(self, request: GenerationRequest) -> tuple[EmbeddingFile, ...]:
        """The embeddings of any model that the request's prompts name."""
        found = self._shelf.files()
        return self._named.of([*_asked(request), *found], lambda: _named(found, request))

    def _use(self, use: LoraUse, kinds: Sequence[AdapterKind]) -> Use:
        file = self._catalog.file(Kind.LORA, use.name, "prompt")
        kinds = tuple(kinds)
        lora: Lora = self._remembered(
            file.path, lambda path: read_lora(path, file.name, kinds), kinds
        )
        return Use(lora, use.weight, use.text_weight, use.blocks)

    def _hypernet(self, name: str) -> Hypernetwork:
        file = self._catalog.file(Kind.HYPERNETWORK, name, "prompt")
        return self._remembered(file.path, lambda path: read_hypernetwork(path, file.name))

    def _remembered(self, path: Path, read: Callable[[Path], T], how: Hashable = None) -> T:
        """What `read` makes of a file, once for each version of it and each way to read it."""
        stat = path.stat()
        key = path, stat.st_size, stat.st_mtime_ns, how
        if key not in self._files:
            self._files[key] = read(path)
        self._files.move_to_end(key)
        heavy = [key for key, held in self._files.items() if isinstance(held, Lora | Hypernetwork)]
        for old in heavy[:-KEPT_FILES]:
            del self._files[old]
        return self._files[key]  # type: ignore[return-value]


def told(applied: Applied, use: LoraUse) -> tuple[str, str]:
    """(kind, sentence) about a LoRA that was put on: all of it, or what found no place."""
    name, count = applied.name, len(applied.matched)
    if not applied.unmatched:
        return "applied", f"LoRA {name} at {use.weight:g}: {count} layers"
    few = ", ".join(applied.unmatched[:3]) + (", …" if len(applied.unmatched) > 3 else "")
    return (
        "unmatched",
        f"LoRA {name} at {use.weight:g}: {count} layers, and {len(applied.unmatched)} that this "
        f"model has no place for: {few}",
    )


def _asked(request: GenerationRequest) -> tuple[str | int, ...]:
    """What of a request decides which embeddings it names."""
    return request.prompt, request.negative_prompt, request.steps, request.emphasis


def _named(found: Sequence[EmbeddingFile], request: GenerationRequest) -> tuple[EmbeddingFile, ...]:
    files = {file.embedding.name: file for file in found}
    if not files:
        return ()
    tokenizer = Tokenizer().knowing(file.embedding for file in files.values())
    texts = ((request.prompt, False), (request.negative_prompt, True))
    names = {
        name: None
        for text, negative in texts
        for name in tokenizer.embeddings_in(
            text, request.steps, negative=negative, emphasis=request.emphasis
        )
    }
    return tuple(files[name] for name in names)
