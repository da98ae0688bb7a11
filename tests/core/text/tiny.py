"""A tiny random CLIP text model, in transformers and in both layouts of weights."""

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH, LAYERS, HEADS = 16, 3, 2


def text_model(activation: str = "quick_gelu") -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        hidden_act=activation,
    )
    model = CLIPTextModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def weights(model: CLIPTextModel) -> dict[str, Tensor]:
    """As SD 1 checkpoints have them, with position ids as damaged as they come."""
    named = {f"text_model.{name}": weight for name, weight in model.state_dict().items()}
    return named | {"text_model.embeddings.position_ids": torch.zeros(1, 77)}


def open_clip_weights(model: CLIPTextModel, projection: Tensor) -> dict[str, Tensor]:
    """As SD 2 and XL checkpoints have them."""
    own = model.state_dict()
    named = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
        "text_projection": projection,
        "logit_scale": torch.tensor(1.0),
    }
    for i in range(LAYERS):
        ours, theirs = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            fused = [own[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{theirs}attn.in_proj_{kind}"] = torch.cat(fused)
            named[f"{theirs}attn.out_proj.{kind}"] = own[f"{ours}self_attn.out_proj.{kind}"]
            named[f"{theirs}ln_1.{kind}"] = own[f"{ours}layer_norm1.{kind}"]
            named[f"{theirs}ln_2.{kind}"] = own[f"{ours}layer_norm2.{kind}"]
            named[f"{theirs}mlp.c_fc.{kind}"] = own[f"{ours}mlp.fc1.{kind}"]
            named[f"{theirs}mlp.c_proj.{kind}"] = own[f"{ours}mlp.fc2.{kind}"]
    return named
