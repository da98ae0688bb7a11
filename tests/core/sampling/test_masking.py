"""What a mask keeps is the original at the end of every walk; what it frees is untouched by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.registry import built_in
from core.sampling.masking import differential, masked, settled
from core.sampling.noise import SeededNoise
from core.sampling.schedule import karras, scaled_linear
from core.sampling.state import Denoiser, State, walk

SCHEDULE = scaled_linear()
SHAPE = (4, 6, 5)
SAMPLERS = built_in().samplers
STEPS = 22
ORIGINAL = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(11))


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser with no closed form."""
    return torch.tanh(x / (1 + sigma)) * 0.8 + 0.1 * torch.sin(x)


def even_mask(value: float) -> Tensor:
    return torch.full((1, 1, *SHAPE[1:]), float(value))


def half_mask() -> Tensor:
    """Black on the left, white on the right."""
    mask = even_mask(0)
    mask[..., 3:] = 1
    return mask


def walked(name: str, denoiser_at: Callable[[int], Denoiser], first: int = 0) -> list[Tensor]:
    """The latents of every state of a walk from the noised original."""
    entry = SAMPLERS[name]
    sigmas = entry.planned(karras(SCHEDULE, STEPS), STEPS)
    noise = SeededNoise((3,), SHAPE, sigmas)
    chosen = entry.load({"calls": STEPS} if entry.takes_calls else {})
    start = State(first, ORIGINAL + noise.draw(0) * sigmas[first])
    return [start.latents, *(s.latents for s in walk(chosen, denoiser_at, start, sigmas, noise))]


def always(denoise: Denoiser) -> Callable[[int], Denoiser]:
    return lambda index: denoise


def soft(mask: Tensor, intervals: int, first: int = 0) -> Callable[[int], Denoiser]:
    return lambda index: differential(bent, ORIGINAL, mask, index, intervals, first)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_black_mask_ends_at_the_original(name: str) -> None:
    black = even_mask(0)
    # DPM fast and DPM adaptive stop at the lowest level: so much noise is left.
    lowest = float(karras(SCHEDULE, STEPS)[-2])
    near = 5 * lowest if name in ("dpm_fast", "dpm_adaptive") else 2e-5
    for denoiser_at in (always(masked(bent, ORIGINAL, black)), soft(black, STEPS)):
        last = walked(name, denoiser_at)[-1]
        assert torch.allclose(last, ORIGINAL, atol=near)
        assert torch.equal(settled(last, ORIGINAL, black), ORIGINAL)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_white_mask_changes_no_bit(name: str) -> None:
    white = even_mask(1)
    plain = walked(name, always(bent))
    for other in (
        walked(name, always(masked(bent, ORIGINAL, white))),
        walked(name, soft(white, STEPS)),
    ):
        assert len(other) == len(plain)
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    assert torch.equal(settled(plain[-1], ORIGINAL, white), plain[-1])


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS[n].adaptive])
def test_half_a_mask_keeps_one_half_and_does_not_touch_the_other(name: str) -> None:
    """`bent` looks at each cell alone, so the free half must walk as if there were no mask."""
    mask = half_mask()
    plain = walked(name, always(bent))
    half = walked(name, always(masked(bent, ORIGINAL, mask)))
    for one, other in zip(plain, half, strict=True):
        assert torch.equal(one[..., 3:], other[..., 3:])
    last = settled(half[-1], ORIGINAL, mask)
    assert torch.equal(last[..., :3], ORIGINAL[..., :3])
    assert torch.equal(last[..., 3:], plain[-1][..., 3:])


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "dpmpp_2m", "unipc", "lms", "plms"])
def test_what_is_kept_is_the_original_and_its_own_noise_all_the_way(name: str) -> None:
    """Along the probability-flow ODE towards a constant estimate, x = original + sigma · noise."""
    sigmas = karras(SCHEDULE, STEPS)
    states = walked(name, always(masked(bent, ORIGINAL, even_mask(0))))
    noise = SeededNoise((3,), SHAPE, sigmas).draw(0)
    for sigma, latents in zip(sigmas, states, strict=True):
        assert torch.allclose(latents, ORIGINAL + sigma * noise, atol=1e-3)


def test_greys_mix_the_estimates() -> None:
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    sigma, grey = torch.tensor(2.0), even_mask(0.25)
    mixed = masked(bent, ORIGINAL, grey)(x, sigma)
    assert torch.allclose(mixed, 0.25 * bent(x, sigma) + 0.75 * ORIGINAL, atol=1e-6)
    assert mixed.shape == x.shape


@pytest.mark.parametrize(("first", "intervals"), [(0, 20), (5, 25), (12, 16)])
def test_a_grey_is_kept_until_the_rest_of_the_walk_is_its_share(first: int, intervals: int) -> None:
    strengths = torch.tensor([0.0, 0.01, 0.25, 0.5, 0.75, 1.0])
    mask = strengths[None, None, None]
    original, x = torch.zeros(1, 1, 1, 6), torch.ones(1, 1, 1, 6)
    free_for = torch.zeros(6)
    for index in range(first, intervals):
        denoise = differential(lambda x, sigma: x, original, mask, index, intervals, first)
        free_for += denoise(x, torch.tensor(1.0))[0, 0, 0]
    total = intervals - first
    assert free_for.tolist() == [int(s * total + 1e-6) for s in strengths.tolist()]


def test_a_cell_of_strength_s_walks_as_image_to_image_of_strength_s_does() -> None:
    """It is the noised original until it is freed, and from there the same walk."""
    freed = 11
    mask = even_mask(0.5)
    whole = walked("euler", soft(mask, STEPS))
    late = walked("euler", always(bent), first=freed)
    assert torch.allclose(whole[freed], late[0], atol=1e-3)
    assert torch.allclose(whole[-1], late[-1], atol=1e-3)


def test_black_stays_kept_where_a_sampler_takes_more_intervals_than_there_are() -> None:
    x, sigma = torch.ones(1, *SHAPE), torch.tensor(1.0)
    for index in (STEPS - 1, STEPS, 3 * STEPS):
        denoised = differential(bent, ORIGINAL, half_mask(), index, STEPS)(x, sigma)
        assert torch.equal(denoised[..., :3], ORIGINAL[..., :3])
        assert torch.equal(denoised[..., 3:], bent(x, sigma)[..., 3:])
