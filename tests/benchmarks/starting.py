"""From a command to something that answers: imports, and the page from a warm `launch.py`.

The start is looked at from outside: when the page answers, and when the engine has torch and is
ready. Its parts are timed in a process of their own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks.harness import (
    OURS,
    ROOT,
    THEIRS,
    Asked,
    Program,
    Row,
    children_alternated,
    in_child,
    programs,
    seconds,
)

PATIENCE = 120.0


def rows(asked: Asked) -> Iterator[Row]:
    chosen = programs(asked, "starting:our_imports", "starting:their_imports")
    chosen["text"] = Program("starting:our_imports_with_text")
    taken = children_alternated(chosen, asked.rounds)
    theirs = seconds(taken.get(THEIRS, ()), 1)
    what = "import, until a file can be loaded"
    yield Row(what, seconds(taken[OURS], 1), theirs, "CPU s", 1, 0.5, is_ratio=True)
    yield Row(f"{what}; with transformers' CLIP", seconds(taken["text"], 1), theirs, "CPU s", 1)
    starts = [started() for _ in range(asked.rounds + 1)][1:]
    ahead = sum(start["page"] <= start["torch"] for start in starts)
    for name, what, goal in (
        ("page", "warm launch.py until the page answers", 5.0),
        ("page_cpu", "the same, processor seconds of the server", None),
        ("torch", "warm launch.py until the engine has torch", None),
    ):
        note = f"after the page in {ahead} of {len(starts)}" if name == "torch" else ""
        yield Row(what, [start[name] for start in starts], most=goal, note=note)
    with tempfile.TemporaryDirectory() as folder:
        apart = [in_child("starting:parts", folder=folder) for _ in range(asked.rounds)]
    for name in apart[0]:
        yield Row(f"of that: {name}", seconds([one[name] for one in apart], 1), unit="CPU s")


def our_imports() -> dict[str, float]:
    """In a child: seconds until a store stands that can load a file."""
    began = time.process_time(), time.perf_counter()
    from core.generate import generate
    from core.models.catalog import Catalog
    from core.models.store import Store
    from core.settings import default_settings

    with tempfile.TemporaryDirectory() as folder:
        settings = default_settings(Path(folder))
        Store(settings, Catalog(settings))
    assert callable(generate)
    return _since(*began)


def our_imports_with_text() -> dict[str, float]:
    """In a child: the same, and the code of the text encoder, which is imported while loading."""
    began = time.process_time(), time.perf_counter()
    our_imports()
    from transformers import CLIPTextConfig, CLIPTextModel

    assert CLIPTextConfig and CLIPTextModel
    return _since(*began)


def their_imports() -> dict[str, float]:
    """In a child: diffusers' pipeline, the class that loads a file."""
    began = time.process_time(), time.perf_counter()
    from diffusers import StableDiffusionPipeline

    assert StableDiffusionPipeline.from_single_file
    return _since(*began)


def _since(cpu: float, wall: float) -> dict[str, float]:
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


# --- the page ------------------------------------------------------------------------------------


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """(process, address, when it was started) of a page begun by `launch.py`, ended afterwards.

    It has folders of its own; nothing is installed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = [f"--{name}-dir={folder / name}" for name in ("models", "outputs", "data")]
    command = [sys.executable, str(ROOT / "launch.py"), "--skip-install", "--no-browser"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", str(port), *folders],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, f"http://127.0.0.1:{port}", began
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def started() -> dict[str, float]:
    """Seconds from the command to the page, and to torch; the server's own until the page."""
    import psutil

    with (
        tempfile.TemporaryDirectory() as folder,
        launched(Path(folder)) as (process, address, began),
    ):
        answers(address + "/", began)
        page = time.perf_counter() - began
        times = psutil.Process(process.pid).cpu_times()
        while not json.loads(answers(address + "/api/session", began))["engine"]["ready"]:
            time.sleep(0.02)
        torch = time.perf_counter() - began
    return {"page": page, "page_cpu": times.user + times.system, "torch": torch}


def answers(address: str, began: float) -> bytes:
    """What the server says, as soon as it says anything.

    Raises:
        TimeoutError: it says nothing for too long.
    """
    while time.perf_counter() - began < PATIENCE:
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise TimeoutError(f"{address} says nothing")


def parts(folder: str) -> dict[str, dict[str, float]]:
    """In a child: what the page is made of before it answers, one part after the other."""
    import importlib

    taken = {}

    def part(name: str, work: Callable[[], object]) -> None:
        began = time.process_time(), time.perf_counter()
        work()
        taken[name] = _since(*began)

    part("importing gradio", lambda: importlib.import_module("gradio"))
    part("importing our own code", lambda: importlib.import_module("webui.app"))
    part("building the page", lambda: _built(Path(folder)))
    return taken


def _built(folder: Path) -> None:
    from core.settings import default_settings
    from tests.webui.fake_engine import FakeEngine
    from webui.app import create_app
    from webui.gate import Rules

    create_app(FakeEngine(0.01), default_settings(folder), Rules(port=1))
