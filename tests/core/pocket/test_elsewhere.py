"""The shipped file in another program: diffusers reads it as the SD 1.x file that it is."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor

from core.models.catalog import POCKET
from core.models.family import UNET, VAE, read_card, unet_config, vae_config
from core.models.files import read_header, read_tensors
from core.nn.unet import UNet
from core.nn.vae import VAE as VAENetwork


def weights(prefix: str) -> dict[str, Tensor]:
    header = read_header(POCKET)
    names = {name: name[len(prefix) :] for name in header.tensors if name.startswith(prefix)}
    return {name: tensor.float() for name, tensor in read_tensors(header, names)}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The numbers that diffusers can't read off the file, as it wants them: a folder."""
    header = read_header(POCKET)
    card = read_card(header)
    unet, vae = unet_config(header, None, card), vae_config(header, card)
    widths = [unet.channels * multiplier for multiplier in unet.multipliers]
    diffusers.UNet2DConditionModel(
        block_out_channels=widths,
        cross_attention_dim=unet.context,
        attention_head_dim=[unet.heads_for(width)[0] for width in widths],
    ).save_config(tmp_path / "unet")
    diffusers.AutoencoderKL(
        block_out_channels=[vae.channels * multiplier for multiplier in vae.multipliers],
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=vae.blocks,
        norm_num_groups=vae.groups,
    ).save_config(tmp_path / "vae")
    return tmp_path


@torch.inference_mode()
def test_diffusers_reads_the_shipped_unet(config: Path) -> None:
    header = read_header(POCKET)
    ours = UNet(unet_config(header, None, read_card(header))).eval()
    ours.load_state_dict(weights(UNET))
    theirs = diffusers.UNet2DConditionModel.from_single_file(
        str(POCKET), config=str(config), subfolder="unet", local_files_only=True
    ).eval()
    torch.manual_seed(0)
    x, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 128)
    step = torch.tensor([700.0, 30.0])
    torch.testing.assert_close(
        ours(x, step, context), theirs(x, step, context).sample, rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_diffusers_reads_the_shipped_autoencoder(config: Path) -> None:
    header = read_header(POCKET)
    ours = VAENetwork(vae_config(header, read_card(header))).eval()
    ours.load_state_dict(weights(VAE))
    theirs = diffusers.AutoencoderKL.from_single_file(
        str(POCKET), config=str(config), subfolder="vae", local_files_only=True
    ).eval()
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    mean = theirs.encode(pixels).latent_dist.mean
    torch.testing.assert_close(ours.encode(pixels)[0], mean, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample, rtol=1e-4, atol=1e-4)
