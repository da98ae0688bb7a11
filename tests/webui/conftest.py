"""A browser for the page's tests, and servers for it to look at."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import expect

from core.settings import default_settings
from tests.webui.fake_engine import FakeEngine
from webui.app import create_app
from webui.gate import Rules

expect.set_options(timeout=20_000)  # of a busy machine; what is there is seen at once


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """The system's Chromium, told to ask for nothing but our page."""
    return {
        "executable_path": shutil.which("chromium") or shutil.which("google-chrome"),
        "args": [
            "--no-sandbox",
            "--disable-quic",
            "--disable-background-networking",
            "--no-first-run",
        ],
    }


def served(engine: Any, folder: Path, token: str | None = None) -> Iterator[str]:
    """The address of a server with this engine, until the iterator is closed."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    app = create_app(engine, default_settings(folder), Rules(port=port, token=token))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(timeout=5)
    engine.close()


@pytest.fixture(scope="session")
def fake_engine() -> FakeEngine:
    return FakeEngine(0.04)


@pytest.fixture(scope="session")
def fake_server(fake_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from served(fake_engine, tmp_path_factory.mktemp("fake"))
