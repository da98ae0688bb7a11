"""Damaged and foreign files: each gets the sentence a person needs, and runs nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.errors import FileError
from core.models.catalog import Catalog
from core.models.family import read_card, unet_config, vae_config
from core.models.files import read_header, read_tensors
from core.models.sd1 import SD1, matches
from core.settings import Settings
from tests.tiny import CARD, UNET_CONFIG, VAE_CONFIG, sd1_tensors, write_sd1


def with_header(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_tensors_come_back_as_they_were_saved(tmp_path: Path) -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.int64)
    tensors = {str(d): torch.arange(6).reshape(2, 3).to(d) for d in dtypes}
    tensors |= {"nothing": torch.empty(0), "one": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    read = dict(read_tensors(header, {name: "new." + name for name in tensors}))
    for name, tensor in tensors.items():
        assert read["new." + name].dtype == tensor.dtype
        assert torch.equal(read["new." + name], tensor)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"abc", "too short"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"PK\x03\x04" + b"\0" * 20, "archive"),
        (struct.pack("<Q", 10**15) + b"{}", "header can't be"),
        (struct.pack("<Q", 500) + b"{}", "cut off inside its header"),
        (struct.pack("<Q", 4) + b"nope", "header can't be read"),
        (struct.pack("<Q", 2) + b"[]", "not a table"),
    ],
)
def test_foreign_files_are_named_for_what_they_are(
    content: bytes, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=hint) as caught:
        read_header(path)
    assert "odd.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, "same bytes"),
        ({"a": entry([2**40], 0, 2**42)}, "cut off after"),
        ({"a": entry([3], 0, 8)}, "do not agree"),
        ({"a": entry([-1], 0, 8)}, "do not agree"),
        ({"a": entry([2], 0, 8, "Q7")}, "unknown number format"),
        ({"a": 5}, "malformed"),
        ({"__metadata__": [1]}, "metadata"),
    ],
)
def test_inconsistent_headers_are_refused(header: Any, hint: str, tmp_path: Path) -> None:
    path = with_header(tmp_path / "bad.safetensors", header, b"\0" * 12)
    with pytest.raises(FileError, match=hint):
        read_header(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_ends_in_a_file_error_or_is_none(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "x.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        header = read_header(path)
        dict(read_tensors(header, {name: name for name in header.tensors}))
    except FileError as error:
        assert "x.safetensors" in str(error)


def test_numbers_are_read_off_the_shapes(tmp_path: Path) -> None:
    header = read_header(write_sd1(tmp_path / "tiny.safetensors"))
    card = read_card(header)
    assert matches(header)
    assert unet_config(header, SD1.heads, card) == UNET_CONFIG
    assert vae_config(header, card) == VAE_CONFIG
    assert card.size == CARD["size"]
    assert card.defaults == {"cfg_scale": 5.0, "steps": 6}


def test_the_catalog_names_what_is_there_and_what_is_not_usable(settings: Settings) -> None:
    folder = settings.models_dir / "Stable-diffusion"
    write_sd1(folder / "sub" / "tiny.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2)}, folder / "style.safetensors")
    (folder / "page.safetensors").write_text("<html>")
    catalog = Catalog(settings)
    assert next(c.name for c in catalog.checkpoints()) == "sub/tiny"
    assert catalog.default().name == "sub/tiny"
    assert set(catalog.unreadable()) == {"style", "page"}
    with pytest.raises(FileError, match="models/Lora"):
        catalog.checkpoint("style")


def test_new_files_are_found_without_a_restart(settings: Settings) -> None:
    catalog = Catalog(settings, shipped=settings.models_dir / "none.safetensors")
    with pytest.raises(FileError, match="Stable-diffusion"):
        catalog.default()
    path = write_sd1(settings.models_dir / "checkpoints" / "late.safetensors")
    assert catalog.default().path == path


def test_a_card_that_is_no_json_is_named(tmp_path: Path) -> None:
    save_file(sd1_tensors(), tmp_path / "x.safetensors", metadata={"vitrine.config": "{"})
    with pytest.raises(FileError, match=r"vitrine\.config"):
        read_card(read_header(tmp_path / "x.safetensors"))
