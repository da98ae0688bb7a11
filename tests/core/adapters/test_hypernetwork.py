"""Hypernetworks against torch's own layers in the order in which A1111 stacks them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.adapters.hypernetwork import (
    ACTIVATIONS,
    Hypernetwork,
    check_fits,
    hypernetwork,
    hypernetwork_sources,
)
from core.errors import AdapterError, FileError
from core.models.adapters import read_hypernetwork
from core.nn.attention import Site
from core.nn.unet import UNet
from tests.core.adapters.models import full_size
from tests.core.models.test_manifests import manifest
from tests.tiny import tiny_unet

SITE = Site("middle", 0, 0, "cross")
TORCHS = {
    "linear": nn.Identity, "identity": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6,
    "leakyrelu": nn.LeakyReLU, "rrelu": nn.RReLU, "elu": nn.ELU, "celu": nn.CELU, "selu": nn.SELU,
    "gelu": nn.GELU, "silu": nn.SiLU, "swish": nn.Hardswish, "hardswish": nn.Hardswish,
    "mish": nn.Mish, "tanh": nn.Tanh, "tanhshrink": nn.Tanhshrink, "hardtanh": nn.Hardtanh,
    "sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid, "logsigmoid": nn.LogSigmoid,
    "softplus": nn.Softplus, "softshrink": nn.Softshrink, "hardshrink": nn.Hardshrink,
    "softsign": nn.Softsign, "prelu": nn.PReLU,
}  # fmt: skip


def stacked(
    width: int,
    structure: tuple[float, ...] = (1, 2, 1),
    activation: str = "linear",
    norm: bool = False,
    activate_output: bool = False,
    dropout: tuple[float, ...] | None = None,
) -> nn.Sequential:
    """Matrix, activation, norm, dropout, for each step of the structure; nothing that is not
    asked for takes a number."""
    layers: list[nn.Module] = []
    for i, (one, next_one) in enumerate(pairwise(structure)):
        layers.append(nn.Linear(int(width * one), int(width * next_one)))
        is_last = i == len(structure) - 2
        if activation != "linear" and (not is_last or activate_output):
            layers.append(TORCHS[activation]())
        if norm:
            layers.append(nn.LayerNorm(int(width * next_one)))
        if dropout is not None and dropout[i + 1] > 0:
            layers.append(nn.Dropout(dropout[i + 1]))
    made = nn.Sequential(*layers).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    return made.requires_grad_(False)


def state(made: nn.Sequential) -> dict[str, Tensor]:
    return {f"linear.{name}": tensor for name, tensor in made.state_dict().items()}


def contents(pairs: dict[int, tuple[nn.Sequential, nn.Sequential]], **told: Any) -> dict[Any, Any]:
    networks = {width: (state(keys), state(values)) for width, (keys, values) in pairs.items()}
    return {**networks, "name": "test", "step": 100, **told}


def sources(net: Hypernetwork, x: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    return hypernetwork_sources([net], [weight], x.device, x.dtype).sources(x, SITE)


@pytest.mark.parametrize("activation", TORCHS)
@pytest.mark.parametrize("activate_output", [False, True])
@pytest.mark.parametrize(
    ("structure", "norm", "dropout"),
    [
        ((1, 2, 1), False, None),
        ((1, 2, 1), True, None),
        ((1, 1.5, 1.5, 1), True, (0, 0.3, 0.3, 0)),
        ((1, 1, 1, 1, 1), False, (0, 0, 0.1, 0, 0)),
    ],
)
def test_every_structure_is_stacked_as_there(
    activation: str, activate_output: bool, structure: tuple, norm: bool, dropout: tuple | None
) -> None:
    torch.manual_seed(0)
    pair = tuple(
        stacked(16, structure, activation, norm, activate_output, dropout) for _ in range(2)
    )
    told = {
        "layer_structure": list(structure),
        "activation_func": activation,
        "is_layer_norm": norm,
        "activate_output": activate_output,
        "use_dropout": dropout is not None,
        "dropout_structure": dropout,
    }
    net = hypernetwork("test", contents({16: pair}, **told))
    x = torch.randn(2, 5, 16)
    keys, values = sources(net, x, 0.7)
    assert torch.allclose(keys, x + 0.7 * pair[0](x), atol=1e-5)
    assert torch.allclose(values, x + 0.7 * pair[1](x), atol=1e-5)


def test_the_table_of_activations_is_whole() -> None:
    assert set(TORCHS) == {*ACTIVATIONS, "prelu"}


def test_the_first_files_have_old_names_and_tell_nothing() -> None:
    torch.manual_seed(0)
    pair = stacked(16), stacked(16)
    old = {
        16: tuple(
            {
                name.replace("linear.0", "linear1").replace("linear.1", "linear2"): tensor
                for name, tensor in state(one).items()
            }
            for one in pair
        )
    }
    x = torch.randn(1, 3, 16)
    keys, _ = sources(hypernetwork("old", old), x)
    assert torch.allclose(keys, x + pair[0](x), atol=1e-5)


def test_several_come_one_after_the_other_and_other_widths_are_left_alone() -> None:
    torch.manual_seed(0)
    one, two = (stacked(16), stacked(16)), (stacked(16), stacked(16))
    nets = [hypernetwork("test", contents({16: pair})) for pair in (one, two)]
    attending = hypernetwork_sources(nets, [0.5, 2.0], torch.device("cpu"), torch.float32)
    x, other = torch.randn(1, 3, 16), torch.randn(1, 3, 8)
    first = x + 0.5 * one[0](x)
    assert torch.allclose(attending.sources(x, SITE)[0], first + 2 * two[0](first), atol=1e-5)
    assert attending.sources(other, SITE)[0] is other


def test_weight_0_changes_no_bit_of_the_networks_answer() -> None:
    torch.manual_seed(0)
    unet = tiny_unet()
    pair = stacked(32), stacked(32)
    net = hypernetwork("test", contents({32: pair, 64: (stacked(64), stacked(64))}))
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 7, 32)
    plain = unet(x, t, context)
    for dtype in (torch.float32, torch.bfloat16):
        typed = unet.to(dtype)
        zero = hypernetwork_sources([net], [0.0], torch.device("cpu"), dtype)
        whole = hypernetwork_sources([net], [0.3], torch.device("cpu"), dtype)
        typed_x, typed_context = x.to(dtype), context.to(dtype)
        plain = typed(typed_x, t, typed_context)
        assert torch.equal(typed(typed_x, t, typed_context, attending=zero), plain)
        assert not torch.allclose(typed(typed_x, t, typed_context, attending=whole), plain)


def test_a_file_is_read_as_a1111_writes_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pair = stacked(16, activation="relu", norm=True), stacked(16, activation="relu", norm=True)
    told = {
        "layer_structure": [1, 2, 1],
        "activation_func": "relu",
        "is_layer_norm": True,
        "weight_initialization": "Normal",
        "use_dropout": False,
        "sd_checkpoint": "0123456789",
        "sd_checkpoint_name": "v1-5",
        "activate_output": False,
        "last_layer_dropout": False,
        "dropout_structure": [0.0, 0.0, 0.0],
        "optional_info": None,
    }
    path = tmp_path / "style.pt"
    torch.save(contents({16: pair}, **told), path)
    net = read_hypernetwork(path)
    assert net.name == "style"
    assert net.details == {
        "step": "100",
        "sd_checkpoint_name": "v1-5",
        "sd_checkpoint": "0123456789",
    }
    x = torch.randn(1, 3, 16)
    assert torch.allclose(sources(net, x)[1], x + pair[1](x), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hypernetwork", {"activation_func": "linear", "activate_output": False}),
        ("hypernetwork-relu-norm", {"activation_func": "relu", "activate_output": False}),
    ],
)
def test_real_files_fit_sd1_and_no_other(name: str, told: dict[str, Any]) -> None:
    networks: dict[Any, Any] = dict(told)
    for key, (shape, _) in manifest(name).items():
        width, index, rest = key.split(".", 2)
        pair = networks.setdefault(int(width), ({}, {}))
        pair[int(index)][rest] = torch.zeros(()).expand(shape)
    net = hypernetwork(name, networks)
    assert set(net.networks) == {320, 640, 768, 1280}
    for base in ("sd15", "sd21-base", "sdxl-base"):
        unet = full_size(base)["unet"]
        assert isinstance(unet, UNet)
        if base == "sd15":
            check_fits(net, unet)
        else:
            with pytest.raises(AdapterError, match=r"is for SD 1\.x, and this model is SD"):
                check_fits(net, unet)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"activation_func": "softmax"}, "has the activation 'softmax'; known are: celu"),
        ({16: ({"linear.0.weight": torch.ones(16, 16)},)}, "there must be two networks"),
        ({16: ({}, {})}, "has 0 layers"),
        ({16: ({"linear.0.weight": torch.ones(16, 8)},) * 2}, "do not fit together"),
        ({16: ({"linear.0.weight": torch.ones(8, 16)},) * 2}, "makes 8 numbers of 16"),
        ({16: ({"linear.0.weight": torch.full((16, 16), torch.nan)},) * 2}, "NaN or infinity"),
        ({16: ({"surprise": torch.ones(1)},) * 2}, "'surprise', which no hypernetwork has"),
        ({16: ({"linear.0.bias": torch.ones(16)},) * 2}, "has 0 layers"),
    ],
)
def test_damaged_ones_are_named(change: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(AdapterError, match=f"test.*{sentence}"):
        hypernetwork("test", {**contents({16: (stacked(16), stacked(16))}), **change})


def test_other_files_are_no_hypernetwork(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}}, tmp_path / "ti.pt")
    with pytest.raises(FileError, match=r"ti\.pt is an embedding, not a hypernetwork"):
        read_hypernetwork(tmp_path / "ti.pt")
    torch.save({"step": 3}, tmp_path / "nothing.pt")
    with pytest.raises(AdapterError, match="is no hypernetwork"):
        read_hypernetwork(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(FileError, match=r"text\.pt"):
        read_hypernetwork(tmp_path / "text.pt")
