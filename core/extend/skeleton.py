"""Writes an extension to begin with: `python3 launch.py new-extension NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import ExtensionError
from core.extend.loader import NAME

FILES = {
    "extension.py": '''"""NAME: say here in one sentence what it does for a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.extend import CombineWrapper, hookimpl, setting
from webui.hookspecs import Panel

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampling.guidance import Combine, Predictions


@dataclass(frozen=True)
class Settings:
    """One widget each in the panel; they travel with every request and every picture."""

    amount: float = setting(1.0, low=0, high=2, step=0.05, help="1 changes nothing.")


def changed(combine: Combine, settings: Settings) -> Combine:
    """Guidance that goes `amount` of the way that it went before."""

    def combine_changed(predictions: Predictions) -> Tensor:
        prompted = predictions.conds[0]
        return prompted + settings.amount * (combine(predictions) - prompted)

    return combine_changed


@hookimpl
def combine_wrappers() -> list[CombineWrapper]:
    return [CombineWrapper("NAME", Settings, changed)]


@hookimpl
def panels() -> list[Panel]:
    return [Panel("NAME", Settings, "TITLE")]
''',
    "extension.toml": """title = "TITLE"
description = "What it does, in one sentence."
version = "0.1"
requirements = []
permissions = []
""",
    "README.md": """# TITLE

What it does, for whoever uses it. `../README.md` is the guide for whoever writes it.
""",
    "test_NAME.py": '''"""What NAME does, and that it does nothing where it should not."""

from pathlib import Path

import pytest
import torch

import webui.hookspecs
from core.extend.trying import alone
from core.registry import Registry
from core.sampling.guidance import Predictions, classifier_free


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return alone(Path(__file__).parent, tmp_path, [webui.hookspecs])


def test_an_amount_of_one_changes_nothing(registry: Registry) -> None:
    wrapper = registry.combine_wrappers["NAME"]
    cond, uncond = torch.randn(2, 1, 4, 8, 8)
    given = Predictions(cond, torch.tensor(1.0), (cond,), (1.0,), uncond)
    plain = classifier_free(7.0)
    settings = wrapper.settings(amount=1.0)
    torch.testing.assert_close(wrapper.wrap(plain, settings)(given), plain(given))
    none = wrapper.settings(amount=0.0)
    torch.testing.assert_close(wrapper.wrap(plain, none)(given), cond)


def test_its_settings_have_bounds(registry: Registry) -> None:
    assert registry.checked({"NAME": {}}) == {"NAME": {"amount": 1.0}}
    with pytest.raises(Exception, match="between 0 and 2"):
        registry.checked({"NAME": {"amount": 3}})
''',
}


def written(name: str, folder: Path) -> Path:
    """A new extension's own folder below `folder`.

    Raises:
        ExtensionError: the name can't be one, or is taken.
    """
    if not NAME.fullmatch(name):
        raise ExtensionError(
            f"{name[:80]!r} can't be its name: lower case letters, digits and _, a letter first"
        )
    place = folder / name
    if place.exists():
        raise ExtensionError(f"{place} is there already")
    place.mkdir(parents=True)
    title = name.replace("_", " ").capitalize()
    for file, text in FILES.items():
        filled = text.replace("NAME", name).replace("TITLE", title)
        (place / file.replace("NAME", name)).write_text(filled, encoding="utf-8")
    return place


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py new-extension", description=__doc__)
    parser.add_argument("name", help="lower case letters, digits and _")
    home = Path(__file__).parents[2] / "extensions"
    parser.add_argument("--folder", type=Path, default=home, help=f"where it goes ({home})")
    given = parser.parse_args(words)
    try:
        place = written(given.name, given.folder)
    except ExtensionError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{place}/extension.py works already; the guide is extensions/README.md.")
    print(f"Try it: python3 launch.py test {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
