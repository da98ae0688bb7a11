"""The autoencoder: pixels in [-1, 1] <-> latents, eight times smaller on each side.

Parameters carry the names of the original checkpoints (below `first_stage_model.`).
arXiv:2112.10752, section 3.1. The latent scale (0.18215 for SD 1.x) is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from core.nn import strips
from core.nn.attention import plain_attend
from core.nn.layers import Conv2d
from core.nn.strips import worth_strips


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The numbers of one autoencoder; the defaults are the kl-f8 one of all SD families."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    """Residual blocks a level in the encoder; one more in the decoder."""
    latent_channels: int = 4
    groups: int = 32

    @property
    def shrink(self) -> int:
        """Pixels a latent cell covers on each side."""
        return 2 ** (len(self.multipliers) - 1)


class VAE(nn.Module):
    """Encoder and decoder with the 1×1 convolutions round the latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(config.latent_channels * 2, config.latent_channels * 2, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(b 3 H W) in [-1, 1] -> mean and log variance, (b c h w) each, unscaled.

        H and W are multiples of `config.shrink`; the log variance is clamped to [-30, 20].
        """
        mean, logvar = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        """(b c h w) unscaled -> (b 3 H W), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(latents))


class Encoder(nn.Module):
    """(b 3 H W) -> (b 2c h w)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        groups = config.groups
        self.conv_in = Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.channels
        for level, width in enumerate(widths):
            step = nn.Module()
            blocks = [_Residual(channels, width, groups)]
            blocks += [_Residual(width, width, groups) for _ in range(config.blocks - 1)]
            step.block = nn.ModuleList(blocks)
            channels = width
            if level < len(widths) - 1:
                step.downsample = _Downsample(channels)
            self.down.append(step)
        self.mid = _Middle(channels, groups)
        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = Conv2d(channels, config.latent_channels * 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for step in self.down:
            for block in step.block:  # type: ignore[union-attr]
                x = block(x)
            if hasattr(step, "downsample"):
                x = step.downsample(x)  # type: ignore[operator]
        x = self.mid(x)
        return _out(x, self.norm_out, self.conv_out)


class Decoder(nn.Module):
    """(b c h w) -> (b 3 H W). Levels are numbered from the pixels up, so they run backwards."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        groups = config.groups
        channels = widths[-1]
        self.conv_in = Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid = _Middle(channels, groups)
        steps: list[nn.Module] = []
        for level, width in reversed(list(enumerate(widths))):
            step = nn.Module()
            blocks = [_Residual(channels, width, groups)]
            blocks += [_Residual(width, width, groups) for _ in range(config.blocks)]
            step.block = nn.ModuleList(blocks)
            channels = width
            if level > 0:
                step.upsample = _Upsample(channels)
            steps.insert(0, step)
        self.up = nn.ModuleList(steps)
        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for step in reversed(list(self.up)):
            for block in step.block:  # type: ignore[union-attr]
                x = block(x)
            if hasattr(step, "upsample"):
                x = step.upsample(x)  # type: ignore[operator]
        return _out(x, self.norm_out, self.conv_out)


def _out(x: Tensor, norm: nn.GroupNorm, conv: Conv2d) -> Tensor:
    """What encoder and decoder end in."""
    if worth_strips(x, conv):
        return strips.convolved(x, conv, strips.activated(norm, x))
    return conv(functional.silu(norm(x)))


class _Residual(nn.Module):
    """Two normalised 3×3 convolutions, added to what came in."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Without gradients x may be overwritten: nobody else reads it any more."""
        if worth_strips(x, self.conv1, self.conv2):
            y = strips.convolved(x, self.conv1, strips.activated(self.norm1, x))
            if not hasattr(self, "nin_shortcut"):
                return strips.convolved(y, self.conv2, strips.activated(self.norm2, y), onto=x)
            x = strips.pointwise(x, self.nin_shortcut)
            x = strips.convolved(y, self.conv2, strips.activated(self.norm2, y), onto=x)
            del y
            # Not all of a wider x's memory is to stay for a narrow answer.
            return x.clone() if x.untyped_storage().nbytes() > x.nbytes else x
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + y


class _SelfAttention(nn.Module):
    """One head over all positions; its linear maps are stored as 1×1 convolutions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (
            rearrange(conv(y), "b c h w -> b 1 (h w) c") for conv in (self.q, self.k, self.v)
        )
        out = plain_attend(q, k, v)
        return x + self.proj_out(rearrange(out, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = _Residual(channels, channels, groups)
        self.attn_1 = _SelfAttention(channels, groups)
        self.block_2 = _Residual(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Downsample(nn.Module):
    """Stride 2 with one row and column of zeros at the bottom and right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if worth_strips(x, self.conv):
            return strips.enlarged(x, self.conv)
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
