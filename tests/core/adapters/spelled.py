"""Random LoRAs in every spelling, and what each does, written out on dense matrices.

The formulas are those of the papers, element by element where they are short; nothing of
core.adapters is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

RANK = 3
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer of a tiny model, in diffusers' and in the original's names."""

    part: str
    theirs: str
    ours: str
    shape: tuple[int, ...]


UNET = [
    Layer("unet", *names, shape)
    for names, shape in [
        (
            (
                "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
                "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
            ),
            (32, 32),
        ),
        (
            (
                "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
                "middle_block.1.transformer_blocks.0.attn2.to_k",
            ),
            (64, 32),
        ),
        (
            (
                "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0",
                "output_blocks.5.1.transformer_blocks.0.attn1.to_out.0",
            ),
            (64, 64),
        ),
    ]
]
WIDE = [
    Layer("unet", *names, shape)
    for names, shape in [
        (("down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in"), (32, 32, 1, 1)),
        (("down_blocks.1.resnets.0.conv1", "input_blocks.4.0.in_layers.2"), (64, 32, 3, 3)),
        (("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
         (64, 32, 1, 1)),
        (("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"), (64, 128)),
        (("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"), (64, 64, 3, 3)),
    ]
]  # fmt: skip
TEXT = [
    Layer("text", name, name, shape)
    for name, shape in [
        ("text_model.encoder.layers.0.self_attn.q_proj", (32, 32)),
        ("text_model.encoder.layers.1.mlp.fc1", (128, 32)),
    ]
]
XL_TEXT = [
    Layer("text_1", "text_model.encoder.layers.1.self_attn.v_proj", "", (32, 32)),
    Layer("text_2", "text_model.encoder.layers.0.mlp.fc2", "", (32, 128)),
]


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) * 0.3


# --- kinds: (layer's tensors without its name, what it adds) -------------------------------------

Kind = Callable[[torch.Generator, tuple[int, ...], float | None], tuple[Tensors, Tensor]]


def low_rank(g: torch.Generator, shape: tuple[int, ...], alpha: float | None, names: str = "kohya"):
    """ΔW[o i] = alpha / r · Σ up[o r] down[r i]."""
    down, up = drawn(g, RANK, *shape[1:]), drawn(g, shape[0], RANK)
    delta = sum(torch.einsum("o,i...->oi...", up[:, r], down[r]) for r in range(RANK))
    delta = delta * (1 if alpha is None else alpha / RANK)
    if len(shape) == 4:
        up = up[:, :, None, None]
    spelled = {
        "kohya": (".lora_down.weight", ".lora_up.weight"),
        "peft": (".lora_A.weight", ".lora_B.weight"),
        "named": (".lora_A.default.weight", ".lora_B.default.weight"),
        "updown": (".lora.down.weight", ".lora.up.weight"),
        "linear": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    }[names]
    return with_alpha({spelled[0]: down, spelled[1]: up}, alpha), delta


def tucker(g: torch.Generator, shape: tuple[int, ...], alpha: float | None):
    if len(shape) != 4 or shape[2] == 1:
        return low_rank(g, shape, alpha)
    up, mid = drawn(g, shape[0], RANK), drawn(g, RANK, RANK, *shape[2:])
    down = drawn(g, RANK, shape[1])
    delta = torch.zeros(shape)
    for p in range(RANK):
        for q in range(RANK):
            delta += up[:, p, None, None, None] * mid[p, q] * down[None, q, :, None, None]
    tensors = {
        ".lora_down.weight": down[..., None, None],
        ".lora_mid.weight": mid,
        ".lora_up.weight": up[..., None, None],
    }
    return with_alpha(tensors, alpha), delta * (1 if alpha is None else alpha / RANK)


def hadamard(g: torch.Generator, shape: tuple[int, ...], alpha: float | None):
    columns = torch.Size(shape[1:]).numel()
    tensors, product = {}, torch.ones(shape)
    for i in (1, 2):
        a, b = drawn(g, shape[0], RANK), drawn(g, RANK, columns)
        tensors |= {f".hada_w{i}_a": a, f".hada_w{i}_b": b}
        product = product * (a @ b).reshape(shape)
    return with_alpha(tensors, alpha), product * (1 if alpha is None else alpha / RANK)


def hadamard_tucker(g: torch.Generator, shape: tuple[int, ...], alpha: float | None):
    if len(shape) != 4 or shape[2] == 1:
        return hadamard(g, shape, alpha)
    tensors, product = {}, torch.ones(shape)
    for i in (1, 2):
        a, b = drawn(g, RANK, shape[0]), drawn(g, RANK, shape[1])
        core = drawn(g, RANK, RANK, *shape[2:])
        tensors |= {f".hada_w{i}_a": a, f".hada_w{i}_b": b, f".hada_t{i}": core}
        factor = torch.zeros(shape)
        for p in range(RANK):
            for q in range(RANK):
                factor += a[p][:, None, None, None] * b[q][None, :, None, None] * core[p, q]
        product = product * factor
    return with_alpha(tensors, alpha), product * (1 if alpha is None else alpha / RANK)


def kronecker(
    g: torch.Generator,
    shape: tuple[int, ...],
    alpha: float | None,
    left: bool = False,
    right: bool = True,
    core: bool = False,
):
    """ΔW = scale · left ⊗ right, block by block; `left`, `right`: factored, else whole."""
    m = 4
    rows, columns, kernel = shape[0] // m, shape[1] // m, shape[2:]
    tensors: Tensors = {}
    if left:
        tensors |= {".lokr_w1_a": drawn(g, m, 2), ".lokr_w1_b": drawn(g, 2, m)}
        w1, rank = tensors[".lokr_w1_a"] @ tensors[".lokr_w1_b"], 2
    else:
        tensors[".lokr_w1"] = w1 = drawn(g, m, m)
        rank = 0
    if right and core and kernel and kernel[0] > 1:
        a, b = drawn(g, RANK, rows), drawn(g, RANK, columns)
        t = drawn(g, RANK, RANK, *kernel)
        tensors |= {".lokr_w2_a": a, ".lokr_w2_b": b, ".lokr_t2": t}
        w2 = torch.zeros(rows, columns, *kernel)
        for p in range(RANK):
            for q in range(RANK):
                w2 += a[p][:, None, None, None] * b[q][None, :, None, None] * t[p, q]
        rank = RANK
    elif right:
        size = columns * torch.Size(kernel).numel()
        tensors |= {".lokr_w2_a": drawn(g, rows, RANK), ".lokr_w2_b": drawn(g, RANK, size)}
        w2 = (tensors[".lokr_w2_a"] @ tensors[".lokr_w2_b"]).reshape(rows, columns, *kernel)
        rank = RANK
    else:
        tensors[".lokr_w2"] = w2 = drawn(g, rows, columns, *kernel)
    delta = torch.zeros(shape)
    for i in range(m):
        for j in range(m):
            block = w1[i, j] * w2
            delta[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = block
    scale = alpha / rank if rank and alpha is not None else 1
    return with_alpha(tensors, alpha), delta * scale


def difference(g: torch.Generator, shape: tuple[int, ...], alpha: float | None):
    delta = drawn(g, *shape)
    return {".diff": delta}, delta


def with_alpha(tensors: Tensors, alpha: float | None) -> Tensors:
    return tensors if alpha is None else tensors | {".alpha": torch.tensor(alpha)}


# --- whole files ---------------------------------------------------------------------------------


def whole(
    layers: Iterable[Layer],
    name: Callable[[Layer], str],
    kind: Kind,
    alpha: float | None = 2.0,
    seed: int = 0,
) -> tuple[Tensors, dict[tuple[str, str], Tensor]]:
    """A file's tensors, and (part, original path) → what it adds."""
    g = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    deltas = {}
    for layer in layers:
        parts, delta = kind(g, layer.shape, alpha)
        tensors |= {name(layer) + ending: tensor for ending, tensor in parts.items()}
        deltas[layer.part, layer.ours or layer.theirs] = delta
    return tensors, deltas


def kohya(layer: Layer) -> str:
    te = {"text": "te", "text_1": "te1", "text_2": "te2", "unet": "unet"}[layer.part]
    return f"lora_{te}_{layer.theirs.replace('.', '_')}"


def kohya_ldm(layer: Layer) -> str:
    path = layer.ours or layer.theirs
    te = {"text": "te", "text_1": "te1", "text_2": "te2", "unet": "unet"}[layer.part]
    return f"lora_{te}_{path.replace('.', '_')}"


def diffusers(layer: Layer) -> str:
    part = {"unet": "unet", "text": "text_encoder", "text_1": "text_encoder"}
    return f"{part.get(layer.part, 'text_encoder_2')}.{layer.theirs}"


def bare(layer: Layer) -> str:
    return layer.theirs


def peft_model(layer: Layer) -> str:
    return f"base_model.model.{layer.theirs}"


def comfy(layer: Layer) -> str:
    return f"diffusion_model.{layer.ours}"


def lycoris(layer: Layer) -> str:
    return f"lycoris_{layer.theirs.replace('.', '_')}"
