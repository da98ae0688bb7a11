"""Latents, stages and losses of the training, and the way of its weights into a file and back."""

import pytest
import torch

from core.nn.vae import VAE, VAEConfig
from core.pocket import export, latents, train
from core.pocket.words import Words


def test_the_basis_keeps_what_lies_in_it():
    """Latents of a picture made from latents are those latents; they have unit variance."""
    pixels = torch.nn.functional.avg_pool2d(
        torch.randn(8, 3, 68, 68, generator=torch.Generator().manual_seed(0)), 5, stride=1
    )
    basis = latents.fitted(pixels)
    found = basis.latents(pixels)
    assert found.shape == (8, 4, 8, 8)
    assert found.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1, 1], rel=0.05)
    assert torch.allclose(basis.latents(basis.pixels(found)), found, atol=1e-4)


def test_stages_follow_each_other_and_end():
    stages = (train.Reading(10, 1.0, 0.5), train.Reading(5, 0.5, 0.0))
    rates = [train.stage_at(step, stages)[1] for step in range(15)]
    assert rates[0] == 1.0 and rates[10] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert train.stage_at(9, stages)[0] is stages[0]
    with pytest.raises(ValueError, match="15"):
        train.stage_at(15, stages)


def test_both_halves_of_the_autoencoder_learn_from_its_loss():
    torch.manual_seed(0)
    vae = VAE(VAEConfig(channels=8, multipliers=(1, 1, 1, 1), groups=4))
    pixels = torch.rand(4, 3, 32, 32) * 2 - 1
    loss = train.autoencoder_loss(vae, pixels, torch.randn(4, 4, 4, 4), seed=3)
    loss.backward()
    for part in (vae.encoder.conv_in, vae.decoder.conv_out):
        assert part.weight.grad is not None and part.weight.grad.abs().sum() > 0


def test_the_rim_counts_more_and_nothing_else():
    weight = train.rim_weight(torch.zeros(2, 3, 8, 8))
    assert weight.shape == (1, 1, 8, 8)
    assert (weight[0, 0, 2:-2, 2:-2] == 1).all()
    assert (weight == train.RIM_WEIGHT).sum() == 64 - 16


def test_weights_come_back_from_the_names_of_the_file():
    words = Words()
    rows = torch.randn(len(words.tokens), 4)
    state = {
        "unet.out.2.weight": torch.randn(3),
        "text.embeddings.token_embedding.weight": rows,
        "text.final_layer_norm.bias": torch.randn(4),
    }
    tensors = export.painter_tensors(state, words)
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    assert tensors[key].shape == (49408, 4)
    back = export.painter_state(tensors, words)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
