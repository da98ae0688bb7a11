"""The house keeps its own rules: who imports whom, how long things are, what is never called."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PLAIN = "core.request core.events core.errors core.settings"
TORCH = "torch einops"
BELOW_ENGINE = (
    f"{PLAIN} core.nn core.sampling core.text core.images core.adapters core.models"
    " core.entries core.additions core.registry core.passes core.levels core.resolve core.run"
    " core.generate core.trace"
)

ROOMS = {
    # room: (rooms it may use beside itself, packages it may use beside the standard library)
    "core.request": (PLAIN, ""),
    "core.events": (PLAIN, ""),
    "core.errors": (PLAIN, ""),
    "core.settings": (PLAIN, ""),
    "core.nn": (PLAIN, TORCH),
    "core.sampling": (f"{PLAIN} core.nn", f"{TORCH} numpy scipy torchsde"),
    "core.images": (PLAIN, f"{TORCH} numpy PIL"),
    # Conditioning, which sampling reads, is what text makes.
    "core.text": (
        f"{PLAIN} core.nn core.sampling.conditioning",
        f"{TORCH} tokenizers transformers",
    ),
    "core.adapters": (f"{PLAIN} core.nn", f"{TORCH} safetensors"),
    "core.models": (
        f"{PLAIN} core.nn core.sampling core.text core.images core.adapters",
        f"{TORCH} safetensors transformers yaml huggingface_hub psutil",
    ),
    # Shelf entries load what they name when they are asked for it.
    "core.entries": (f"{PLAIN} core.sampling", ""),
    "core.shelves": (f"{PLAIN} core.entries", ""),
    # What extensions add to a run, as values.
    "core.additions": (PLAIN, ""),
    "core.registry": (
        f"{PLAIN} core.entries core.shelves core.additions core.adapters.kinds"
        " core.images.guides core.models.families core.models.family",
        "",
    ),
    # A request cut into walks: `passes` by numbers and names alone, `levels` with a schedule.
    "core.passes": (PLAIN, ""),
    "core.levels": (f"{PLAIN} core.passes core.registry core.sampling", "torch"),
    "core.resolve": (
        f"{PLAIN} core.passes core.registry core.models.catalog core.text.prompt"
        " core.text.networks core.images.resize core.images.guides",
        "",
    ),
    # What the walks of one request share; `generate` tells the story with it.
    "core.run": (
        f"{PLAIN} core.nn core.sampling core.text core.images core.adapters core.models"
        " core.passes core.levels core.entries core.additions core.registry",
        "torch PIL",
    ),
    "core.generate": (
        f"{PLAIN} core.nn core.sampling core.text core.images core.adapters core.models"
        " core.passes core.levels core.registry core.resolve core.run",
        f"{TORCH} psutil",
    ),
    # A trace is replayed by the same arithmetic that made it.
    "core.trace": (
        f"{PLAIN} core.sampling core.images core.registry core.passes core.levels core.generate",
        "torch numpy PIL",
    ),
    # Capsules and pixels are read when they are asked for.
    "core.gallery": (f"{PLAIN} core.images core.registry", "PIL"),
    "core.engine": (f"{BELOW_ENGINE} core.gallery", "torch psutil PIL"),
    "core.extend": (
        f"{PLAIN} core.entries core.additions core.registry core.adapters.kinds"
        " core.images.guides core.models.family",
        "pluggy packaging",
    ),
    # The small model that ships: how it was drawn, trained and measured. Nobody leans on it.
    "core.pocket": (
        f"{PLAIN} core.nn core.images core.models core.registry core.generate",
        f"{TORCH} numpy PIL safetensors transformers",
    ),
    "core.__init__": ("core", ""),
    "core.__main__": ("core", "psutil"),
    "webui": (
        f"{PLAIN} core.additions core.registry core.resolve core.gallery core.engine core.extend"
        " core.trace core.images core.models.catalog core.models.embeddings core.models.kinds"
        " core.passes core.text.networks core.text.prompt core.text.styles core.text.tokenizer",
        "gradio fastapi starlette pydantic uvicorn websockets PIL psutil segno platformdirs yaml",
    ),
    "launch": ("webui.flags", ""),
    "extensions": ("core webui", "torch einops numpy PIL gradio fastapi pluggy"),
}
"""The one-way rule. Types for the reader, under TYPE_CHECKING, are not held to it."""

TORCH_FREE = (
    "core core.request core.registry core.passes core.resolve core.models.catalog core.engine.job"
    " core.text.prompt core.text.tokenizer"
)

LONG: dict[str, str] = {
    # "file" or "file:function": why it is right for it to be long
}

NAMED_PLACES = {
    # what is never done elsewhere: where, and why there
    "torch.load": {
        "core/pocket/train.py": "training's own half-done work",
        "core/pocket/export.py": "the same, read once more",
        "core/models/pickles.py": "weights only, and of those just the table of contents",
    },
    "Image.open": {"core/images/pixels.py": "formats and sizes are checked first"},
}


@dataclass(frozen=True)
class Module:
    """One of our source files, parsed."""

    path: Path
    root: Path = ROOT

    @property
    def shown(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @property
    def name(self) -> str:
        return self.shown.removesuffix(".py").replace("/", ".")

    def tree(self) -> ast.Module:
        return parsed(self.path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def house() -> list[Module]:
    """All that is shipped, in a fixed order."""
    folders = [ROOT / name for name in ("core", "webui", "extensions")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return [Module(path) for path in sorted([ROOT / "launch.py", *files])]


def room_of(name: str) -> str:
    """The longest entry of ROOMS that holds a module."""
    held = [room for room in ROOMS if is_within(name, room)]
    assert held, f"{name} has no room: draw one in ROOMS"
    return max(held, key=len)


def is_within(name: str, room: str) -> bool:
    return f"{name}.".startswith(f"{room}.")


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, full name) of whatever a module imports, in functions too, but for types alone."""
    for node in running(module.tree()):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.name.split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                path = module.root / inner.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield node.lineno, inner if is_module else origin


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: not what stands under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield from running(child)


def trespasses(module: Module) -> Iterator[str]:
    room = room_of(module.name)
    rooms, packages = (entry.split() for entry in ROOMS[room])
    for line, name in imports(module):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top in ("core", "webui", "extensions", "launch", "tests"):
            is_allowed = any(is_within(name, allowed) for allowed in [room, *rooms])
        else:
            is_allowed = top in packages
        if not is_allowed:
            yield f"{module.shown}:{line} imports {name}, which {room} may not"


def test_imports_go_one_way():
    assert not [found for module in house() for found in trespasses(module)]


def test_the_rule_sees_what_it_should(tmp_path):
    """An upward import, one hidden in a function, and one for types only."""
    source = (
        "import core.generate\n"
        "from core import models\n"
        "def f():\n    import gradio\n"
        "if TYPE_CHECKING:\n    import webui\n"
    )
    (tmp_path / "core/models").mkdir(parents=True)
    (tmp_path / "core/request.py").write_text(source)
    found = list(trespasses(Module(tmp_path / "core/request.py", tmp_path)))
    assert [text.split()[0:3:2] for text in found] == [
        ["core/request.py:1", "core.generate,"],
        ["core/request.py:2", "core.models,"],
        ["core/request.py:4", "gradio,"],
    ]


def in_fresh_python(script: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_is_up_without_torch():
    in_fresh_python("import sys, webui.app\nassert 'torch' not in sys.modules, 'torch was loaded'")


def test_rooms_that_describe_need_no_torch():
    checked = [f"import {n}; assert 'torch' not in sys.modules, {n!r}" for n in TORCH_FREE.split()]
    in_fresh_python("\n".join(["import sys", *checked]))


def test_launch_needs_no_package():
    """-S: a Python without site-packages, as on a bare machine."""
    in_fresh_python("import launch", "-S")


def test_nothing_is_global():
    assert not [
        f"{module.shown}:{node.lineno}"
        for module in house()
        for node in ast.walk(module.tree())
        if isinstance(node, ast.Global)
    ]


def lengths(module: Module) -> Iterator[tuple[str, int, int]]:
    """(name, lines, how many it may have)."""
    yield module.shown, len(module.path.read_text(encoding="utf-8").splitlines()), 500
    for node in ast.walk(module.tree()):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield f"{module.shown}:{node.name}", (node.end_lineno or first) - first + 1, 80


def test_functions_and_files_fit():
    long = {
        name: lines for module in house() for name, lines, most in lengths(module) if lines > most
    }
    assert set(long) == set(LONG), f"too long, or no longer so: {long}"


def test_every_module_says_what_lives_there():
    assert not [m.shown for m in house() if not ast.get_docstring(m.tree())]


FORBIDDEN_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def dangers(module: Module) -> Iterator[str]:
    """What SAFETY forbids: code that runs what a file or a stranger says."""
    for line, name in imports(module):
        if name.partition(".")[0] in FORBIDDEN_MODULES:
            yield f"{module.shown}:{line} imports {name}"
    for node in ast.walk(module.tree()):
        if isinstance(node, ast.Call) and (what := danger(node, module.shown)):
            yield f"{module.shown}:{node.lineno} {what}"


def danger(call: ast.Call, file: str) -> str | None:
    """What is wrong with a call, if anything."""
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in (
        "eval",
        "exec",
        "compile",
        "os.system",
        "os.popen",
        "yaml.load",
        "yaml.unsafe_load",
    ):
        return f"calls {name}"
    if options.get("shell", "False") != "False":
        return "starts a shell"
    if options.get("allow_pickle", "False") != "False":
        return "unpickles arrays"
    if name in NAMED_PLACES and file not in NAMED_PLACES[name]:
        return f"calls {name}, which only {', '.join(NAMED_PLACES[name])} may"
    if name == "torch.load" and options.get("weights_only") != "True":
        return "loads with torch, and not weights_only=True"
    if name == "Image.open" and "formats" not in options:
        return "opens a picture of any format"
    if name.endswith("HTML") and call.args and isinstance(call.args[0], ast.JoinedStr):
        return "puts values into HTML unescaped"
    return None


def test_nothing_dangerous_is_called():
    assert not [found for module in house() for found in dangers(module)]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "subprocess.run(c, shell=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "Image.open(path)",
        "gr.HTML(f'<b>{name}</b>')",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_check_sees_danger(source, tmp_path):
    (tmp_path / "core.py").write_text(source)
    assert list(dangers(Module(tmp_path / "core.py", tmp_path)))


def test_the_gate_does_not_rest_on_assert():
    """python -O drops assertions."""
    gate = Module(ROOT / "webui/gate.py").tree()
    assert not [node.lineno for node in ast.walk(gate) if isinstance(node, ast.Assert)]


def clean(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_code_is_formatted():
    clean("ruff", "format", "--check", ".")


def test_the_linter_is_content():
    clean("ruff", "check", ".")


def test_the_types_hold():
    clean("mypy", "core", "webui", "launch.py")
