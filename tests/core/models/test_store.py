"""What is kept in memory, and that nothing more is."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from core.engine.answers import exhausted
from core.errors import RequestError
from core.models.catalog import Catalog
from core.models.graphs import Graphs
from core.models.placing import PlacedUNet
from core.models.store import Store, chosen_device
from core.settings import Settings, default_settings
from tests.tiny import checkpoint_tensors, write_checkpoint


@pytest.fixture
def two(tmp_path: Path) -> Settings:
    for name in ("one", "other"):
        path = tmp_path / f"models/Stable-diffusion/{name}.safetensors"
        write_checkpoint(path, checkpoint_tensors("sd1"))
    return default_settings(tmp_path)


def test_switching_twenty_times_leaves_memory_flat(two: Settings) -> None:
    store = Store(two, Catalog(two))
    process = psutil.Process()

    def switch(times: int) -> int:
        for _ in range(times):
            for name in ("one", "other"):
                store.preview(exhausted(store.loaded(name)))
        gc.collect()
        return process.memory_info().rss

    before = switch(3)
    weights = (two.models_dir / "Stable-diffusion/one.safetensors").stat().st_size
    assert switch(10) - before < weights


def test_as_many_are_kept_as_the_settings_say(two: Settings) -> None:
    one = Store(two, Catalog(two))
    first = exhausted(one.loaded("one"))
    assert exhausted(one.loaded("one")) is first
    exhausted(one.loaded("other"))
    assert exhausted(one.loaded("one")) is not first
    roomy = Store(replace(two, checkpoints_in_memory=2), Catalog(two))
    first = exhausted(roomy.loaded("one"))
    exhausted(roomy.loaded("other"))
    assert exhausted(roomy.loaded("one")) is first


def test_what_is_for_graphics_cards_is_done_there_and_said_elsewhere(two: Settings) -> None:
    settings = replace(two, compile="blocks", cuda_graphs="on")
    store = Store(settings, Catalog(settings))
    model = exhausted(store.loaded("one"))
    assert isinstance(model.network, PlacedUNet)
    assert model.graphs is None and model.network._compiled is None
    assert [remark.partition(" ")[0] for remark in model.remarks] == ["compile", "cuda_graphs"]
    store.device = torch.device("cuda")  # its name alone: nothing is computed
    hastened = store._hastened(model)
    assert isinstance(hastened.graphs, Graphs) and model.network._compiled is not None
    store = Store(two, Catalog(two))
    assert not exhausted(store.loaded("one")).remarks


def test_a_file_that_changed_is_read_again(two: Settings) -> None:
    store = Store(two, Catalog(two))
    first = exhausted(store.loaded("one"))
    tensors = checkpoint_tensors("sd1")
    tensors["model.diffusion_model.out.2.bias"] += 1
    write_checkpoint(two.models_dir / "Stable-diffusion/one.safetensors", tensors)
    again = exhausted(store.loaded("one"))
    assert again is not first
    assert again.version != first.version


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(RequestError, match="nonesuch"):
        chosen_device("nonesuch")
