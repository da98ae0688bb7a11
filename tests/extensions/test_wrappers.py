"""The laws of the wrappers that ship, each against its paper's own formula or its own zero."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from core.extend.house import Extensions
from core.nn.attention import PLAIN, Attending, Site
from core.sampling.guidance import Predictions, classifier_free
from tests.extensions.shipped import settings, shipped

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Extensions:
    return shipped(tmp_path_factory.mktemp("data"))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


def predictions(sigma: float = 3.0) -> Predictions:
    conds = (drawn(2, 4, 8, 8), drawn(2, 4, 8, 8))
    return Predictions(
        drawn(2, 4, 8, 8), torch.tensor(sigma), conds, (0.75, 0.5), drawn(2, 4, 8, 8)
    )


def v_of(given: Predictions, denoised: torch.Tensor) -> torch.Tensor:
    s = given.sigma
    return (given.x / (s**2 + 1) - denoised) * (s**2 + 1).sqrt() / s


def test_fully_rescaled_guidance_spreads_as_the_prompt_does(house: Extensions) -> None:
    given = predictions()
    wrap = house.registry.combine_wrappers["guidance_rescale"].wrap
    whole = wrap(classifier_free(12.0), settings("guidance_rescale", amount=1.0))(given)
    prompted = classifier_free(1.0)(given)
    spread = v_of(given, whole).std((1, 2, 3))
    assert spread.numpy() == pytest.approx(v_of(given, prompted).std((1, 2, 3)).numpy(), rel=1e-5)
    none = wrap(classifier_free(12.0), settings("guidance_rescale", amount=0.0))(given)
    torch.testing.assert_close(none, classifier_free(12.0)(given), rtol=1e-4, atol=1e-4)
    alone = replace(given, uncond=None)
    assert torch.equal(
        wrap(classifier_free(12.0), settings("guidance_rescale"))(alone), alone.conds[0]
    )


def test_guidance_acts_in_its_interval_alone(house: Extensions) -> None:
    wrap = house.registry.combine_wrappers["limited_interval"].wrap
    combine = wrap(classifier_free(9.0), settings("limited_interval", low=1.0, high=4.0))
    for sigma, scale in ((0.5, 1.0), (1.0, 1.0), (1.1, 9.0), (4.0, 9.0), (4.1, 1.0)):
        given = predictions(sigma)
        assert torch.equal(combine(given), classifier_free(scale)(given)), sigma
    with pytest.raises(ValueError, match="must not lie above"):
        settings("limited_interval", low=2.0, high=1.0)


def test_sharpened_attention_has_the_papers_scale(house: Extensions) -> None:
    wrap = house.registry.attention_wrappers["larger_pictures"].wrap
    attending: Attending = wrap(PLAIN, settings("larger_pictures", times=4.0))
    q, k, v = (drawn(1, 2, 64, 8) for _ in range(3))
    site = Site("input", 1, 0, "self")
    scale = math.sqrt(math.log(64) / math.log(16) / 8)
    wanted = torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v
    torch.testing.assert_close(attending.attend(q, k, v, site), wanted, rtol=1e-4, atol=1e-5)
    across = replace(site, kind="cross")
    assert torch.equal(attending.attend(q, k, v, across), PLAIN.attend(q, k, v, across))
    assert attending.sources is PLAIN.sources


def test_detail_understates_the_noise_most_at_its_middle(house: Extensions) -> None:
    wrap = house.registry.denoiser_wrappers["detail"].wrap
    asked: list[float] = []

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.append(float(sigma))
        return x

    detailed = wrap(denoise, settings("detail", amount=0.2, middle=2.0, width=0.5))
    levels = (0.05, 2.0, 14.0)
    for sigma in levels:
        detailed(drawn(1, 4, 2, 2), torch.tensor(sigma))
    shares = [1 - told / sigma for told, sigma in zip(asked, levels, strict=True)]
    assert shares[1] == pytest.approx(0.2, rel=1e-5)
    assert all(abs(share) < 0.01 for share in (shares[0], shares[2]))


def test_the_laplace_schedule_falls_and_ends_at_nothing(house: Extensions) -> None:
    from core.sampling.schedule import scaled_linear

    schedule = scaled_linear()
    sigmas = house.registry.schedule("laplace").sigmas(schedule, 12)
    assert len(sigmas) == 13 and sigmas[-1] == 0
    assert (sigmas[:-1] >= sigmas[1:]).all()
    # Half of the mass of the distribution of log sigma lies on each side of 0.
    assert float((sigmas[:-1] > 1).sum()) == 6
    assert sigmas[0] == pytest.approx(float(schedule.sigma_max), rel=1e-5)


def test_gradient_estimation_is_exact_where_slopes_do_not_change(house: Extensions) -> None:
    """For one data point the slope is the noise itself, at every level."""
    from core.sampling.noise import SeededNoise
    from core.sampling.state import State, walk

    point, noise = drawn(1, 4, 2, 2), drawn(1, 4, 2, 2)
    sigmas = torch.tensor([10.0, 5.0, 2.0, 0.5, 0.0])
    sampler = house.registry.sampler("Gradient Estimation").load({})
    start = State(0, point + noise * sigmas[0])
    drawing = SeededNoise.__new__(SeededNoise)
    last = [*walk(sampler, lambda index: lambda x, sigma: point, start, sigmas, drawing)][-1]
    torch.testing.assert_close(last.latents, point, rtol=1e-5, atol=1e-5)
