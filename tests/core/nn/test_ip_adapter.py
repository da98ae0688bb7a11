"""IP-Adapter against its formula and against diffusers' on the same weights."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch import Tensor

from core.nn.attention import PLAIN, Site
from core.nn.ip_adapter import IPAdapter, ProjectionConfig, looking, sites
from core.nn.unet import UNet
from tests.core.nn.test_parity import TINY_UNETS, diffusers_unet, diffusers_unet_keys, relative
from tests.tiny import seeded

PLAIN_PROJECTION = ProjectionConfig(20, 24, 4)
PERCEIVER = ProjectionConfig(20, 24, 16, inner=64, layers=4)
SITE = Site("input", 1, 0, "cross")


def adapter(config: ProjectionConfig, unet: UNet) -> IPAdapter:
    made = seeded(IPAdapter(config, [width for _, width in sites(unet)]), 3)
    assert isinstance(made, IPAdapter)
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.5])
def test_a_site_answers_with_its_text_and_its_share_of_the_picture(weight: float) -> None:
    q, k, v = (drawn(2, 4, n, 8, seed=n) for n in (9, 7, 7))
    pair = drawn(2, 5, 32, seed=1), drawn(2, 5, 32, seed=2)
    answer = looking(PLAIN, {SITE: pair}, weight).attend(q, k, v, SITE)

    def naive(keys: Tensor, values: Tensor) -> Tensor:
        scores = torch.einsum("bhnd,bhmd->bhnm", q, keys) / 8**0.5
        return torch.einsum("bhnm,bhmd->bhnd", scores.softmax(dim=-1), values)

    own = [rearrange(t, "b n (h d) -> b h n d", h=4) for t in pair]
    assert (answer - (naive(k, v) + weight * naive(*own))).abs().max() < 1e-5
    other = Site("output", 0, 0, "cross")
    plain = PLAIN.attend(q, k, v, other)
    assert torch.equal(looking(PLAIN, {SITE: pair}, weight).attend(q, k, v, other), plain)


def test_two_pictures_are_the_sum_of_what_each_adds() -> None:
    q, k, v = (drawn(1, 2, 6, 8, seed=n) for n in range(3))
    pairs = [(drawn(1, 4, 16, seed=n), drawn(1, 4, 16, seed=n + 9)) for n in (3, 4)]
    plain = PLAIN.attend(q, k, v, SITE)
    alone = [looking(PLAIN, {SITE: p}, 0.7).attend(q, k, v, SITE) - plain for p in pairs]
    both = PLAIN
    for pair in pairs:
        both = looking(both, {SITE: pair}, 0.7)
    torch.testing.assert_close(both.attend(q, k, v, SITE), plain + alone[0] + alone[1])


@pytest.mark.parametrize("config", [PLAIN_PROJECTION, PERCEIVER], ids=["base", "plus"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_unet_with_a_picture_says_what_diffusers_says(
    name: str, config: ProjectionConfig
) -> None:
    unet = seeded(UNet(TINY_UNETS[name]), 0)
    assert isinstance(unet, UNet)
    own = adapter(config, unet)
    theirs = diffusers_unet(unet.config)
    theirs.load_state_dict(diffusers_unet_keys(unet.state_dict(), unet.config))
    theirs._load_ip_adapter_weights([as_stored(own)])
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.8]
    seen = drawn(2, 20, seed=5) if not config.inner else drawn(2, 9, 20, seed=5)
    x, timestep = drawn(2, 4, 16, 16, seed=6), torch.tensor([981.0, 21.0])
    context = drawn(2, 7, unet.config.context, seed=7)
    added: dict[str, object] = {"image_embeds": [seen[:, None]]}
    vector = None
    if unet.config.vector is not None:
        pooled, numbers = drawn(2, 16, seed=8), torch.tensor([[64.0, 48.0, 0.0, 8.0]]).repeat(2, 1)
        embedded = theirs.add_time_proj(numbers.flatten()).reshape(2, -1)
        vector = torch.cat((pooled, embedded), dim=-1)
        added |= {"text_embeds": pooled, "time_ids": numbers}
    expected = theirs(x, timestep, context, added_cond_kwargs=added).sample
    order = [site for site, _ in sites(unet)]
    pairs = own.keys_and_values(own.image_proj(seen), order)
    answer = unet(x, timestep, context, vector, looking(PLAIN, pairs, 0.8))
    assert relative(answer, expected) < 1e-5
    assert relative(unet(x, timestep, context, vector), expected) > 1e-3


def as_stored(own: IPAdapter) -> dict[str, dict[str, Tensor]]:
    """The two tables of a published file."""
    state = own.state_dict()
    return {
        part: {n.removeprefix(part + "."): t for n, t in state.items() if n.startswith(part + ".")}
        for part in ("image_proj", "ip_adapter")
    }
