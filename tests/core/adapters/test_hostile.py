"""Damaged and hostile files of adapters: each gets its sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.adapters.lora import lora
from core.errors import AdapterError, FileError
from core.models.adapters import read_hypernetwork, read_lora
from tests.core.adapters import spelled
from tests.core.adapters.spelled import TEXT, UNET, WIDE, low_rank, whole
from tests.tiny import write_sd1

LAYER = spelled.kohya(UNET[0])


def good() -> spelled.Tensors:
    return whole([*UNET, *WIDE, *TEXT], spelled.kohya, low_rank)[0]


def saved(path: Path, tensors: spelled.Tensors) -> Path:
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, path)
    return path


@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt"])
def test_a_lora_is_read_as_it_was_written_from_either_container(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"style.{ending}"
    if ending == "safetensors":
        saved(path, good())
    else:
        torch.save(good() if ending == "pt" else {"state_dict": good()}, path)
    found = read_lora(path)
    assert found.name == "style"
    assert len(found.changes) == len([*UNET, *WIDE, *TEXT])
    change = found.changes[LAYER, "weight"]
    _, deltas = whole([*UNET, *WIDE, *TEXT], spelled.kohya, low_rank)
    delta = change.delta(torch.zeros(UNET[0].shape))
    assert torch.allclose(delta, deltas["unet", UNET[0].ours], atol=1e-6)


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_pickle_that_asks_for_code_is_not_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pt"
    torch.save({**good(), "x": RunsCode()}, path)
    for reader in (read_lora, read_hypernetwork):
        with pytest.raises(FileError, match=r"evil\.pt asks for code to be run"):
            reader(path)
    assert capsys.readouterr().out == ""


def test_a_file_cut_off_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "style.safetensors", good())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"cut off after"):
        read_lora(path)


def test_tensors_that_share_their_bytes_do_not_multiply_them(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    one = torch.zeros(1_000_000)
    torch.save({f"lora_unet_{i}.diff": one.reshape(1000, 1000) for i in range(50)}, path)
    with pytest.raises(FileError, match=r"claims more numbers than the file has"):
        read_lora(path)


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    header = {"lora_unet_x.diff": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    raw = json.dumps(header).encode()
    path = tmp_path / "liar.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 64)
    with pytest.raises(FileError, match=r"cut off"):
        read_lora(path)


def test_other_files_in_the_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"whole\.safetensors is a checkpoint, not a LoRA"):
        read_lora(write_sd1(tmp_path / "whole.safetensors"))
    path = saved(tmp_path / "vectors.safetensors", {"emb_params": torch.ones(2, 768)})
    with pytest.raises(FileError, match=r"is an embedding, not a LoRA: put it into embeddings"):
        read_lora(path)
    path = saved(tmp_path / "odd.safetensors", {"weird": torch.ones(2, 3, 4)})
    with pytest.raises(AdapterError, match=r"odd\.safetensors is no LoRA.*weird"):
        read_lora(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {".lora_up.weight": torch.full((32, 3), torch.nan)},
            "damaged: .*lora_up.weight holds NaN",
        ),
        ({".lora_up.weight": torch.full((32, 3), torch.inf)}, "holds NaN or infinity"),
        ({".alpha": torch.tensor(torch.nan)}, "alpha holds NaN"),
        ({".alpha": torch.ones(3)}, "its alpha is 3 numbers"),
        ({".lora_up.weight": None}, "it has alpha, down, and lacks up"),
        ({".lora_up.weight": torch.ones(32, 4)}, "do not fit together: 32 × 4, 3 × 32"),
        ({".lora_up.weight": torch.ones(32)}, "do not fit together: 32, 3 × 32"),
        ({".lora_up.weight": torch.ones(32, 3).int()}, "holds torch.int32 numbers"),
        ({".lora_down.weight": torch.ones(0, 32)}, "one of its factors is empty"),
        ({".lora_down.weight": torch.tensor(1.0)}, "one of its factors is empty"),
        ({".lora_mid.weight": torch.ones(3, 4, 3, 3)}, "do not fit together"),
        ({".dora_scale": torch.ones(7, 1)}, "neither one for each of 32 rows"),
        (
            {".lora_down.weight": torch.ones(9000, 32), ".lora_up.weight": torch.ones(32, 9000)},
            "its rank is 9,000; 8,192 is the limit",
        ),
    ],
)
def test_damaged_factors_are_named(change: dict[str, torch.Tensor | None], sentence: str) -> None:
    tensors = good()
    for ending, tensor in change.items():
        if tensor is None:
            del tensors[LAYER + ending]
        else:
            tensors[LAYER + ending] = tensor
    with pytest.raises(AdapterError, match=f"style.*{sentence}"):
        lora("style", tensors, {})


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"lokr_w1": torch.ones(2, 2)}, "one side of the Kronecker product is missing"),
        ({"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(3)}, "do not fit together"),
        ({"lokr_w1": torch.ones(2, 2, 3, 3), "lokr_w2": torch.ones(2, 2)}, "the left side"),
        (
            {
                "lokr_w1": torch.ones(2, 2),
                "lokr_w2_a": torch.ones(2, 3),
                "lokr_w2_b": torch.ones(4, 2),
            },
            "do not fit together: 2 × 3, 4 × 2",
        ),
        ({"hada_w1_a": torch.ones(2, 2)}, "lacks hada_w1_b, hada_w2_a, hada_w2_b"),
        (
            {
                "hada_w1_a": torch.ones(4, 2),
                "hada_w1_b": torch.ones(2, 4),
                "hada_w2_a": torch.ones(5, 2),
                "hada_w2_b": torch.ones(2, 4),
            },
            "do not fit together",
        ),
        ({"dora_scale": torch.ones(4, 1)}, "magnitudes and nothing that they belong to"),
    ],
)  # fmt: skip
def test_damaged_products_are_named(parts: dict[str, torch.Tensor], sentence: str) -> None:
    with pytest.raises(AdapterError, match=f"style: {LAYER}: .*{sentence}"):
        lora("style", {f"{LAYER}.{role}": tensor for role, tensor in parts.items()}, {})


def test_kinds_that_are_not_read_are_named() -> None:
    with pytest.raises(AdapterError, match="is an OFT, a kind that this version does not read"):
        lora("turned", {f"{LAYER}.oft_blocks": torch.ones(2, 4, 4)}, {})


@pytest.mark.parametrize("metadata", ["{", "[]", '{"unet.lora_alpha": 1e999}', "[" * 100_000])
def test_metadata_that_is_none_harms_nothing(metadata: str) -> None:
    if "1e999" in metadata:
        tensors = whole(UNET, spelled.diffusers, lambda g, s, a: low_rank(g, s, None, "peft"))[0]
        with pytest.raises(AdapterError, match="its alpha is inf"):
            lora("style", tensors, {"lora_adapter_metadata": metadata})
    else:
        assert lora("style", good(), {"lora_adapter_metadata": metadata}).changes
