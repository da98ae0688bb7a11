"""Many jobs and many clients: `python -m tests.benchmarks.load jobs|clients [count]`.

Prints memory, temporary files and waits. Never part of the test run.
"""

from __future__ import annotations

import socket
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from core.engine.job import JobState
from core.engine.local import LocalEngine
from core.registry import built_in
from core.request import GenerationRequest, Record
from core.settings import default_settings
from tests.tiny import write_sd1

TINY = GenerationRequest(prompt="an apple", checkpoint="tiny", seed=1, width=16, height=16, steps=1)


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 2**20


def files_below(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def many_jobs(
    folder: Path, count: int, checkpoints: tuple[str, ...] = ("tiny",), switches: int = 0
) -> list[tuple[int, float, int, int]]:
    """(jobs done, MB, files but pictures, threads) after each tenth of `count` tiny jobs.

    On the way another one of the `checkpoints` is loaded `switches` times.
    """
    settings = replace(default_settings(folder), trace_quota_mb=1)
    engine = LocalEngine(settings, built_in())
    marks = []
    for number in range(1, count + 1):
        record = Record.STEPS if number % 2 else Record.NOTHING
        checkpoint = checkpoints[(number - 1) * (switches + 1) // count % len(checkpoints)]
        request = replace(TINY, checkpoint=checkpoint, seed=number, record=record)
        job = engine.submit(request, f"owner {number % 7}", number % 10 == 0)
        job.wait()
        if job.state is not JobState.FINISHED:
            raise RuntimeError(f"job {number}: {job.error}")
        if number % max(1, count // 10) == 0:
            own = files_below(settings.data_dir) - files_below(settings.data_dir / "thumbs")
            marks.append((number, megabytes(), own, threading.active_count()))
            done, size, kept, threads = marks[-1]
            print(f"{done:5} jobs {size:7.1f} MB {kept:5} files {threads:3} threads", flush=True)
    engine.close()
    return marks


def many_clients(folder: Path, count: int) -> list[float]:
    """Seconds that each of `count` clients waited for its picture, all asking at once."""
    import httpx
    import uvicorn

    from webui.app import create_app
    from webui.gate import Rules

    settings = default_settings(folder)
    engine = LocalEngine(settings, built_in())
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(create_app(engine, settings, Rules(port=port)), log_level="warning")
    )
    threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    waits: list[float] = []
    looks: list[float] = []
    wrong: list[str] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            client.cookies.set(f"vitrine_session_{port}", f"{number:040d}")
            body: dict[str, Any] = {"prompt": "an apple", "width": 64, "height": 64, "steps": 2}
            began = time.monotonic()
            answer = client.post("/sdapi/v1/txt2img", json={**body, "seed": number})
            waits.append(time.monotonic() - began)
            if answer.status_code != 200 or len(answer.json()["images"]) != 1:
                wrong.append(answer.text[:200])

    def look(stop: threading.Event) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while not stop.wait(0.2):
                began = time.monotonic()
                client.get("/sdapi/v1/progress")
                looks.append(time.monotonic() - began)

    stop = threading.Event()
    threading.Thread(target=look, args=(stop,), daemon=True).start()
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    print(
        f"{count} clients in {time.monotonic() - began:.1f} s: first {min(waits):.2f} s, median "
        f"{statistics.median(waits):.2f} s, last {max(waits):.2f} s; a look meanwhile "
        f"{1000 * statistics.median(looks):.0f} ms, at most {1000 * max(looks):.0f} ms; "
        f"{megabytes():.0f} MB; {len(wrong)} wrong {wrong[:1]}"
    )
    server.should_exit = True
    engine.close()
    if wrong:
        raise RuntimeError(wrong[0])
    return waits


def main(words: list[str]) -> None:
    kind, count = words[0], int(words[1]) if len(words) > 1 else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sd1(folder / "models/Stable-diffusion/tiny.safetensors")
        if kind == "jobs":
            many_jobs(folder, count or 2000)
        else:
            many_clients(folder, count or 50)


if __name__ == "__main__":
    main(sys.argv[1:])
