"""The settings file: what it may say, and the sentence for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import FileError, RequestError
from core.settings import default_settings, read_settings


def test_without_a_file_everything_lies_below_one_folder(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == default_settings(tmp_path)
    assert default_settings(tmp_path).embeddings_dir == tmp_path / "embeddings"


def test_folders_are_relative_to_the_file_unless_they_are_whole(tmp_path: Path) -> None:
    text = 'loras_dir = "styles"\ncheckpoints_dir = "/mnt/big"\nextra_model_paths = "my.yaml"\n'
    (tmp_path / "vitrine.toml").write_text(text)
    settings = read_settings(tmp_path)
    assert settings.loras_dir == tmp_path / "styles"
    assert settings.checkpoints_dir == Path("/mnt/big")
    assert settings.extra_model_paths == tmp_path / "my.yaml"


def test_memory_and_precision_are_read(tmp_path: Path) -> None:
    text = 'memory = "lowvram"\nvae_precision = "float32"\ncheckpoints_in_ram = 2\n'
    text += 'compile = "blocks"\ncuda_graphs = "on"\n'
    (tmp_path / "vitrine.toml").write_text(text)
    settings = read_settings(tmp_path)
    assert settings.memory == "lowvram"
    assert settings.vae_precision == "float32"
    assert settings.checkpoints_in_ram == 2
    assert (settings.compile, settings.cuda_graphs) == ("blocks", "on")


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("checkpoints_in_memory = 0", RequestError, "whole number from 1"),
        ("checkpoints_in_memory = true", RequestError, "whole number from 1"),
        ("checkpoints_in_ram = -1", RequestError, "whole number from 0"),
        ('precision = "float8"', RequestError, "bfloat16"),
        ('memory = "none"', RequestError, "plenty, medvram, lowvram"),
        ('vae_tiles = "often"', RequestError, "automatic, always, never"),
        ('compile = "all"', RequestError, "off, blocks"),
        ('cuda_graphs = "yes"', RequestError, "off, on"),
        ("cuda_graphs = true", RequestError, "text in quotes"),
        ("models_dir = 3", RequestError, "text in quotes"),
        ("colour = 3", RequestError, "no setting named 'colour'"),
        ("= 3", FileError, "TOML"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    text: str, error: type[Exception], hint: str, tmp_path: Path
) -> None:
    (tmp_path / "vitrine.toml").write_text(text)
    with pytest.raises(error, match=hint):
        read_settings(tmp_path)
