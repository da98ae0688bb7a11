"""Extensions from the terminal: `python3 launch.py extensions`. Runs none of their code.

What is changed here holds from the next start on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import VitrineError
from core.extend.house import Extensions
from core.extend.install import Installer, Staged
from core.extend.requirements import install as install_requirements
from core.registry import built_in
from core.settings import Settings, read_settings

HOME = Path(__file__).parents[2]


def main(
    words: Sequence[str] | None = None,
    ask: Callable[[str], str] = input,
    settings: Settings | None = None,
) -> int:
    """Exit status: 0 done, 1 it could not be done or was not wanted."""
    given = _parser().parse_args(words)
    settings = settings or read_settings(HOME)
    shipped = HOME / "extensions"
    folders = [(shipped, True), (settings.data_dir / "extensions", False)]
    data = settings.data_dir
    house = Extensions(built_in(), folders, data, settings.outputs_dir, all_off=True)
    taken = {path.parent.name for path in shipped.glob("*/*.py")}
    installer = Installer(data, taken, given.extension_host)
    try:
        return _done(given, house, installer, ask)
    except VitrineError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py extensions", description=__doc__)
    parser.add_argument("--extension-host", action="append", default=[], metavar="NAME")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="what there is")
    for name, help in (
        ("enable", "on from the next start"),
        ("disable", "off from the next start"),
        ("update", "look for something newer where it came from"),
        ("roll-back", "what was there before the last update"),
        ("remove", "delete one that was installed"),
    ):
        commands.add_parser(name, help=help).add_argument("name")
    install = commands.add_parser("install", help="from a git address or a zip")
    install.add_argument("where", help="https://… or a zip on this disk")
    commands.add_parser("order", help="these first").add_argument("names", nargs="+")
    return parser


def _done(
    given: argparse.Namespace, house: Extensions, installer: Installer, ask: Callable[[str], str]
) -> int:
    match given.command:
        case "list" | None:
            for line in listed(house, installer):
                print(line)
        case "enable":
            house.enable(given.name)
        case "disable":
            house.disable(given.name)
        case "order":
            house.order(given.names)
        case "roll-back":
            installer.roll_back(given.name)
        case "remove":
            if given.name in installer.pins():
                house.disable(given.name)
            installer.remove(given.name)
        case "update":
            house.one(given.name)
            pins = installer.pins()
            source = pins[given.name].source if given.name in pins else ""
            return _installed(house, installer, source, ask)
        case "install":
            return _installed(house, installer, given.where, ask)
    return 0


def _installed(
    house: Extensions, installer: Installer, where: str, ask: Callable[[str], str]
) -> int:
    """Shows what would come, asks, and puts it in place."""
    zip = Path(where)
    if where.lower().endswith(".zip") and zip.is_file():
        staged = installer.look_into(zip.read_bytes(), zip.name)
    else:
        staged = installer.look_at(where)
    print("\n".join(told(staged)))
    if staged.problems or ask("Install and enable it? [y/N] ").strip().lower() not in ("y", "yes"):
        return 1
    installer.install(staged.id)
    print(install_requirements(staged.requirements))
    house.enable(staged.name)
    return 0


def listed(house: Extensions, installer: Installer) -> list[str]:
    """A line for each extension there is."""
    pins, choices = installer.pins(), house.kept.read()
    lines = []
    for one in house.all():
        name = one.found.name
        is_on = name in choices.on or (
            name not in choices.off and one.found.ships and one.about.starts_on
        )
        state = "left out" if name in choices.left_out else "on" if is_on else "off"
        source = f"  from {pins[name].source} {pins[name].commit[:10]}" if name in pins else ""
        problem = f"  {choices.left_out[name]}" if name in choices.left_out else ""
        lines.append(f"{state:8}  {name:24}  {one.about.description}{source}{problem}")
    return lines


def told(staged: Staged) -> list[str]:
    """What a person should know before saying yes."""
    size = sum(size for _, size in staged.files) / 1024
    return [
        f"{staged.about.title or staged.name}: {staged.about.description}",
        f"  from      {staged.pin.source}",
        f"  commit    {staged.pin.commit or 'not known'}",
        *([f"  fetched   {staged.note}"] if staged.note else []),
        f"  files     {len(staged.files)}, {size:.0f} KB",
        f"  packages  {', '.join(staged.requirements) or 'none'}",
        f"  to install  {', '.join(staged.missing) or 'nothing'}",
        f"  it says it does  {', '.join(staged.about.permissions) or 'nothing beside computing'}",
        *([f"  {line}" for line in staged.tier]),
        *([staged.diff] if staged.diff else []),
        *(f"It can't be installed: {problem}" for problem in staged.problems),
        "This runs with your rights: it can read and change all that you can.",
    ]


if __name__ == "__main__":
    sys.exit(main())
