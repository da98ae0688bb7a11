"""Our networks against diffusers' on the same random weights."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from core.nn.attention import Attending, naive_attend
from core.nn.unet import UNet, UNetConfig
from core.nn.vae import VAE, VAEConfig
from tests.tiny import seeded, tiny_unet

TINY_UNETS = {
    "sd1": UNetConfig(channels=32, multipliers=(1, 2, 2, 2), context=24, heads=8),
    "sd2": UNetConfig(
        channels=32,
        multipliers=(1, 2, 2, 2),
        context=24,
        heads=None,
        head_width=16,
        linear_projection=True,
    ),
    "sdxl": UNetConfig(
        channels=32,
        multipliers=(1, 2, 4),
        depths=(0, 2, 3),
        middle_depth=3,
        context=24,
        heads=None,
        head_width=16,
        linear_projection=True,
        vector=80,
    ),
    "sdxl-refiner": UNetConfig(
        channels=32,
        multipliers=(1, 2, 4, 4),
        depths=(0, 2, 2, 0),
        middle_depth=2,
        context=24,
        heads=None,
        head_width=16,
        linear_projection=True,
        vector=96,
    ),
    "inpainting": UNetConfig(
        in_channels=9, channels=32, multipliers=(1, 2, 2, 2), context=24, heads=8
    ),
    "depth": UNetConfig(
        in_channels=5,
        channels=32,
        multipliers=(1, 2, 2, 2),
        context=24,
        heads=None,
        head_width=16,
        linear_projection=True,
    ),
}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", TINY_UNETS)
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 13)])
def test_the_unet_says_what_diffusers_says(name: str, size: tuple[int, int]) -> None:
    config = TINY_UNETS[name]
    ours = seeded(UNet(config), 0)
    theirs = diffusers_unet(config)
    theirs.load_state_dict(diffusers_unet_keys(ours.state_dict(), config))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.in_channels, *size, generator=generator)
    context = torch.randn(2, 7, config.context, generator=generator)
    timestep = torch.tensor([981.0, 21.5])
    if config.vector is None:
        expected = theirs(x, timestep, context).sample
        assert relative(ours(x, timestep, context), expected) < 1e-5
    else:
        pooled = torch.randn(2, 16, generator=generator)
        count = (config.vector - 16) // 16  # sizes, crop, target; or the aesthetic score
        numbers = torch.tensor([[64.0, 48.0, 0.0, 8.0, 6.0]])[:, :count].repeat(2, 1)
        added = {"text_embeds": pooled, "time_ids": numbers}
        expected = theirs(x, timestep, context, added_cond_kwargs=added).sample
        embedded = theirs.add_time_proj(numbers.flatten()).reshape(2, -1)
        vector = torch.cat((pooled, embedded), dim=-1)
        assert relative(ours(x, timestep, context, vector), expected) < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_vae_encodes_and_decodes_as_diffusers_does(size: tuple[int, int]) -> None:
    config = VAEConfig(channels=16, multipliers=(1, 2, 2, 2), groups=8)
    ours = seeded(VAE(config), 3)
    assert isinstance(ours, VAE)
    theirs = diffusers_vae(config)
    theirs.load_state_dict(diffusers_vae_keys(ours.state_dict()))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, *size, generator=generator) * 2 - 1
    expected = theirs.encode(pixels).latent_dist
    mean, logvar = ours.encode(pixels)
    assert relative(mean, expected.mean) < 1e-5
    assert relative(logvar, expected.logvar) < 1e-5
    assert relative(ours.decode(mean), theirs.decode(mean).sample) < 1e-5


def test_another_way_of_attending_is_used_at_every_site() -> None:
    unet = tiny_unet()
    seen = []

    def attend(q: Tensor, k: Tensor, v: Tensor, site: object) -> Tensor:
        seen.append(site)
        return naive_attend(q, k, v, site)  # type: ignore[arg-type]

    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, unet.config.context)
    timestep = torch.tensor([500.0])
    plain = unet(x, timestep, context)
    assert relative(unet(x, timestep, context, attending=Attending(attend=attend)), plain) < 1e-5
    # three levels of two blocks down, three up, and the middle; self and cross in each
    assert len(seen) == len(set(seen)) == 2 * (6 + 9 + 1)


def test_xl_without_its_vector_is_refused() -> None:
    unet = seeded(UNet(TINY_UNETS["sdxl"]), 0)
    with pytest.raises(ValueError, match="vector"):
        unet(torch.randn(1, 4, 8, 8), torch.tensor([1.0]), torch.randn(1, 5, 24))


def diffusers_unet(config: UNetConfig):  # type: ignore[no-untyped-def]
    from diffusers import UNet2DConditionModel

    levels = range(len(config.multipliers))
    widths = [config.channels * m for m in config.multipliers]
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depths]
    heads = [config.heads_for(width)[0] for width in widths]
    extra = {}
    if config.vector is not None:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": config.vector,
        }
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=widths,
        down_block_types=kinds,
        up_block_types=[kinds[i].replace("Down", "Up") for i in reversed(levels)],
        layers_per_block=config.blocks,
        cross_attention_dim=config.context,
        attention_head_dim=heads,  # diffusers means the number of heads by this
        transformer_layers_per_block=[depth or config.middle_depth for depth in config.depths],
        use_linear_projection=config.linear_projection,
        norm_num_groups=config.groups,
        **extra,
    ).eval()


def diffusers_unet_keys(state: dict[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Ours (ldm) to diffusers' names."""
    per, renamed = config.blocks + 1, {}
    fixed = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
    }
    for n in range(1, per * len(config.multipliers)):
        level, i = divmod(n - 1, per)
        fixed[f"input_blocks.{n}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        fixed[f"input_blocks.{n}.0"] = f"down_blocks.{level}.resnets.{i}"
        fixed[f"input_blocks.{n}.1"] = f"down_blocks.{level}.attentions.{i}"
    for n in range(per * len(config.multipliers)):
        level, i = divmod(n, per)
        fixed[f"output_blocks.{n}.1.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
        fixed[f"output_blocks.{n}.2.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
        fixed[f"output_blocks.{n}.0"] = f"up_blocks.{level}.resnets.{i}"
        fixed[f"output_blocks.{n}.1"] = f"up_blocks.{level}.attentions.{i}"
    inner = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }
    for name, tensor in state.items():
        start = max((p for p in fixed if name.startswith(p + ".")), key=len)
        rest = name[len(start) :]
        for old, new in inner.items():
            rest = re.sub(rf"^\.{re.escape(old)}\.", f".{new}.", rest)
        renamed[fixed[start] + rest] = tensor
    return renamed


def diffusers_vae(config: VAEConfig):  # type: ignore[no-untyped-def]
    from diffusers import AutoencoderKL

    levels = len(config.multipliers)
    return AutoencoderKL(
        block_out_channels=[config.channels * m for m in config.multipliers],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
    ).eval()


def diffusers_vae_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours (ldm) to diffusers' names; attention's 1×1 convolutions become linear layers."""
    last = 3
    rules = [
        (r"encoder\.down\.(\d)\.block\.", r"encoder.down_blocks.\1.resnets."),
        (r"encoder\.down\.(\d)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
        (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
        (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
        (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
        (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
        (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
        (r"norm_out", "conv_norm_out"),
        (r"nin_shortcut", "conv_shortcut"),
    ]
    renamed = {}
    for name, tensor in state.items():
        new = re.sub(
            r"decoder\.up\.(\d)\.block\.",
            lambda m: f"decoder.up_blocks.{last - int(m[1])}.resnets.",
            name,
        )
        new = re.sub(
            r"decoder\.up\.(\d)\.upsample\.",
            lambda m: f"decoder.up_blocks.{last - int(m[1])}.upsamplers.0.",
            new,
        )
        for old, rule in rules:
            new = re.sub(old, rule, new)
        linear = "attn_1" in name and tensor.ndim == 4
        renamed[new] = tensor[:, :, 0, 0] if linear else tensor
    return renamed
