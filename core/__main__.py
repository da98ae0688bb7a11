"""A request from the terminal: `python -m core "a red apple on a blue background" -o apple.png`.

The proof that core needs no web page.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import FileError, VitrineError
from core.events import Decoding, Event, Finished, ImageDone, Loading, Note, Started, Step
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import Settings, read_settings

if TYPE_CHECKING:
    from PIL.Image import Image


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked for can't be made, 130 stopped by the person."""
    options = _parser().parse_args(arguments)
    try:
        for event in _shown(_events(options)):
            if isinstance(event, ImageDone):
                _save(event, options)
                if sys.stdout.isatty() and not (options.json or options.no_picture):
                    sys.stdout.write(inline(event.image, os.environ))
    except VitrineError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    registry = built_in()
    parser = argparse.ArgumentParser(prog="python -m core", description="Paint from a prompt.")
    parser.add_argument("prompt")
    parser.add_argument("-o", "--output", type=Path, help="PNG to write; default: outputs folder")
    parser.add_argument("-n", "--negative", default="", help="what should not be there")
    parser.add_argument("--checkpoint", help="name in models/Stable-diffusion")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg-scale", type=float)
    parser.add_argument("--sampler", help=", ".join(registry.samplers))
    parser.add_argument("--schedule", help="automatic, " + ", ".join(registry.schedules))
    parser.add_argument("--images", type=int)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each picture")
    parser.add_argument("--no-picture", action="store_true", help="show none in the terminal")
    parser.add_argument("--device", help="automatic, cpu, cuda, cuda:1, mps")
    home = Path(__file__).parents[1]
    parser.add_argument("--root", type=Path, default=home, help=f"where models/ lies ({home})")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    settings = read_settings(options.root)
    return settings if options.device is None else replace(settings, device=options.device)


def _events(options: argparse.Namespace) -> Iterator[Event]:
    from core.generate import House, generate
    from core.images.save import saved
    from core.models.catalog import Catalog
    from core.models.store import Store
    from core.resolve import submitted

    settings, registry = _settings(options), built_in()
    catalog = Catalog(settings)
    request = _request(options, catalog.checkpoint(options.checkpoint).defaults)
    request = submitted(request, catalog, registry)
    events = generate(request, House(registry, catalog, Store(settings, catalog)))
    return saved(events, settings.outputs_dir, registry)


def _request(options: argparse.Namespace, defaults: Mapping[str, int | float]) -> GenerationRequest:
    """What was typed, over what suits the checkpoint."""
    names = ("checkpoint", "seed", "width", "height", "steps", "cfg_scale", "sampler", "schedule")
    typed = {name: getattr(options, name) for name in (*names, "images")}
    given = {name: value for name, value in typed.items() if value is not None}
    request = GenerationRequest(prompt=options.prompt, negative_prompt=options.negative)
    return replace(request, **{**defaults, **given})


def _shown(events: Iterator[Event]) -> Iterator[Event]:
    """Passes the stream through and says on stderr how far it is."""
    say, spent = sys.stderr.write, 0.0
    for event in events:
        match event:
            case Started(request):
                say(f"{request.checkpoint}, seed {request.seed}\n")
            case Loading(part, done, total):
                share = f": {100 * done // total} %" if total else ""
                say(f"\rloading {part}{share}          ")
            case Step():
                spent += event.seconds
                say("\r" + _bar(event, spent))
            case Decoding():
                say("\rdecoding                              ")
            case Note():
                say(f"\n{event.text}\n")
            case Finished():
                say(f"\rdone in {event.seconds:.1f} s              \n")
        sys.stderr.flush()
        yield event


def _bar(step: Step, spent: float) -> str:
    """How far the walk is, as a line. `spent`: seconds in steps so far."""
    done, total = step.state.index, max(1, step.total)
    filled = 20 * done // total
    left = f"{spent / done * (total - done):.0f} s left" if done and spent else ""
    bar = "█" * filled + "░" * (20 - filled)
    return f"{bar} step {done} of {total}, sigma {step.sigma:.3g} {left:<12}"


def inline(image: Image, environment: Mapping[str, str]) -> str:
    """The picture as a terminal shows it: kitty's way or iTerm2's; empty where it knows neither."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    program = environment.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environment or program == "ghostty":
        pieces = [data[start : start + 4096] for start in range(0, len(data), 4096)]
        heads = ["a=T,f=100,m=1", *["m=1"] * (len(pieces) - 1)]
        heads[-1] = heads[-1].replace("m=1", "m=0")
        return "".join(f"\x1b_G{h};{p}\x1b\\" for h, p in zip(heads, pieces, strict=True)) + "\n"
    if program in ("iTerm.app", "WezTerm"):
        return f"\x1b]1337;File=inline=1:{data}\a\n"
    return ""


def _told(event: ImageDone, path: Path, options: argparse.Namespace) -> str:
    """What stdout says of a picture: where it is, or with --json all of it."""
    if not options.json:
        return str(path)
    told = {"path": str(path), "seed": event.request.seed, "finished": event.finished}
    return json.dumps({**told, "request": event.request.to_json()})


def _save(event: ImageDone, options: argparse.Namespace) -> None:
    if options.output is None:
        if event.path is not None:  # else a note has said why
            print(_told(event, event.path, options))
        return
    target = options.output
    if event.index:
        target = target.with_stem(f"{target.stem}-{event.index}")
    try:
        if event.path is not None:
            shutil.copyfile(event.path, target)
        else:
            event.image.save(target, "PNG")
    except OSError as error:
        raise FileError(f"{target} can't be written: {error.strerror or error}") from error
    print(_told(event, target, options))


if __name__ == "__main__":
    sys.exit(main())
