"""The author's guide says what is so, and what it lets a reader do works."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import webui.hookspecs
from core.errors import ExtensionError
from core.extend import hookspecs
from core.extend.hookspecs import CORE_HOOKS, PROJECT
from core.extend.skeleton import written
from core.extend.trying import alone
from core.request import GenerationRequest
from tests.extensions.shipped import shipped
from webui.hookspecs import WEB_HOOKS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "extensions" / "README.md").read_text(encoding="utf-8")


def hooks() -> dict[str, str]:
    """Every hook's signature as it is in the code."""
    signatures = {}
    for module in (hookspecs, webui.hookspecs):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if getattr(function, f"{PROJECT}_spec", None) is not None:
                signatures[name] = f"def {name}{inspect.signature(function)}".replace("'", "")
    return signatures


def test_the_guide_has_every_hook_with_its_exact_signature() -> None:
    assert set(hooks()) == {*CORE_HOOKS, *WEB_HOOKS}
    assert set(re.findall(r"^def \w+\(place: Place.*$", GUIDE, re.MULTILINE)) == {*hooks().values()}


def test_every_hook_is_used_by_an_extension_that_ships(tmp_path: Path) -> None:
    house = shipped(tmp_path, "run_log", "xyz_grid", "a1111_bridge")
    assert {hook for one in house.all() for hook in one.hooks} == set(hooks())
    for one in house.all():
        row = re.search(rf"^\| `{one.found.name}` \|.*\| (.*) \|$", GUIDE, re.MULTILINE)
        assert row is not None and set(re.findall(r"\w+", row[1])) == set(one.hooks)
        said = (one.found.folder / "README.md").read_text()
        assert all(f"`{hook}`" in said for hook in one.hooks), one.found.name
        assert one.about.title and one.about.description


def test_no_shipped_extension_slows_the_start() -> None:
    script = (
        "import sys, tempfile, pathlib\n"
        "from tests.extensions.shipped import shipped\n"
        "shipped(pathlib.Path(tempfile.mkdtemp()))\n"
        "assert 'torch' not in sys.modules and 'gradio' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_tutorial_is_an_extension_that_works(tmp_path: Path) -> None:
    place = written("softer", tmp_path / "extensions")
    (source,) = re.findall(r"```python\n(\"\"\"Softer.*?)```", GUIDE, re.DOTALL)
    (place / "extension.py").write_text(source)
    registry = alone(place, tmp_path, [webui.hookspecs])
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    extras = registry.checked({"softer": {"width": 3}})
    request = GenerationRequest(prompt="", extras=extras)
    assert np.asarray(registry.finished(image, request)).std() < levels.std() / 2
    assert registry.finished(image, GenerationRequest(prompt="")) is image


def test_the_skeleton_passes_its_own_test(tmp_path: Path) -> None:
    place = written("mine", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    for file in place.glob("*.py"):
        checked = subprocess.run([sys.executable, "-m", "ruff", "check", str(file)], cwd=ROOT)
        assert checked.returncode == 0, file
    for name in ("mine", "../out", "Mine", ""):
        with pytest.raises(ExtensionError):
            written(name, tmp_path)
