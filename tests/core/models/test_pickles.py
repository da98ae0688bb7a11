"""torch's own files: read as what they are, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
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


def test_a_bare_pickle_is_not_opened(settings: Settings) -> None:
    folder = settings.models_dir / "Stable-diffusion"
    folder.mkdir(parents=True)
    with (folder / "legacy.ckpt").open("wb") as file:
        pickle.dump({"a": 1}, file, protocol=2)
    write_checkpoint(folder / "fine.safetensors", checkpoint_tensors("sd1"))
    catalog = Catalog(settings)
    assert "a pickle, and none of torch's" in catalog.unreadable()["legacy"]
    assert catalog.checkpoints()[0].name == "fine"


# --- files of torch before 1.6 -------------------------------------------------------------------


def write_old(path: Path, contents: object) -> Path:
    torch.save(contents, path, _use_new_zipfile_serialization=False)
    return path


def test_a_file_of_old_torch_holds_the_same_numbers(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    weights = OrderedDict(
        a=base,
        b=base.flatten()[3:9],  # within the same storage
        c=torch.ones(5, dtype=torch.float16),
        d=torch.tensor(7),
        e=torch.nn.Parameter(torch.randn(2, 3, 1, 1)),
        f=torch.zeros(0),
        g=torch.randn(3).bfloat16(),
    )
    path = write_old(tmp_path / "old.pth", {"params_ema": weights, "iteration": 5})
    header = read_pickle_header(path)
    assert list(header.tensors) == list(weights)
    for name, tensor in read_tensors(header, {name: name for name in weights}):
        assert torch.equal(tensor, weights[name].detach())


def test_an_old_file_is_cut_off_anywhere_and_says_so(tmp_path: Path) -> None:
    whole = write_old(tmp_path / "old.pth", {"a": torch.randn(8, 8)}).read_bytes()
    for length in range(len(whole)):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            read_pickle_header(path)


class Thief:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo stolen",)


def test_an_old_file_runs_no_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_old(tmp_path / "bad.pth", {"a": torch.ones(1), "b": Thief()})
    with pytest.raises(FileError, match="asks for code to be run"):
        read_pickle_header(path)
    assert "stolen" not in capfd.readouterr().out


def test_an_old_file_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    content = write_old(tmp_path / "old.pth", {"a": torch.ones(4)}).read_bytes()
    (tmp_path / "lies.pth").write_bytes(
        content.replace(
            struct.pack("<q", 4) + b"\0\0\x80?", struct.pack("<q", 2**40) + b"\0\0\x80?"
        )
    )
    with pytest.raises(FileError, match="claims more numbers"):
        read_pickle_header(tmp_path / "lies.pth")
