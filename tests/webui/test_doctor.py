"""What the installed house says of a set-up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.engine.job import JobState
from core.engine.queue import Queue
from core.settings import Settings
from tests.core.engine.test_queue import row
from tests.tiny import write_sd1
from webui.__main__ import arguments, rules_of, settings_of
from webui.doctor import findings, settings_finding
from webui.flags import understood


def said(settings: Settings) -> tuple[bool, str]:
    found = list(findings(settings))
    return all(well for well, _ in found), "\n".join(sentence for _, sentence in found)


def test_a_sound_house_is_well(settings: Settings) -> None:
    write_sd1(settings.models_dir / "Stable-diffusion/tiny.safetensors")
    is_well, text = said(settings)
    assert is_well, text
    assert "2 checkpoint" in text and "begin with is tiny" in text


def test_what_is_wrong_is_named(settings: Settings) -> None:
    folder = settings.models_dir / "Stable-diffusion"
    folder.mkdir(parents=True)
    (folder / "page.safetensors").write_bytes(b"<!doctype html><html>" * 10)
    queue = Queue(settings.data_dir / "queue.sqlite3")
    queue.add(row("a"))
    queue.end("a", JobState.FAILED, "this job was begun 2 times and never ended")
    queue.close()
    is_well, text = said(replace(settings, checkpoint="nonesuch"))
    assert not is_well
    assert "page" in text and "HTML" in text
    assert "1 jobs took the program down" in text
    assert "nonesuch" in text


def test_a_damaged_queue_is_named(settings: Settings) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "queue.sqlite3").write_bytes(b"no database at all" * 100)
    is_well, text = said(settings)
    assert not is_well and "queue" in text and "move it away" in text


def test_unreadable_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "vitrine.toml").write_text("device =")
    _, (is_well, sentence) = settings_finding(tmp_path)
    assert not is_well and "TOML" in sentence


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--medvram", "memory", "medvram"),
        ("--lowvram", "memory", "lowvram"),
        ("--no-half", "precision", "float32"),
        ("--no-half-vae", "vae_precision", "float32"),
        ("--ckpt-dir /m/sd", "checkpoints_dir", Path("/m/sd")),
        ("--lora-dir=/m/lora", "loras_dir", Path("/m/lora")),
        ("--ckpt /m/sd/deliberate.safetensors", "checkpoint", "deliberate"),
        ("--device-id 1", "device", "cuda:1"),
    ],
)
def test_a1111s_flags_reach_the_settings(words: str, name: str, value: object) -> None:
    start = understood(words.split(), has_display=False)
    assert not start.notes
    assert getattr(settings_of(arguments(start.webui)), name) == value


def test_flags_of_the_gate_reach_its_rules() -> None:
    words = "--listen --api --cors-allow-origins https://a.example,http://b.example:8000/"
    start = understood(words.split(), has_display=False)
    rules = rules_of(arguments(start.webui))
    assert rules.has_sdapi and rules.token
    assert rules.origins == {"https://a.example", "http://b.example:8000"}
    assert not rules_of(arguments(["--listen"])).has_sdapi
    assert rules_of(arguments([])).has_sdapi
    with pytest.raises(SystemExit):
        arguments(["--cors-allow-origins", "*"])
