"""CLIP's text encoders: transformers' modules, built for the weights at hand and filled with them.

Token ids in, encodings out. It knows neither prompts nor files. transformers is imported when the
first encoder is built, since that takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from core.errors import FileError, RequestError
from core.text.tokenizer import END

if TYPE_CHECKING:
    from transformers import CLIPTextModel


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder makes of some chunks."""

    context: Tensor
    """(b 77 d)."""
    pooled: Tensor | None = None
    """(b d)."""


@dataclass(frozen=True, eq=False)
class Splice:
    """Vectors of an embedding in place of the tokens' own."""

    start: int
    """Place of the first one among a chunk's 77."""
    vectors: tuple[Tensor, ...]
    """(n d), one for each encoder."""


class Encoder(Protocol):
    """One text encoder, or several side by side."""

    @property
    def device(self) -> torch.device: ...

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of a token, in each encoder."""

    def __call__(self, ids: Tensor, clip_skip: int = 1, splices: Sequence[Splice] = ()) -> Encoded:
        """`ids` (b 77) are a chunk's: END, then END to the last."""


class TextEncoder(nn.Module):
    """One CLIP text transformer, and how its family reads it.

    Parameters have the names they have in the HF layout: `text_model.encoder.layers.0.…`.

    Args:
        layer: which layer's output is read, counted from the end: -1 the last, -2 the one before.
        final_norm: whether the final norm is applied to what is read.
        padding: the id that fills a chunk after its end.
        projection: (d p) of the pooled output x @ projection; None: nothing is pooled.
    """

    def __init__(
        self,
        text_model: CLIPTextModel,
        *,
        layer: int = -1,
        final_norm: bool = True,
        padding: int = END,
        projection: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.text_model = text_model
        self.layer = layer
        self.final_norm = final_norm
        self.padding = padding
        self.text_projection: nn.Parameter | None = (
            None if projection is None else nn.Parameter(projection, requires_grad=False)
        )

    @property
    def device(self) -> torch.device:
        return self.text_model.final_layer_norm.weight.device

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.text_model.embeddings.token_embedding.weight.shape[1],)

    def forward(self, ids: Tensor, clip_skip: int = 1, splices: Sequence[Splice] = ()) -> Encoded:
        """Reads layer -clip_skip, or the family's own where that is deeper still.

        What `splices` bring takes the place of tokens before positions are added. The pooled
        output is always the last layer's. Raises RequestError for a `clip_skip` that is not one
        of the layers.
        """
        layers = len(self.text_model.encoder.layers)
        if not 1 <= clip_skip <= layers:
            raise RequestError(f"clip_skip must be 1 to {layers}, not {clip_skip}", "clip_skip")
        layer = min(self.layer, -clip_skip)
        ids = self._padded(ids)
        with _spliced(self.text_model.embeddings.token_embedding, splices):
            out = self.text_model(input_ids=ids, output_hidden_states=layer < -1)
        if layer == -1 and self.final_norm:
            return Encoded(out.last_hidden_state, self._pooled(out.last_hidden_state, ids))
        context = out.hidden_states[layer]
        if self.final_norm:
            context = self.text_model.final_layer_norm(context)
        return Encoded(context, self._pooled(out.last_hidden_state, ids))

    def _padded(self, ids: Tensor) -> Tensor:
        """`ids` with this encoder's own padding after the first END."""
        ended = (ids == END).long().cumsum(-1)
        after = torch.roll(ended, 1, -1)
        after[:, 0] = 0
        return torch.where(after > 0, self.padding, ids)

    def _pooled(self, last: Tensor, ids: Tensor) -> Tensor | None:
        """The last layer's row at the first END, projected."""
        if self.text_projection is None:
            return None
        end = (ids == END).long().argmax(-1)
        return last[torch.arange(len(ids), device=last.device), end] @ self.text_projection


class SideBySide(nn.Module):
    """Several encoders whose features are joined; the last one's pooled output is theirs."""

    def __init__(self, encoders: Iterable[TextEncoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    @property
    def device(self) -> torch.device:
        first = self.encoders[0]
        assert isinstance(first, TextEncoder)
        return first.device

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(width for encoder in self._each() for width in encoder.widths)

    def forward(self, ids: Tensor, clip_skip: int = 1, splices: Sequence[Splice] = ()) -> Encoded:
        encoded = [
            encoder(ids, clip_skip, [replace(s, vectors=s.vectors[i : i + 1]) for s in splices])
            for i, encoder in enumerate(self._each())
        ]
        context = torch.cat([one.context.float() for one in encoded], dim=-1)
        return Encoded(context, encoded[-1].pooled)

    def _each(self) -> Iterator[TextEncoder]:
        for encoder in self.encoders:
            assert isinstance(encoder, TextEncoder)
            yield encoder


@contextmanager
def _spliced(token_embedding: nn.Module, splices: Sequence[Splice]) -> Iterator[None]:
    """The table of tokens answers with the vectors of `splices` at their places meanwhile.

    A hook, since transformers' text model takes ids alone.
    """
    if not splices:
        yield
        return

    def replaced(_module: nn.Module, _args: object, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        for splice in splices:
            (vectors,) = splice.vectors
            embedded[:, splice.start : splice.start + len(vectors)] = vectors.to(embedded)
        return embedded

    hook = token_embedding.register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


def clip_text_model(
    weights: Mapping[str, Tensor],
    heads: int | None = None,
    activation: str = "quick_gelu",
    *,
    layer: int = -1,
    final_norm: bool = True,
    padding: int = END,
    pooled: bool = False,
) -> TextEncoder:
    """A text encoder in the HF layout: SD 1's, and XL's first.

    Args:
        weights: names as in HF's CLIPTextModel, with or without `text_model.` before each; they
            are used as they are, on their device and in their dtype. `position_ids` are left out,
            since in many files they are damaged.
        heads: attention heads; None: each 64 wide.
        activation: "quick_gelu" for OpenAI's CLIP, "gelu" for OpenCLIP's.
        layer, final_norm, padding: see TextEncoder.
        pooled: whether `text_projection` is used; else it is left out.

    Raises:
        FileError: weights are missing, left over or of the wrong shape; names the first few.
    """
    named = {
        name.removeprefix("text_model."): weight
        for name, weight in weights.items()
        if not name.endswith("position_ids")
    }
    projection = _projection(named)
    if pooled and projection is None:
        raise FileError("the text encoder lacks text_projection")
    return TextEncoder(
        _filled(named, heads, activation),
        layer=layer,
        final_norm=final_norm,
        padding=padding,
        projection=projection if pooled else None,
    )


def open_clip_text_model(
    weights: Mapping[str, Tensor],
    heads: int | None = None,
    activation: str = "gelu",
    *,
    layer: int = -2,
    final_norm: bool = True,
    pooled: bool = False,
) -> TextEncoder:
    """A text encoder in OpenCLIP's layout: SD 2's ViT-H, and XL's bigG (`final_norm=False`,
    `pooled=True`). Pads with 0. Otherwise as `clip_text_model`."""
    return clip_text_model(
        from_open_clip(weights),
        heads,
        activation,
        layer=layer,
        final_norm=final_norm,
        padding=0,
        pooled=pooled,
    )


def from_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names and fused projections as HF's CLIPTextModel has them."""
    named: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name in _NOT_TEXT:
            continue
        for theirs, ours in _OPEN_CLIP:
            name = re.sub(theirs, ours, name)
        fused = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if fused is None:
            named[name] = weight
            continue
        prefix, kind = fused.groups()
        for part, third in zip("qkv", weight.chunk(3), strict=True):
            named[f"{prefix}.{part}_proj.{kind}"] = third
    return named


_NOT_TEXT = ("logit_scale", "attn_mask")
_OPEN_CLIP = (
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
    (r"^ln_final\.", "final_layer_norm."),
)


def _projection(named: dict[str, Tensor]) -> Tensor | None:
    """Takes the text projection out of `named`, as (d p). A Linear has it as (p d)."""
    linear = named.pop("text_projection.weight", None)
    bare = named.pop("text_projection", None)
    return bare if linear is None else linear.T


def _filled(named: Mapping[str, Tensor], heads: int | None, activation: str) -> CLIPTextModel:
    """transformers' CLIPTextModel, its sizes read off the shapes in `named`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens, positions, feed_forward = (
        _matrix(named, name)
        for name in (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        )
    )
    width = tokens.shape[1]
    heads = heads or max(1, width // 64)
    if width % heads:
        raise FileError(f"a text encoder {width} wide can't have {heads} attention heads")
    config = CLIPTextConfig(
        vocab_size=tokens.shape[0],
        hidden_size=width,
        intermediate_size=feed_forward.shape[0],
        num_hidden_layers=_layers(named),
        num_attention_heads=heads,
        max_position_embeddings=positions.shape[0],
        hidden_act=activation,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
    _fill(model, named)
    # A buffer that no file holds: without this it would stay on meta, and positions be wrong.
    position_ids = torch.arange(positions.shape[0], device=positions.device)
    model.embeddings.register_buffer(
        "position_ids", rearrange(position_ids, "n -> 1 n"), persistent=False
    )
    return model.requires_grad_(False).eval()


def _fill(model: nn.Module, named: Mapping[str, Tensor]) -> None:
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - named.keys()):
        raise FileError(f"the text encoder lacks {_few(missing)}")
    if unknown := sorted(named.keys() - wanted.keys()):
        raise FileError(f"the text encoder has weights that are not its own: {_few(unknown)}")
    misshapen = [name for name in wanted if wanted[name].shape != named[name].shape]
    if misshapen:
        raise FileError(f"the text encoder has weights of the wrong shape: {_few(misshapen)}")
    model.load_state_dict(named, assign=True)


def _matrix(named: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in named:
        raise FileError(f"the text encoder lacks {name}; it has {_few(sorted(named)) or 'nothing'}")
    if named[name].ndim != 2:
        raise FileError(f"the text encoder's {name} is not a matrix: {tuple(named[name].shape)}")
    return named[name]


def _layers(named: Mapping[str, Tensor]) -> int:
    numbers = (re.match(r"encoder\.layers\.(\d+)\.", name) for name in named)
    return len({number[1] for number in numbers if number})


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
