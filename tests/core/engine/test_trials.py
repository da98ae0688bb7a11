"""Trying a model out: the forward process, one guess, and its schedules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from core.engine.answers import answered
from core.engine.engine import EncodePicture, GuessOnce, PlotSchedules
from core.engine.trials import Encoded, Guess, Plotted
from core.errors import RequestError
from core.generate import House
from core.images.inputs import Inputs
from core.models.catalog import Catalog
from core.models.store import Store
from core.registry import built_in
from core.sampling.schedule import noised, scaled_linear, variance_preserving
from core.settings import default_settings
from tests.core.images.pictures import gradient
from tests.tiny import write_sd1

REGISTRY = built_in()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    write_sd1(root / "models" / "Stable-diffusion" / "tiny.safetensors")
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(REGISTRY, catalog, Store(settings, catalog), Inputs(root / "inputs"))


def ask(house: House, query: object) -> object:
    return answered(query, lambda _: None, house)  # type: ignore[arg-type, return-value]


def encoded(house: House, picture: Image.Image, seed: int = 0) -> Encoded:
    assert house.inputs is not None
    found = ask(house, EncodePicture(house.inputs.add(picture), "tiny", seed=seed))
    assert isinstance(found, Encoded)
    return found


def test_noise_laid_over_a_picture_has_the_mean_and_variance_of_the_closed_form(
    house: House,
) -> None:
    """q(x_t | x_0) = N(√ᾱ x_0, (1 − ᾱ) I); arXiv:2006.11239, equation 4."""
    seen = [encoded(house, gradient(64, 64), seed) for seed in range(40)]
    x0 = seen[0].latents
    noise = torch.stack([one.noise for one in seen])
    for timestep in (0, 300, 999):
        sigma = seen[0].sigmas[timestep]
        abar = 1 / (1 + sigma**2)
        x = variance_preserving(noised(x0, noise, sigma), sigma)
        torch.testing.assert_close(x, abar.sqrt() * x0 + (1 - abar).sqrt() * noise)
        left = x - abar.sqrt() * x0
        count = left.numel()
        assert abs(float(left.mean())) < 5 * float((1 - abar).sqrt()) / count**0.5
        assert float(left.var()) == pytest.approx(float(1 - abar), rel=6 * (2 / count) ** 0.5)


def test_a_picture_keeps_its_shape_and_comes_near_the_models_own_size(house: House) -> None:
    for size, latents in (((64, 64), (8, 8)), ((500, 500), (8, 8)), ((400, 100), (8, 16))):
        found = encoded(house, gradient(*size))
        assert found.latents.shape == (1, 4, *latents)
        assert found.noise.shape == found.latents.shape
        assert found.picture.size == (latents[1] * 8, latents[0] * 8)


def test_one_guess_is_the_network_with_and_without_the_prompt(house: House) -> None:
    seen = encoded(house, gradient(64, 64))
    asked = GuessOnce("tiny", None, seen.latents, seen.noise, 400, "a red apple", "")
    first = ask(house, asked)
    assert isinstance(first, Guess)
    assert first.cond.shape == seen.latents.shape
    assert not torch.equal(first.cond, first.uncond)
    same = ask(house, GuessOnce("tiny", None, seen.latents, seen.noise, 400, "a cat", ""))
    assert isinstance(same, Guess)
    assert torch.allclose(same.uncond, first.uncond, atol=1e-5)
    assert not torch.allclose(same.cond, first.cond, atol=1e-5)


def test_hardly_any_noise_is_hardly_guessed_at(house: House) -> None:
    """At timestep 0 sigma is 0.03: the estimate x − sigma · eps can't be far from the picture."""
    seen = encoded(house, gradient(64, 64))
    low = ask(house, GuessOnce("tiny", None, seen.latents, seen.noise, 0, "", ""))
    high = ask(house, GuessOnce("tiny", None, seen.latents, seen.noise, 999, "", ""))
    assert isinstance(low, Guess) and isinstance(high, Guess)
    near, far = (float((g.cond - seen.latents).square().mean()) for g in (low, high))
    assert near < far / 1000


def test_every_schedule_is_plotted_on_the_models_own_levels(house: House) -> None:
    found = ask(house, PlotSchedules("tiny", 20))
    assert isinstance(found, Plotted)
    assert set(found.schedules) == set(REGISTRY.schedules)
    assert torch.equal(found.training, scaled_linear().sigmas)
    for name, sigmas in found.schedules.items():
        assert torch.equal(sigmas, REGISTRY.schedules[name].sigmas(scaled_linear(), 20))
        assert bool((sigmas[1:] < sigmas[:-1]).all())


def test_a_picture_that_is_not_there_is_said(house: House, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not among those"):
        ask(house, EncodePicture("0" * 64, "tiny"))
