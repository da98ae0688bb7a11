"""What is told of measurements: the machine, a table, a file."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Row


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
        "| what | threads | ours | other | ratio (lowest to highest) | goal | reached |",
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
            f"{_shown(row.theirs, row.unit)} ({row.other})" if row.theirs else "",
            ratio,
            "" if row.goal is None else f"≤ {row.goal:g}{sign}",
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
