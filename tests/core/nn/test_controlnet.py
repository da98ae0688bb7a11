"""ControlNet and T2I-Adapter against diffusers' on the same weights, and residuals' own laws."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from core.nn.controlnet import ControlNet
from core.nn.residuals import Residuals, summed
from core.nn.t2i_adapter import AdapterConfig, T2IAdapter, placed
from core.nn.unet import UNet, UNetConfig
from tests.core.nn.test_parity import (
    TINY_UNETS,
    diffusers_unet,
    diffusers_unet_keys,
    relative,
)
from tests.tiny import seeded

CONTROLLED = ("sd1", "sd2", "sdxl")


def inputs(config: UNetConfig, rows: int = 16, columns: int = 16) -> tuple[Tensor, ...]:
    """Latents, hint, timesteps, context and vector of two rows."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return (
        drawn(2, config.in_channels, rows, columns),
        torch.rand(2, 3, rows * 8, columns * 8, generator=generator),
        torch.tensor([981.0, 21.0]),
        drawn(2, 7, config.context),
        drawn(2, config.vector or 1),
    )


def control_net(config: UNetConfig, seed: int = 4) -> ControlNet:
    net = seeded(ControlNet(config), seed)
    assert isinstance(net, ControlNet)
    return net


@pytest.mark.parametrize("name", CONTROLLED)
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_a_controlnet_says_what_diffusers_says(name: str, size: tuple[int, int]) -> None:
    config = TINY_UNETS[name]
    ours = control_net(config)
    theirs = diffusers_controlnet(config)
    theirs.load_state_dict(diffusers_control_keys(ours.state_dict(), config))
    x, hint, timestep, context, vector = inputs(config, *size)
    added = {}
    if config.vector is not None:
        pooled, numbers = vector[:, :16], torch.tensor([[64.0, 48.0, 0.0, 8.0]]).repeat(2, 1)
        embedded = theirs.add_time_proj(numbers.flatten()).reshape(2, -1)
        vector = torch.cat((pooled, embedded), dim=-1)
        added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": numbers}}
    expected = theirs(x, timestep, context, hint, **added)
    answer = ours(x, hint, timestep, context, vector)
    assert len(answer.skips) == len(expected.down_block_res_samples)
    for ours_one, theirs_one in zip(answer.skips, expected.down_block_res_samples, strict=True):
        assert ours_one is not None
        assert relative(ours_one, theirs_one) < 1e-5
    assert answer.middle is not None
    assert relative(answer.middle, expected.mid_block_res_sample) < 1e-5
    unet, their_unet = seeded(UNet(config), 0), diffusers_unet(config)
    their_unet.load_state_dict(diffusers_unet_keys(unet.state_dict(), config))
    guided = their_unet(
        x,
        timestep,
        context,
        down_block_additional_residuals=expected.down_block_res_samples,
        mid_block_additional_residual=expected.mid_block_res_sample,
        **added,
    ).sample
    assert relative(unet(x, timestep, context, vector, residuals=answer), guided) < 1e-5
    assert relative(unet(x, timestep, context, vector), guided) > 1e-3


@pytest.mark.parametrize("name", CONTROLLED)
def test_residuals_of_nothing_leave_every_bit(name: str) -> None:
    config = TINY_UNETS[name]
    unet = seeded(UNet(config), 0)
    x, _, timestep, context, vector = inputs(config)
    plain = unet(x, timestep, context, vector)
    for nothing in (None, Residuals(), Residuals((None,) * 12, None, (None,) * 12)):
        assert torch.equal(unet(x, timestep, context, vector, residuals=nothing), plain)


def test_sums_of_residuals_add_what_is_there() -> None:
    one, two = torch.ones(1), torch.full((1,), 2.0)
    total = summed([Residuals((one, None), one), Residuals((two, two, None), None, (two,))])
    assert total is not None
    assert [t if t is None else t.item() for t in total.skips] == [3, 2, None]
    assert (total.middle, total.features) == (one, (two,))
    assert summed([]) is None


@pytest.mark.parametrize(("kind", "name"), [("full_adapter", "sd1"), ("full_adapter_xl", "sdxl")])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_t2i_adapter_says_what_diffusers_says(kind: str, name: str, channels: int) -> None:
    from diffusers import T2IAdapter as Theirs

    is_xl = kind.endswith("xl")
    config = TINY_UNETS[name]
    widths = tuple(config.channels * m for m in config.multipliers)
    widths = (*widths, widths[-1]) if is_xl else widths
    unshuffle = 16 if is_xl else 8
    ours = seeded(T2IAdapter(AdapterConfig(channels, unshuffle, widths)), 5)
    theirs = Theirs(channels, list(widths), 2, unshuffle, kind)
    theirs.load_state_dict(diffusers_adapter_keys(ours.state_dict()))
    x, hint, timestep, context, vector = inputs(config)
    hint = hint[:, :channels]
    features, expected = ours(hint), theirs(hint)
    assert len(features) == len(expected) == 4
    for ours_one, theirs_one in zip(features, expected, strict=True):
        assert relative(ours_one, theirs_one) < 1e-5
    unet, their_unet = seeded(UNet(config), 0), diffusers_unet(config)
    their_unet.load_state_dict(diffusers_unet_keys(unet.state_dict(), config))
    added = {}
    if is_xl:
        pooled, numbers = vector[:, :16], torch.tensor([[64.0, 48.0, 0.0, 8.0]]).repeat(2, 1)
        embedded = their_unet.add_time_proj(numbers.flatten()).reshape(2, -1)
        vector = torch.cat((pooled, embedded), dim=-1)
        added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": numbers}}
    guided = their_unet(
        x,
        timestep,
        context,
        down_intrablock_additional_residuals=[e.clone() for e in expected],
        **added,
    ).sample
    residuals = placed(config, features)
    assert relative(unet(x, timestep, context, vector, residuals=residuals), guided) < 1e-5
    assert relative(unet(x, timestep, context, vector), guided) > 1e-3


def diffusers_controlnet(config: UNetConfig):  # type: ignore[no-untyped-def]
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(diffusers_unet(config))


def diffusers_control_keys(state: dict[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """A ControlNet's tensors under diffusers' names."""
    unet = {n: t for n, t in state.items() if not re.match("zero_|middle_block_out|input_hint", n)}
    renamed = diffusers_unet_keys(unet, config)
    for name, tensor in state.items():
        if match := re.match(r"zero_convs\.(\d+)\.0\.(\w+)", name):
            renamed[f"controlnet_down_blocks.{match[1]}.{match[2]}"] = tensor
        elif match := re.match(r"middle_block_out\.0\.(\w+)", name):
            renamed[f"controlnet_mid_block.{match[1]}"] = tensor
        elif match := re.match(r"input_hint_block\.(\d+)\.(\w+)", name):
            number = int(match[1])
            place = {0: "conv_in", 14: "conv_out"}.get(number, f"blocks.{number // 2 - 1}")
            renamed[f"controlnet_cond_embedding.{place}.{match[2]}"] = tensor
    return renamed


def diffusers_adapter_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A T2I-Adapter's tensors under diffusers' names."""
    renamed = {}
    for name, tensor in state.items():
        match = re.match(r"body\.(\d+)\.(\w+)\.(\w+)", name)
        if match is None:
            renamed["adapter." + name] = tensor
            continue
        level, index = divmod(int(match[1]), 2)
        inside = match[2] if match[2] == "in_conv" else f"resnets.{index}.{match[2]}"
        renamed[f"adapter.body.{level}.{inside}.{match[3]}"] = tensor
    return renamed
