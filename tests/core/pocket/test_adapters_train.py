"""The scripts that train the small files which come with the weights."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.pocket import adapters_train, train
from core.pocket.words import Words

LAYERS = 184  # 16 transformer blocks of 10 layers, 4 text layers of 6


@pytest.fixture(scope="module")
def painter() -> train.Painter:
    torch.manual_seed(0)
    painter = train.Painter(len(Words().tokens))
    nn.init.normal_(painter.unet.out[2].weight, std=0.1)
    return painter


def test_branches_start_as_nothing_and_are_named_as_files_of_sd_1_name_them(painter):
    x, time, ids = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.full((1, 77), 3)
    with torch.inference_mode():
        before = painter(x, time, ids)
        branches = adapters_train.adapted(painter, rank=2)
        torch.testing.assert_close(painter(x, time, ids), before, rtol=1e-5, atol=1e-6)
    names = [adapters_train.kohya_name(path) for path in branches]
    assert len(set(names)) == len(names) == LAYERS
    for name in (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0",
        "lora_te_text_model_encoder_layers_3_self_attn_q_proj",
        "lora_te_text_model_encoder_layers_0_mlp_fc2",
    ):
        assert name in names
    tensors = adapters_train.lora_tensors(branches)
    assert len(tensors) == 3 * LAYERS
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values())
    trained = [name for name, p in painter.named_parameters() if p.requires_grad]
    assert all(".up." in name or ".down." in name for name in trained)


def test_a_cyanotype_is_in_the_style_and_keeps_light_and_dark():
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blue = adapters_train.cyanotype(pixels)
    assert adapters_train.off_style(blue) == pytest.approx(0.0, abs=0.05)
    assert adapters_train.off_style(pixels) > 20
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    light, blue_light = ((p * weights).sum(1).flatten() for p in (pixels, blue))
    assert torch.corrcoef(torch.stack((light, blue_light)))[0, 1] > 0.999


def test_the_shipped_files_are_small_and_have_the_shapes_of_the_weights(painter):
    lora = adapters_train.FOLDER / "loras" / f"{adapters_train.STYLE}.safetensors"
    assert lora.stat().st_size < 1_000_000
    tensors = load_file(lora)
    assert len(tensors) == 3 * LAYERS
    assert all(
        tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in tensors.values()
    )
    embedding = adapters_train.FOLDER / "embeddings" / f"{adapters_train.NEW}.safetensors"
    assert embedding.stat().st_size < 20_000
    rows = load_file(embedding)["emb_params"]
    assert rows.shape == (adapters_train.VECTORS, adapters_train.WIDTH)
