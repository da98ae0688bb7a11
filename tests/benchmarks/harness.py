"""How all benchmarks measure: by turns, in fresh processes, medians and their ratios.

Two candidates take turns (A B A B …), so that a busy machine slows both alike; the first round is
for warming up and does not count. One thread is judged by its processor seconds, which others'
work hardly changes, two by the wall clock.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS, THEIRS = "ours", "diffusers"


@dataclass(frozen=True)
class Asked:
    """What every case is told."""

    folder: Path
    """Where large files are kept between runs."""
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 5
    short: bool = False
    """A few minutes at most: what needs a file of 2 GB is left out."""
    checkpoint: Path | None = None
    """A checkpoint of the user's own, measured beside the one that ships."""
    device: str = "cuda"
    """Of the case `gpu`."""
    tiny: bool = False
    """Whether that case runs with small networks, to see whether it runs."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured of ours, and of the other by turns."""

    what: str
    ours: Sequence[float]
    """One number a round."""
    theirs: Sequence[float] = ()
    unit: str = "s"
    threads: int | None = None
    most: float | None = None
    """The goal: of the ratio, or of ours where there is no other."""
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further figures, for the JSON."""

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if not self.theirs:
            return None
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and highest ratio of two that took turns."""
        if not self.theirs:
            return None
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        return min(ratios), max(ratios)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        if self.most is None:
            return None
        reached = self.ratio if self.theirs else statistics.median(self.ours)
        return reached is not None and reached <= self.most

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "spread": self.spread, "is_met": self.is_met}


@dataclass(frozen=True)
class Spent:
    """What one piece of work took, in seconds."""

    cpu: float
    wall: float


def spent(work: Callable[[], object]) -> Spent:
    """Of this process, all its threads."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def alternated(
    works: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[Spent]]:
    """Every work in its turn, `rounds` times, after `warm` rounds that do not count."""
    taken: dict[str, list[Spent]] = {name: [] for name in works}
    for number in range(warm + rounds):
        for name, work in works.items():
            one = spent(work)
            if number >= warm:
                taken[name].append(one)
    return taken


def seconds(times: Sequence[Mapping[str, float]] | Sequence[Spent], threads: int) -> list[float]:
    """What a row shows: of one thread the processor's seconds, of several the clock's."""
    which = "cpu" if threads == 1 else "wall"
    return [t[which] if isinstance(t, Mapping) else getattr(t, which) for t in times]


# --- memory --------------------------------------------------------------------------------------


def forget_peak() -> None:
    """From here on VmHWM counts anew, where the kernel allows that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def memory() -> tuple[float, float]:
    """(resident, peak since `forget_peak`) of this process, in GB of 10⁹ bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import psutil

        resident = psutil.Process().memory_info().rss / 1e9
        return resident, resident
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return int(found["VmRSS"]) * 1024 / 1e9, int(found["VmHWM"]) * 1024 / 1e9


# --- fresh processes -----------------------------------------------------------------------------


def in_child(function: str, threads: int = 1, **given: Any) -> Any:
    """What `function` ("module:name" of this folder) answers in a process of its own, as JSON.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    quiet = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.harness", function, json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, **limits, **quiet},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{function} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def children_alternated(
    functions: Mapping[str, str], rounds: int, threads: int = 1, warm: int = 1, **given: Any
) -> dict[str, list[Any]]:
    """As `alternated`, each time in a fresh process."""
    answers: dict[str, list[Any]] = {name: [] for name in functions}
    for number in range(warm + rounds):
        for name, function in functions.items():
            answer = in_child(function, threads, **given)
            if number >= warm:
                answers[name].append(answer)
    return answers


def main(function: str, given: str) -> None:
    module, _, name = function.partition(":")
    answer = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)(
        **json.loads(given)
    )
    print(json.dumps(answer))


# --- what is told --------------------------------------------------------------------------------


def has_diffusers() -> bool:
    return importlib.util.find_spec("diffusers") is not None


def machine() -> dict[str, Any]:
    """What the figures are of."""
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    from core.nn import kernels

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    for package in ("torch", "transformers", "gradio", "diffusers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["kernels"] = kernels.chosen()
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.+)", text)
    flags = re.search(r"flags\s*: (.+)", text)
    has = set(flags[1].split()) if flags else set()
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in has]
    return f"{name[1] if name else platform.machine()} ({', '.join(wide)})"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| what | threads | ours | diffusers | ratio (lowest to highest) | goal | reached |",
        "|-|-|-|-|-|-|-|",
    ]
    for row in rows:
        sign = "×" if row.theirs else f" {row.unit}"
        ratio = ""
        if row.ratio is not None and row.spread is not None:
            ratio = f"{row.ratio:.2f}× ({row.spread[0]:.2f} to {row.spread[1]:.2f})"
        cells = [
            row.what + (f"; {row.note}" if row.note else ""),
            str(row.threads or ""),
            _shown(row.ours, row.unit),
            _shown(row.theirs, row.unit),
            ratio,
            "" if row.most is None else f"≤ {row.most:g}{sign}",
            {True: "yes", False: "no", None: ""}[row.is_met],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(values: Sequence[float], unit: str) -> str:
    return f"{statistics.median(values):.3g} {unit}" if values else ""


def write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": machine(), "rows": [row.to_json() for row in rows]}
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
