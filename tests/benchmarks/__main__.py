"""`python -m tests.benchmarks [CASE …]`: measures, prints a table, writes JSON.

`python3 launch.py bench` is the same with --short: a few minutes at most. Without diffusers, which
only a set-up for tests has, our own figures stand alone.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.harness import ROOT, Asked, Row, has_diffusers
from tests.benchmarks.report import machine, table, write

CASES = {
    "starting": "imports, and the page from a warm start",
    "running": "click to picture, and what a run costs beside its networks",
    "networks": "a step and the VAE, against diffusers",
    "loading": "a file of 2 GB into memory",
    "lora": "264 layers changed and put back",
    "page": "the page's weight and first interaction, in Chromium",
    "gpu": "SDXL and SD 1.5 on a graphics card, eager, compiled and recorded, against diffusers",
}
ENVIRONMENTS = (".venv", "venv")
SHORT = ("starting", "running", "networks")


def main(words: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(words)
    cases = given.case or (SHORT if given.short else [*CASES])
    asked = Asked(
        folder=given.folder,
        threads=tuple(given.threads),
        rounds=given.rounds or (3 if given.short else 5),
        short=given.short,
        checkpoint=given.checkpoint,
        comfyui=given.comfyui,
        comfyui_python=python_of(given),
        device=given.device,
        tiny=given.tiny,
    )
    if "gpu" in cases and not _has_device(given.device):
        print("gpu: there is no CUDA device here, so nothing is measured on one.")
        cases = [case for case in cases if case != "gpu"]
        if not cases:
            return 1
    found = machine()
    print("\n".join(f"{name}: {value}" for name, value in found.items() if value is not None))
    if not has_diffusers():
        print("diffusers is not installed (launch.py test installs it): our own figures alone.")
    measured: list[Row] = []
    for case in cases:
        began = time.monotonic()
        print(f"\n{case}: {CASES[case]}", flush=True)
        for row in importlib.import_module(f"tests.benchmarks.{case}").rows(asked):
            measured.append(row)
            print(table([row]).splitlines()[-1], flush=True)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    print(f"\n{table(measured)}")
    write(measured, given.json)
    print(f"\nAll figures: {given.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py bench", description="How quick it is here.")
    add = parser.add_argument
    told = "; ".join(f"{name}: {what}" for name, what in CASES.items())
    add("case", nargs="*", choices=[[], *CASES], help=told)
    add("--short", action="store_true", help="a few minutes at most")
    add("--checkpoint", type=_file, help="a checkpoint of your own, measured as well")
    add("--comfyui", type=_checkout, help="a checkout of ComfyUI, measured as well")
    python = "the Python that has what it needs (its own venv, or this one)"
    add("--comfyui-python", type=_file, help=python)
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, help="how often each takes its turn; 5, with --short 3")
    add("--device", default="cuda", help="of the case gpu: cuda, cuda:1; cpu to try it out")
    add("--tiny", action="store_true", help="of the case gpu: small networks, to try it out")
    folder = ROOT / "data" / "benchmarks"
    add("--folder", type=Path, default=folder, help=f"where large files are kept ({folder})")
    add("--json", type=Path, default=folder / "results.json", help="where the figures go")
    return parser


def python_of(given: argparse.Namespace) -> str:
    """Of the checkout: the one named, else that of an environment inside it, else this one."""
    if given.comfyui_python is not None:
        return str(given.comfyui_python)
    inside = (
        [given.comfyui / name / "bin" / "python" for name in ENVIRONMENTS] if given.comfyui else []
    )
    return str(next((path for path in inside if path.is_file()), sys.executable))


def _checkout(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not (path / "comfy" / "sd.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of ComfyUI: it has no comfy/sd.py")
    return path


def _has_device(name: str) -> bool:
    from tests.benchmarks.gpu import is_there

    return is_there(name)


def _file(text: str) -> Path:
    path = Path(text).expanduser().absolute()  # a Python's own name is its environment's
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


if __name__ == "__main__":
    sys.exit(main())
