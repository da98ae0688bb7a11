"""Starting: the port, the names answered to, the one line that says where to look."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from webui.__main__ import arguments, greeting, listening, rules_of, settings_of
from webui.gate import LOOPBACK, Rules

ROOT = Path(__file__).parents[2]


def test_alone_it_answers_to_this_machine_only_and_asks_for_no_token() -> None:
    rules = rules_of(arguments([]))
    assert rules.hosts == LOOPBACK and rules.token is None and rules.port == 7860


def test_listening_asks_for_a_token_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_TOKEN", raising=False)
    first, second = (rules_of(arguments(["--listen"])).token for _ in range(2))
    assert first and second and first != second and len(first) >= 20
    assert rules_of(arguments(["--listen", "--no-token"])).token is None
    assert socket.gethostname().lower() in rules_of(arguments(["--listen"])).hosts
    monkeypatch.setenv("VITRINE_TOKEN", "of-my-own-choosing")
    assert rules_of(arguments(["--listen"])).token == "of-my-own-choosing"


def test_more_names_can_be_allowed() -> None:
    given = arguments(["--allow-host", "Studio.example", "--allow-host", "[fe80::1]"])
    assert {"studio.example", "fe80::1"} <= rules_of(given).hosts


def test_folders_and_device_come_from_the_start(tmp_path: Path) -> None:
    given = arguments(["--data-dir", str(tmp_path), "--device", "cpu"])
    settings = settings_of(given)
    assert settings.data_dir == tmp_path.resolve() and settings.device == "cpu"


@pytest.mark.parametrize("text", ["0", "65536", "-1", "a", "1.5", ""])
def test_a_port_is_a_port(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments([f"--port={text}"])
    assert "1 to 65535" in capsys.readouterr().err


def test_a_taken_port_is_a_sentence_that_names_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            listening("127.0.0.1", port)
    sentence = str(caught.value)
    assert f"Port {port} is taken" in sentence and f"--port {port + 1}" in sentence


def test_the_greeting_is_one_line_at_home_and_a_code_beyond() -> None:
    assert greeting(Rules(port=7860), listen=False).split() == [
        "Vitrine", "is", "open:", "http://127.0.0.1:7860/",
    ]  # fmt: skip
    beyond = greeting(Rules(port=7860, token="abc"), listen=True)
    assert "http://127.0.0.1:7860/?token=abc" in beyond


def test_the_page_is_up_and_its_door_is_locked(tmp_path: Path) -> None:
    """The whole thing as a person starts it, with a token, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "webui", "--listen", "--port", str(port)]
    words += ["--data-dir", str(tmp_path / "d"), "--outputs-dir", str(tmp_path / "o")]
    environment = {**os.environ, "VITRINE_TOKEN": "of-my-own-choosing"}
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        url = ""
        while not url:
            line = server.stdout.readline()
            assert line, "it ended before it was open"
            found = re.search(r"Vitrine is open: (\S+)", line)
            url = found[1] if found else ""
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        assert refused.value.code == 401
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = opener.open(url).read().decode()
        assert "<title>Vitrine</title>" in page or '"title":"Vitrine"' in page
    finally:
        began = time.monotonic()
        server.terminate()
        server.wait(timeout=20)
        assert time.monotonic() - began < 10
