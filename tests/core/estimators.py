"""Tiny random networks that say something of a picture, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SHALLOW = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
NECK = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}


def depth_network(kind: str) -> Any:
    """Of `model_type` dpt, depth_anything, glpn or zoedepth."""
    import transformers as of

    if kind == "dpt":
        config: Any = of.DPTConfig(
            **SHALLOW,
            **NECK,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            backbone_out_indices=[0, 1, 2, 3],
            reassemble_factors=[4, 2, 1, 0.5],
            is_hybrid=False,
        )
    elif kind == "depth_anything":
        inner: Any = of.Dinov2Config(
            **SHALLOW,
            image_size=28,
            patch_size=14,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
            apply_layernorm=True,
        )
        config = of.DepthAnythingConfig(
            **NECK, backbone_config=inner, reassemble_hidden_size=32, patch_size=14
        )
    elif kind == "glpn":
        config = of.GLPNConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=8,
        )
    else:
        inner = of.BeitConfig(
            **SHALLOW,
            intermediate_size=64,
            image_size=64,
            patch_size=16,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
            use_relative_position_bias=True,
        )
        config = of.ZoeDepthConfig(
            backbone_config=inner,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
            bottleneck_features=16,
            num_relative_features=16,
            bin_embedding_dim=16,
            num_attractors=[4, 2, 2, 1],
            bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "x"}],
            patch_transformer_hidden_size=16,
            patch_transformer_intermediate_size=16,
        )
    torch.manual_seed(3)
    return spread(of.AutoModelForDepthEstimation.from_config(config))


def pose_network(labels: int = 17) -> Any:
    import transformers as of

    inner = of.VitPoseBackboneConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 48]
    )
    torch.manual_seed(4)
    return spread(
        of.VitPoseForPoseEstimation(of.VitPoseConfig(backbone_config=inner, num_labels=labels))
    )


def detector(first: str = "person") -> Any:
    import transformers as of

    inner = of.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = of.RTDetrConfig(
        backbone_config=inner,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=10,
        num_denoising=0,
        id2label={0: first, 1: "dog"},
        label2id={first: 0, "dog": 1},
    )
    torch.manual_seed(5)
    return of.RTDetrForObjectDetection(config).eval()


def yolos() -> Any:
    import transformers as of

    config = of.YolosConfig(
        **SHALLOW,
        intermediate_size=32,
        image_size=[64, 64],
        num_detection_tokens=5,
        id2label={0: "person", 1: "dog"},
        label2id={"person": 0, "dog": 1},
    )
    torch.manual_seed(6)
    return of.YolosForObjectDetection(config).eval()


def spread(network: Any) -> Any:
    """Larger weights than they begin with, so that answers differ from place to place."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return network.eval()


def save(network: Any, folder: Path) -> Path:
    """As it would be published; the folder holds config.json and model.safetensors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    return folder / "model.safetensors"
