"""A real server with a tiny model, and A1111's reference client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from core.engine.local import LocalEngine
from core.registry import built_in
from core.settings import Settings, default_settings
from tests.core.test_controls import control_net, save
from tests.tiny import write_sd1
from webui import stream
from webui.gate import Gate, Rules
from webui.people import People
from webui.sdapi import routes


@dataclass
class Served:
    """What is running."""

    port: int
    engine: LocalEngine
    settings: Settings

    def client(self) -> httpx.Client:
        """One that keeps cookies, so it is a caller of its own."""
        client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        client.cookies.set(f"vitrine_session_{self.port}", "x" * 31 + str(time.monotonic_ns()))
        return client


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("api")
    write_sd1(folder / "models/Stable-diffusion/tiny.safetensors")
    write_sd1(folder / "models/Stable-diffusion/anime/other one.safetensors")
    save(
        folder / "models/ControlNet/guide.safetensors",
        {"control_model." + name: tensor for name, tensor in control_net().state_dict().items()},
    )
    (folder / "styles.csv").write_text('name,prompt,negative_prompt\noil,"{prompt}, oil",photo\n')
    settings = default_settings(folder)
    engine = LocalEngine(settings, built_in())
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    app = FastAPI()
    people = People(settings.data_dir / "people.sqlite3")
    app.include_router(routes(stream.Stage(engine), settings, people))
    app.add_middleware(Gate, rules=Rules(port=port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Served(port, engine, settings)
    server.should_exit = True
    thread.join(timeout=5)
    engine.close()


@pytest.fixture
def api(served: Served) -> Any:
    """mix1009/sdwebuiapi, which others are written after."""
    webuiapi = pytest.importorskip("webuiapi")
    return webuiapi.WebUIApi(port=served.port, steps=3, sampler="Euler a")
