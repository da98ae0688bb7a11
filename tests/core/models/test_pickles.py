"""torch's own files: read as what they are, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

from core.errors import FileError
from core.events import ImageDone
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.files import read_tensors
from core.models.pickles import read_pickle_header
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import Settings
from tests.tiny import checkpoint_tensors, write_checkpoint


def test_numbers_come_back_from_their_places(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": base,
        "part": base[1:3],
        "half": base.half(),
        "count": torch.tensor(7),
        "nothing": torch.empty(0),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": tensors, "epoch": 3, "lr": [0.1]}, path)
    header = read_pickle_header(path)
    assert set(header.tensors) == set(tensors)
    for name, tensor in read_tensors(header, {name: name for name in tensors}):
        assert torch.equal(tensor, tensors[name].detach())
        assert tensor.dtype == tensors[name].dtype


def test_the_class_that_real_sd1_files_carry_is_met_by_a_stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    stranger = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = stranger  # type: ignore[attr-defined]
    names = ("pytorch_lightning", "pytorch_lightning.callbacks")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": {stranger: {"best": 1}}}, path)
    for name in (*names, module.__name__):
        monkeypatch.delitem(sys.modules, name)
    assert list(read_pickle_header(path).tensors) == ["a"]


class Attack:
    """What hostile files do: a call that runs when the file is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_code_in_a_file_is_not_run_and_the_file_is_named(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "hostile.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "payload": Attack(mark)}, path)
    with pytest.raises(FileError, match=r"hostile\.ckpt asks for code to be run"):
        read_pickle_header(path)
    assert not mark.exists()


def test_damaged_and_foreign_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.ones(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="cut off or damaged"):
        read_pickle_header(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "words " * 100)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(FileError, match="compressed archive"):
        read_pickle_header(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(FileError, match="no weights"):
        read_pickle_header(path)
    torch.save({"a": torch.ones(2, 3).t()}, path)
    with pytest.raises(FileError, match="transposed"):
        read_pickle_header(path)


def test_a_checkpoint_paints_the_same_from_either_kind_of_file(settings: Settings) -> None:
    folder = settings.models_dir / "Stable-diffusion"
    # SD 1.x's own numbers of groups and heads: a .ckpt carries no card
    from tests.core.models.test_layouts import plain_tensors, write_plain

    write_plain(folder / "safe.safetensors", plain_tensors())
    torch.save({"state_dict": plain_tensors(), "global_step": 1}, folder / "old.ckpt")
    catalog = Catalog(settings)
    house = House(built_in(), catalog, Store(settings, catalog))
    painted = []
    for name in ("safe", "old"):
        asked = GenerationRequest(
            prompt="an apple", checkpoint=name, seed=7, steps=2, width=64, height=32
        )
        (done,) = [e for e in generate(asked, house) if isinstance(e, ImageDone)]
        painted.append(done.image.tobytes())
    assert painted[0] == painted[1]


def test_a_legacy_torch_file_says_so(settings: Settings) -> None:
    folder = settings.models_dir / "Stable-diffusion"
    folder.mkdir(parents=True)
    with (folder / "legacy.ckpt").open("wb") as file:
        pickle.dump({"a": 1}, file, protocol=2)
    write_checkpoint(folder / "fine.safetensors", checkpoint_tensors("sd1"))
    catalog = Catalog(settings)
    assert "before version 1.6" in catalog.unreadable()["legacy"]
    assert catalog.checkpoints()[0].name == "fine"
