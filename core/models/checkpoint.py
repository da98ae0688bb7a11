"""One model, ready to use: its parts, and what each is told and answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor

from core.adapters.patch import Applied, Kept, Use
from core.errors import NotFinite
from core.events import Loaded, Note
from core.models.adapters import parts_of
from core.models.catalog import Version
from core.models.embeddings import Known
from core.models.family import Family
from core.models.footprint import decoding_bytes, encoding_bytes, free_bytes
from core.models.graphs import Graphs
from core.models.placing import Placing
from core.models.sparing import (
    Work,
    asking,
    chosen_ahead,
    kept_trying,
    offloading,
    tile_of,
    vae_measures,
)
from core.nn import kernels
from core.nn.blocks import timestep_embedding
from core.nn.tiles import OVERLAP, Cells, tiled, wrapped
from core.nn.unet import UNet
from core.nn.vae import VAE as VAENetwork
from core.request import GenerationRequest
from core.sampling.conditioning import Conditioning, PromptOverTime
from core.sampling.guidance import Ask
from core.sampling.prediction import Prediction
from core.sampling.schedule import Schedule
from core.settings import Memory
from core.text.encode import Encodings, encode
from core.text.encoders import SideBySide, TextEncoder
from core.text.prompt import Counting, lifted
from core.text.tokenizer import Tokenizer

INPUTS = {4: "plain", 9: "inpainting", 5: "depth"}
"""Input channels of the U-Nets that are understood."""
NUMBER_WIDTH = 256
"""Width of the embedding of each number in XL's vector."""
PLENTY = 4
"""What LoRAs leave is kept for the next ones where so many times of it are free."""


@dataclass(frozen=True)
class Checkpoint:
    """The parts of one model, in evaluation mode, without gradients."""

    name: str
    family: Family
    network: UNet
    vae: VAENetwork
    text: TextEncoder | SideBySide
    tokenizer: Tokenizer
    schedule: Schedule
    prediction: Prediction
    version: Version
    """Its file as it was when it was read."""
    device: torch.device
    """Where it computes; its parts may wait elsewhere."""
    dtype: torch.dtype
    """Of U-Net and text encoder."""
    vae_dtype: torch.dtype
    placing: Placing
    """Brings its parts to the device when they are used."""
    remarks: tuple[str, ...] = ()
    """What a person should hear when it is used: a part that came from another file."""
    graphs: Graphs | None = None
    """Its U-Net's calls, recorded and played back; None: they are not."""
    _worn: list[Kept] = field(default_factory=list, init=False)
    _wearing: list[Use] = field(default_factory=list, init=False)
    _encodings: Encodings = field(default_factory=Encodings, init=False)

    def taken_notes(self) -> tuple[Note, ...]:
        """What happened since the last time that a person should hear: a fallback."""
        return self.placing.taken_notes()

    def wear(self, uses: Sequence[Use]) -> tuple[Applied, ...]:
        """It has just these LoRAs from now on; the same again cost nothing.

        Raises:
            AdapterError: one does not fit; the model is as it came then, without any.
        """
        if not self._worn:
            if not uses:
                return ()
            self._worn.append(Kept(parts_of(self)))
        if list(uses) != self._wearing:
            # What is taken off must find the rest where it left it.
            self.placing.rest(self.network, self.text)
            self._wearing.clear()
            self._encodings.forget()
            self.forget_graphs()
            applied = self._worn[0].use(uses)
            self.placing.gather(self.network, self.text)
            self._wearing[:] = uses
            if PLENTY * self._worn[0].spare > free_bytes(torch.device("cpu")):
                self.forgo()
            return applied
        return self._worn[0].use(uses)

    def forgo(self) -> bool:
        """Lets go of the memory that LoRAs left for the next ones; whether there was any."""
        has_spare = bool(self._worn) and self._worn[0].spare > 0
        if has_spare:
            self._worn.clear()
        return has_spare

    def forget_graphs(self) -> None:
        """Frees the memory that recordings of its U-Net take."""
        if self.graphs is not None:
            self.graphs.forget()

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c h w) of a picture of so many pixels."""
        shrink = self.vae.config.shrink
        return self.vae.config.latent_channels, height // shrink, width // shrink

    @property
    def kind(self) -> str:
        """What its U-Net is given beside the latents: "plain", "inpainting" or "depth"."""
        return INPUTS[self.network.config.in_channels]

    def prompts(
        self,
        request: GenerationRequest,
        counting: Counting,
        concat: Tensor | None = None,
        embeddings: Known | None = None,
    ) -> tuple[PromptOverTime, PromptOverTime]:
        """Prompt and negative prompt of a resolved request, as the U-Net is told them.

        `concat` (1 c h w) goes beside the latents; None: what stands for no picture.
        `embeddings` are those that may be named.
        """
        assert request.width and request.height

        def read() -> tuple[PromptOverTime, PromptOverTime]:
            self.placing.need(self.text)
            return encode(
                lifted(request.prompt)[0],
                lifted(request.negative_prompt)[0],
                self.text,
                len(counting.passed),
                tokenizer=self.tokenizer if embeddings is None else embeddings.tokenizer,
                emphasis=request.emphasis,
                clip_skip=request.clip_skip,
                counting=counting,
                vectors=None if embeddings is None else embeddings.vectors,
                encodings=self._encodings,
            )

        positive, negative = kept_trying(
            read,
            offloading(self.placing, self._tighten, blocks=False),
            Work("reading the prompts", request.width, request.height),
            self.placing,
        )
        if self.family.empty_is_zero and not request.negative_prompt:
            negative = negative.mapped(Conditioning.zeroed)
        if concat is None:
            concat = self._concat(request.width, request.height)
        told = []
        for prompt, is_negative in ((positive, False), (negative, True)):
            numbers = self.family.numbers
            given = numbers and numbers(request.width, request.height, is_negative)
            told.append(prompt.mapped(functools.partial(_completed, numbers=given, concat=concat)))
        return told[0], told[1]

    @property
    def ask(self) -> Ask:
        """How its U-Net is asked for estimates: with less at once where memory runs out."""
        return asking(self.placing, self.vae.config.shrink, self._tighten)

    def decode(self, latents: Tensor, edgeless: bool = False) -> Tensor:
        """(b c h w) as the U-Net sees them -> (b 3 H W) float32 pixels, about [-1, 1].

        Where there is little memory it works in tiles, see `core.models.sparing`.

        Args:
            edgeless: the picture's opposite edges meet (see `core.nn.seamless`), of tiles too.

        Raises:
            NotFinite: the VAE answered with NaN or infinity, in float32 as well.
            OutOfMemory: not even a tile fits.
        """
        cells = Cells(given=1, answered=self.vae.config.shrink)
        unscaled = latents.float() / self.family.latent_scale
        return self._through_vae(_Coding("decod", self.vae.decode, cells, edgeless), unscaled)

    def encode(self, pixels: Tensor) -> Tensor:
        """(b 3 H W) in [-1, 1] -> (b c h w) float32: the mean, as the U-Net sees it.

        Raises:
            NotFinite, OutOfMemory: as `decode`.
        """
        cells = Cells(given=self.vae.config.shrink, answered=1)
        coding = _Coding("encod", lambda given: self.vae.encode(given)[0], cells)
        return self._through_vae(coding, pixels) * self.family.latent_scale

    def _through_vae(self, coding: _Coding, given: Tensor) -> Tensor:
        """`run` in the VAE's own precision, and once more in float32 where that was too narrow."""
        answer = self._coded(coding, given, self.vae_dtype)
        if self.vae_dtype is not torch.float32 and not torch.isfinite(answer).all():
            name = str(self.vae_dtype).removeprefix("torch.")
            self.placing.tell(
                f"in {name} the VAE came to values that are no numbers; float32 was used instead",
                "precision",
            )
            self.vae.float()
            try:
                answer = self._coded(coding, given, torch.float32)
            finally:
                self.vae.to(self.vae_dtype)  # exactly what it was: float32 holds every such number
        if not torch.isfinite(answer).all():
            raise NotFinite(f"the VAE of {self.name} {coding.verb}ed to values that are no numbers")
        return answer

    def _coded(self, coding: _Coding, given: Tensor, dtype: torch.dtype) -> Tensor:
        """(b c h w) float32, in pieces where it would not fit otherwise."""
        placing, shrink = self.placing, self.vae.config.shrink
        rows, columns = (side // coding.cells.given for side in given.shape[-2:])
        work = Work(f"{coding.verb}ing", columns * shrink, rows * shrink)
        takes = decoding_bytes if coding.verb == "decod" else encoding_bytes

        def needed() -> int:
            seen = min(rows, tile_of(placing) or rows) * min(columns, tile_of(placing) or columns)
            together = 1 if placing.thrift.decodes_apart else len(given)
            return together * takes(self.vae.config, dtype, seen)

        def call() -> Tensor:
            placing.need(self.vae)
            pieces = given.split(1) if placing.thrift.decodes_apart else (given,)
            tile = tile_of(placing)
            if tile is not None and placing.tiles == "always" and max(rows, columns) > tile:
                placing.tell(
                    f"the VAE works in tiles of {tile * shrink} pixels, as the settings say"
                )
            coded = [
                coding.of(piece.to(self.device, dtype), tile or max(rows, columns))
                for piece in pieces
            ]
            return coded[0] if len(coded) == 1 else torch.cat(coded)

        measures = vae_measures(placing, len(given), max(rows, columns), shrink, self._tighten)
        chosen_ahead(needed, measures, work, placing)
        return kept_trying(call, measures, work, placing)

    def _tighten(self, memory: Memory) -> None:
        """A tighter policy, what its LoRAs replaced off the device too."""
        self.forget_graphs()
        wearing = list(self._wearing)
        if wearing:
            self.wear(())
        self.placing.tighten(memory)
        if wearing:
            self.wear(wearing)

    def _concat(self, width: int, height: int) -> Tensor | None:
        """What an inpainting or depth U-Net is given beside the latents when there is no picture.

        Inpainting: a mask that repaints all, and the latents of even grey. Depth: an even depth.
        """
        extra = self.network.config.in_channels - self.vae.config.latent_channels
        if extra == 0:
            return None
        _, rows, columns = self.latent_shape(width, height)
        if extra == 1:
            return torch.zeros(1, 1, rows, columns, device=self.device)
        grey = self.encode(torch.zeros(1, 3, height, width, device=self.device))
        return torch.cat((torch.ones_like(grey[:, :1]), grey), dim=1)


@dataclass(frozen=True)
class _Coding:
    """One of the two things that a VAE does."""

    verb: str
    """Without its ending."""
    run: Callable[[Tensor], Tensor]
    cells: Cells
    edgeless: bool = False

    def of(self, given: Tensor, tile: int) -> Tensor:
        """`run` on (b c h w), in tiles of so many cells where it is larger."""
        cells, margin = self.cells, tile // OVERLAP
        larger = max(given.shape[-2:]) > tile * cells.given
        if not (larger and self.edgeless):
            return tiled(self.run, given, cells, tile).float()
        around = wrapped(given, margin * cells.given)
        cut = slice(margin * cells.answered, -margin * cells.answered)
        return tiled(self.run, around, cells, tile)[..., cut, cut]


def _completed(
    conditioning: Conditioning, numbers: tuple[float, ...] | None, concat: Tensor | None
) -> Conditioning:
    """With the numbers embedded behind the pooled text, and what goes beside the latents.

    Each number becomes 256 sinusoids, like a timestep; arXiv:2307.01952, section 2.2.
    """
    pooled = conditioning.pooled
    if numbers is not None:
        assert pooled is not None
        embedded = timestep_embedding(torch.tensor(numbers, device=pooled.device), NUMBER_WIDTH)
        pooled = torch.cat((pooled, rearrange(embedded, "n d -> 1 (n d)")), dim=-1)
    return replace(conditioning, pooled=pooled, concat=concat)


def announced(model: Checkpoint, fingerprint: str, preview: Tensor) -> Loaded:
    """What a run says of its model.

    Args:
        fingerprint: of its file; empty: not known yet.
        preview: its matrix from latents to small pictures.
    """
    return Loaded(
        checkpoint=model.name,
        family=model.family.name,
        fingerprint=fingerprint,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        preview=preview,
        kernels=kernels.told() if model.device.type == "cpu" else "",
    )
