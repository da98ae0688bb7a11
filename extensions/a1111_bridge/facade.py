"""What AUTOMATIC1111's extensions import as `modules`: the names they use most, written from the
documented interface. Registering is all that happens here; `bridge` reads what was registered."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLBACKS = (
    "app_started",
    "ui_tabs",
    "ui_settings",
    "before_ui",
    "model_loaded",
    "script_unloaded",
    "image_saved",
    "before_image_saved",
    "before_component",
    "after_component",
    "infotext_pasted",
)


@dataclass
class Registered:
    """What one extension registered while it was imported."""

    folder: Path
    data: Path
    callbacks: dict[str, list[Callable[..., Any]]] = field(default_factory=dict)
    scripts: list[type] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[Registered | None] = ContextVar("a1111_extension", default=None)


@contextmanager
def registering(into: Registered) -> Iterator[None]:
    """Whatever registers meanwhile, registers here."""
    token = _current.set(into)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Registered:
    found = _current.get()
    if found is None:
        raise RuntimeError("callbacks are registered while an extension is imported, not later")
    return found


class Script:
    """The base of scripts. Every subclass registers itself."""

    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = True
    is_img2img = False
    group = None
    infotext_fields = None
    paste_field_names = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        current().scripts.append(cls)

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> Any:
        return None

    def show(self, is_img2img: bool) -> Any:
        return True

    def process(self, p: Any, *args: Any) -> None:
        pass

    def postprocess_image(self, p: Any, pp: Any, *args: Any) -> None:
        pass

    def elem_id(self, item_id: str) -> str:
        title = "".join(letter if letter.isalnum() else "_" for letter in self.title().lower())
        return f"script_{title}_{item_id}"


class Processed:
    """What a run gave."""

    def __init__(
        self, p: Any, images_list: list[Any], seed: int = -1, info: str = "", **more: Any
    ) -> None:
        self.images, self.seed, self.info = images_list, seed, info
        self.prompt, self.width, self.height = p.prompt, p.width, p.height
        self.infotexts = more.get("infotexts") or [info]


def process_images(p: Any) -> Processed:
    """Makes what `p` asks for; a job like any other."""
    images = p.made(p)
    return Processed(p, images, p.seed)


def fix_seed(p: Any) -> None:
    """A seed of -1 becomes one that is drawn."""
    if p.seed in (None, -1, ""):
        p.seed = secrets.randbelow(2**32)


class OptionInfo:
    """A setting: its default, its words, and its widget, which is not drawn here."""

    def __init__(
        self,
        default: Any = None,
        label: str = "",
        component: Any = None,
        component_args: Any = None,
        *rest: Any,
        **more: Any,
    ) -> None:
        self.default, self.label, self.section = default, label, more.get("section")

    def info(self, text: str) -> OptionInfo:
        return self

    html = link = js = info

    def needs_restart(self) -> OptionInfo:
        return self

    needs_reload_ui = needs_restart


class Options:
    """`shared.opts`: what was registered, and what a person set instead."""

    def __init__(self) -> None:
        object.__setattr__(self, "data", {})
        object.__setattr__(self, "data_labels", {})

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        self.data[key] = current().options.get(key, info.default)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(f"there is no option {name!r} here") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.data[name] = value

    def set(self, key: str, value: Any) -> bool:
        self.data[key] = value
        return True

    def dumpjson(self) -> str:
        import json

        return json.dumps(self.data, default=str)


def options_section(section: Any, options: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    for info in options.values():
        info.section = section
    return options


def _registrar(name: str) -> Callable[..., None]:
    def register(callback: Callable[..., Any], *, name: str | None = None) -> None:
        current().callbacks.setdefault(kind, []).append(callback)

    kind = name
    return register


def basedir() -> str:
    return str(current().folder)


def facade() -> dict[str, ModuleType]:
    """The package, by the names under which it is imported."""
    names: dict[str, dict[str, Any]] = {
        "modules": {},
        "modules.scripts": {
            "Script": Script,
            "AlwaysVisible": object(),
            "basedir": basedir,
            "scripts_data": [],
        },
        "modules.script_callbacks": {f"on_{name}": _registrar(name) for name in CALLBACKS},
        "modules.shared": {
            "opts": Options(),
            "OptionInfo": OptionInfo,
            "options_section": options_section,
            "state": SimpleNamespace(
                interrupted=False, skipped=False, job_count=0, job="", job_no=0
            ),
            "cmd_opts": SimpleNamespace(listen=False, share=False, api=True, ckpt_dir=None),
        },
        "modules.options": {"OptionInfo": OptionInfo, "options_section": options_section},
        "modules.processing": {
            "Processed": Processed,
            "process_images": process_images,
            "fix_seed": fix_seed,
            "StableDiffusionProcessing": SimpleNamespace,
            "StableDiffusionProcessingTxt2Img": SimpleNamespace,
        },
        "modules.paths": {},
        "modules.ui_components": {},
    }
    modules = {}
    for name, contents in names.items():
        modules[name] = module = ModuleType(name, "A facade of AUTOMATIC1111's module.")
        vars(module).update(contents)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(modules[parent], own, module)
    modules["modules"].__path__ = []
    return modules
