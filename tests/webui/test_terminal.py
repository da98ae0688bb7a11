"""The queue, the people and the links from a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.request import GenerationRequest
from tests.webui.conftest import served
from tests.webui.fake_engine import FakeEngine
from webui import terminal

TOKEN = "a-token-that-nobody-knows"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(0.01)


@pytest.fixture(scope="module")
def port(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for url in served(engine, tmp_path_factory.mktemp("terminal"), TOKEN):
        yield url.rstrip("/").rpartition(":")[2]


@pytest.fixture
def say(port: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def said(*words: str, status: int = 0, token: str = TOKEN) -> str:
        assert terminal.main([*words, "--port", port, "--token", token]) == status
        out, err = capsys.readouterr()
        return out or err

    return said


def test_everybodys_queue_is_told_moved_paused_and_discarded(engine: FakeEngine, say: Any) -> None:
    assert say("queue") == "Nothing waits.\n"
    assert "All is paused" in say("queue", "pause")
    asked = [("one", "ada"), ("two", "ada"), ("three", "ben")]
    jobs = [engine.submit(GenerationRequest(prompt=prompt), owner) for prompt, owner in asked]
    told = json.loads(say("queue", "--json"))["jobs"]
    assert {job["id"] for job in told} == {job.id for job in jobs}
    assert [job["prompt"] for job in told if job["owner"] == "ada"] == ["one", "two"]
    say("queue", "up", jobs[1].id)
    told = json.loads(say("queue", "--json"))["jobs"]
    assert [job["prompt"] for job in told if job["owner"] == "ada"] == ["two", "one"]
    assert "can't go up" in say("queue", "up", jobs[1].id, status=1)
    assert "three" not in say("queue", "discard", jobs[2].id)
    assert jobs[2].state.is_over and "two" in say("queue")
    assert "Nothing waits." in say("queue", "discard")
    assert "paused" not in say("queue", "resume")
    assert "begin with 'nonesuch'" in say("queue", "discard", "nonesuch", status=1)
    assert "there are: up, down" in say("queue", "burn", status=1)


def test_links_are_made_listed_and_revoked(say: Any) -> None:
    assert say("links") == "There are no links.\n"
    made = say("links", "add", "Ada", "Lovelace", "--watch")
    assert "http://127.0.0.1:" in made and "?token=" in made and "█" in made
    assert "Ada Lovelace" in say("links") and "may watch" in say("links")
    assert "no link for 'Bob'" in say("links", "revoke", "Bob", status=1)
    assert say("links", "revoke", "Ada", "Lovelace") == "There are no links.\n"
    assert "Nobody else" in say("people")


def test_what_is_missing_is_said(say: Any, tmp_path: Path) -> None:
    assert "--token" in say("queue", token="wrong", status=1)
    assert terminal.main(["queue", "--port", "1"]) == 1
