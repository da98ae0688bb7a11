"""Packages that an extension asks for: checked, then installed beside what the house runs on.

Options and addresses among them are refused; only names and versions are taken.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from core.errors import ExtensionError
from core.extend.about import About

SECONDS = 900.0
PROTECTED = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "pillow",
    "gradio",
    "gradio-client",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "pydantic-core",
    "websockets",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "einops",
    "pluggy",
    "scipy",
    "torchsde",
    "psutil",
)
"""What the house runs on; these keep their versions."""


def asked_for(folder: Path, said: About) -> tuple[str, ...]:
    """What an extension asks for: in its extension.toml, else in a requirements.txt."""
    if said.requirements:
        return said.requirements
    path = folder / "requirements.txt"
    if not path.is_file():
        return ()
    text = path.read_text(encoding="utf-8", errors="replace")[: 64 * 1024]
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def installed_versions() -> dict[str, str]:
    """Every package of this Python, by its canonical name."""
    return {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}


def missing(requirements: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """Those that are not there yet.

    Raises:
        ExtensionError: one is no plain name with versions, or would replace what the house runs on.
    """
    wanted = []
    for text in requirements:
        try:
            one = Requirement(text)
        except InvalidRequirement as error:
            raise ExtensionError(f"it asks pip for {text[:80]!r}, which is no package") from error
        if one.url:
            raise ExtensionError(f"it asks for {one.name} from an address of its own, {one.url}")
        if one.marker is not None and not one.marker.evaluate():
            continue
        there = installed.get(canonicalize_name(one.name))
        fits = there is not None and one.specifier.contains(there, prereleases=True)
        if there is not None and not fits and canonicalize_name(one.name) in PROTECTED:
            raise ExtensionError(
                f"it asks for {one}, and this house runs {one.name} {there}, which stays"
            )
        if not fits:
            wanted.append(str(one))
    return wanted


def constraints(installed: Mapping[str, str]) -> str:
    """A constraints file that keeps what the house runs on as it is."""
    return "".join(f"{name}=={installed[name]}\n" for name in PROTECTED if name in installed)


def install(requirements: Iterable[str]) -> str:
    """Installs what is missing; returns pip's last words.

    Raises:
        ExtensionError: it would replace what the house runs on, or pip fails.
    """
    installed = installed_versions()
    wanted = missing(requirements, installed)
    if not wanted:
        return "nothing was missing"
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "constraints.txt"
        kept.write_text(constraints(installed), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--no-input", "-c", str(kept), "--"]
        try:
            done = subprocess.run(
                [*command, *wanted], capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ExtensionError(f"pip took more than {SECONDS:.0f} s") from error
    lines = (done.stdout + done.stderr).strip().splitlines() or ["pip said nothing"]
    if done.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise ExtensionError(f"its packages can't be installed: {errors[-1][:300]}")
    return lines[-1]
