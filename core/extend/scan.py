"""Reads an AUTOMATIC1111 extension and says what of it would work here, without running any of it.

Tiers: A, routes, tabs, settings and scripts of the page; B, plain scripts over a request; C, what
changes guidance by callbacks; D, what replaces parts of the model; X, what takes the page apart.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Tier = Literal["A", "B", "C", "D", "X"]

MOST_BYTES = 2 * 2**20
"""Of one file; a longer one is not read."""
MEANINGS: dict[Tier, str] = {
    "A": "it adds routes, tabs, settings or scripts to the page",
    "B": "it works on requests and finished pictures",
    "C": "it changes guidance step by step",
    "D": "it replaces parts of the model or of the samplers",
    "X": "it takes AUTOMATIC1111's page apart",
}
BRIDGED: tuple[Tier, ...] = ("A", "B")
"""Those that extensions/a1111_bridge can run."""
SHIM = '''"""NAME, written for AUTOMATIC1111, by way of the bridge."""

import sys

BRIDGE = "vitrine_extension_a1111_bridge"
if BRIDGE not in sys.modules:
    raise ImportError("it needs the AUTOMATIC1111 bridge; enable that first")
globals().update(sys.modules[BRIDGE].bridged(__file__))
'''
GUIDING = ("on_cfg_denoiser", "on_cfg_denoised", "on_cfg_after_cfg", "on_extra_noise")
INSIDES = (
    "modules.sd_hijack",
    "modules.sd_hijack_unet",
    "modules.sd_hijack_optimizations",
    "modules.sd_samplers_kdiffusion",
    "modules.sd_samplers_common",
    "modules.sd_unet",
    "modules.prompt_parser",
    "modules.processing_scripts",
    "ldm",
    "sgm",
    "k_diffusion",
    "networks",
)
"""Modules that hold the insides of its model."""
INNER_HOOKS = ("process_before_every_sampling", "after_extra_networks_activate", "process_batch")
PLAIN_HOOKS = (
    "title",
    "show",
    "ui",
    "run",
    "setup",
    "before_process",
    "process",
    "postprocess",
    "postprocess_image",
    "postprocess_batch",
)
OLD_GRADIO = {
    "style": r"\.style\(",
    "_js=": r"\b_js\s*=",
    "Component.update": r"\bgr\.[A-Z]\w+\.update\(",
    "gr.Box": r"\bgr\.Box\b",
    "IOComponent": r"\bIOComponent\b",
    "gr.Image(source=, tool=)": r"gr\.Image\([^)]*\b(?:source|tool)\s*=",
}
"""What Gradio 3 had and Gradio 6 has not, by how it is written."""


@dataclass(frozen=True)
class Scan:
    """What was found."""

    tier: Tier
    reasons: tuple[str, ...]
    """Why it is of this tier, and what would not work."""
    uses: tuple[str, ...]
    """Names below `modules` that it uses, by how often."""
    scripts: int
    """Files for the browser."""
    installs: bool
    """Whether it has an install.py, which A1111 runs at every start."""

    @property
    def sentence(self) -> str:
        return f"AUTOMATIC1111 extension of tier {self.tier}: {MEANINGS[self.tier]}"


@dataclass
class _Found:
    """What is collected while files are read."""

    uses: Counter[str] = field(default_factory=Counter)
    callbacks: set[str] = field(default_factory=set)
    hooks: set[str] = field(default_factory=set)
    insides: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    old: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    is_script: bool = False


def is_a1111(folder: Path) -> bool:
    """Whether a folder looks like one of its extensions."""
    if (folder / "extension.py").is_file():
        return False
    parts = ("scripts", "javascript", "install.py", "preload.py", "style.css")
    return any((folder / part).exists() for part in parts)


def write_shim(folder: Path, name: str) -> None:
    """Makes one of its extensions one of this house, which asks the bridge for its hooks."""
    (folder / "extension.py").write_text(SHIM.replace("NAME", name), encoding="utf-8")


def scanned(folder: Path) -> Scan:
    """What an extension of A1111's would be here."""
    found = _Found()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError("too long")
            text = path.read_text(encoding="utf-8", errors="replace")
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            found.unreadable.append(name)
            continue
        _read(tree, found)
        found.old |= {word for word, pattern in OLD_GRADIO.items() if re.search(pattern, text)}
    scripts = sorted((folder / "javascript").glob("*.*js"))
    dom = "\n".join(path.read_text(errors="replace")[:MOST_BYTES] for path in scripts)
    tier, reasons = _judged(found, dom)
    return Scan(
        tier=tier,
        reasons=tuple(reasons),
        uses=tuple(name for name, _ in found.uses.most_common(60)),
        scripts=len(scripts),
        installs=(folder / "install.py").is_file(),
    )


def _read(tree: ast.Module, found: _Found) -> None:
    """One file: what it imports, which callbacks it registers, which classes it derives."""
    names = dict(_imported(tree))
    found.insides |= {
        module
        for module in names.values()
        if any(f"{module}.".startswith(f"{inside}.") for inside in INSIDES)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if "Script" in bases:
                found.is_script = True
                methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
                found.hooks |= {method.name for method in methods}
        elif isinstance(node, ast.Attribute):
            whole = _whole(node, names)
            if whole is not None:
                found.uses[whole] += 1
                last = whole.rpartition(".")[2]
                if last.startswith("on_"):
                    found.callbacks.add(last)
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    whole = _whole(target, names)
                    if whole is not None and _is_of_the_house(whole):
                        found.replaced.add(whole)


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name in this file, what it is) of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                plain = alias.asname or alias.name.partition(".")[0]
                yield plain, alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _whole(node: ast.Attribute, names: dict[str, str]) -> str | None:
    """`scripts.Script` as `modules.scripts.Script`; None for what is not below `modules`."""
    text = ast.unparse(node)
    first, _, rest = text.partition(".")
    whole = f"{names.get(first, first)}.{rest}"
    return whole if re.fullmatch(r"modules(\.\w+)+", whole) else None


def _is_of_the_house(name: str) -> bool:
    """Whether assigning it replaces a part, and does not just set a value."""
    return not re.match(r"modules\.shared\.(opts|state)\b", name) and name.count(".") >= 2


def _judged(found: _Found, dom: str) -> tuple[Tier, list[str]]:
    reasons: list[str] = []
    if found.old:
        reasons.append(f"written for Gradio 3: {', '.join(sorted(found.old))}")
    if found.unreadable:
        reasons.append(f"can't be read as Python 3: {', '.join(found.unreadable[:5])}")
    inner = found.hooks & {*INNER_HOOKS}
    guiding = found.callbacks & {*GUIDING}
    if re.search(r"gradio-app'?\)?\.innerHTML|document\.body\.innerHTML\s*=", dom):
        return "X", [*reasons, "its JavaScript replaces the page"]
    if found.insides or found.replaced:
        what = sorted({*found.insides, *found.replaced})
        return "D", [*reasons, f"it reaches into {', '.join(what[:6])}"]
    if guiding or inner:
        return "C", [*reasons, f"it acts inside a run: {', '.join(sorted({*guiding, *inner}))}"]
    if found.is_script:
        other = found.hooks - {*PLAIN_HOOKS}
        known = {name for name in other if name.startswith(("before_", "post", "on_"))}
        if known:
            reasons.append(f"these of its hooks are not called: {', '.join(sorted(known))}")
        return "B", reasons
    return "A", reasons
