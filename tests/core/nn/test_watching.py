"""Watching attention: true to what it sees, without a trace in the output, in little memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from core.nn.attention import PLAIN, Attending, Site
from core.nn.watching import FINEST, PIECE, Group, Watching, blocks_watched, shares
from tests.tiny import tiny_unet

TOKENS = 7


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def watched_pass(rows: int, columns: int, attending: Attending = PLAIN) -> tuple[Watching, Tensor]:
    """A forward pass of a tiny network over two rows of context."""
    unet, watching = tiny_unet(), Watching(rows, columns)
    x, context = drawn(2, 4, rows, columns), drawn(2, TOKENS, unet.config.context)
    with torch.no_grad():
        out = unet(x, torch.tensor([500.0, 500.0]), context, attending=watching.beside(attending))
    return watching, out


def test_watching_changes_no_bit() -> None:
    _, watched = watched_pass(16, 16)
    unet = tiny_unet()
    with torch.no_grad():
        plain = unet(
            drawn(2, 4, 16, 16), torch.tensor([500.0, 500.0]), drawn(2, TOKENS, unet.config.context)
        )
    assert torch.equal(watched, plain)


def test_blocks_are_watched_in_order_without_a_trace() -> None:
    unet = tiny_unet()
    given = drawn(2, 4, 16, 16), torch.tensor([500.0, 500.0]), drawn(2, TOKENS, unet.config.context)
    with torch.no_grad():
        plain = unet(*given)
        with blocks_watched(unet) as seen:
            watched = unet(*given)
        assert torch.equal(watched, plain) and torch.equal(unet(*given), plain)
    count = len(unet.input_blocks)
    expected = [("input", i) for i in range(count)] + [("middle", 0)]
    expected += [("output", i) for i in range(count)]
    assert [(block.part, block.index) for block in seen] == expected
    assert seen[0].shape == seen[-1].shape == (unet.config.channels, 16, 16)
    assert seen[count].shape[1:] == (2, 2)
    assert seen[0].map.shape == (16, 16)
    with torch.no_grad():
        first = unet.input_blocks[0][0](given[0])  # type: ignore[index]
    torch.testing.assert_close(seen[0].map, first[0].abs().mean(0))


def test_the_shares_are_the_softmax_written_out() -> None:
    q, k = drawn(2, 3, 50, 8), drawn(2, 3, TOKENS, 8)
    naive = functional.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5, dim=-1).mean(1)
    torch.testing.assert_close(shares(q, k), naive)


def test_in_a_network_the_maps_are_the_naive_softmax_of_its_own_tensors() -> None:
    seen: dict[tuple[str, int], list[Tensor]] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if site.kind == "cross":
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            seen.setdefault((site.part, q.shape[2]), []).append(scores.softmax(-1).mean(1))
        return PLAIN.attend(q, k, v, site)

    watching, _ = watched_pass(16, 8, Attending(attend=attend))
    maps = watching.maps()
    assert {(g.part, g.rows * g.columns) for g in maps} == set(seen)
    assert Group("input", 16, 8) in maps
    for group, found in maps.items():
        naive = torch.stack(seen[group.part, group.rows * group.columns]).mean(0)
        expected = naive.transpose(1, 2).reshape(found.shape)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (10, 6), (72, 40)])
def test_all_that_a_place_looks_at_is_one(rows: int, columns: int) -> None:
    """Also where sides are halved unevenly, and where maps are averaged down."""
    watching, _ = watched_pass(rows, columns)
    for seen in watching.maps().values():
        assert max(seen.shape[-2:]) <= FINEST
        torch.testing.assert_close(seen.sum(1), torch.ones_like(seen[:, 0]))


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that comes into being."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_memory_is_bounded_at_a_picture_of_1024() -> None:
    """SD 1.x there: 16,384 places, 8 heads, 77 tokens, two prompts; 20 million weights at once."""
    q, k = torch.zeros(2, 8, 16384, 4), torch.zeros(2, 8, 77, 4)
    with _Largest() as largest:
        shares(q, k)
    assert largest.numbers <= 2 * 16384 * 77  # the averaged result itself
    with _Largest() as piece:
        shares(q[:, :, :4096], k)
    assert piece.numbers <= max(PIECE, 2 * 4096 * 77)
