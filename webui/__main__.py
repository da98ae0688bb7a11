"""`python -m webui`: one server, one engine, one line that says where to look."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn

from core.errors import VitrineError
from core.settings import Settings, read_settings
from webui.gate import LOOPBACK, Rules

ROOT = Path(__file__).parents[1]
HOME = "127.0.0.1"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m webui", description="Vitrine: see pictures come out of noise."
    )
    add = parser.add_argument
    add("--listen", action="store_true", help="let other devices on the network in, with a token")
    add("--port", type=port, default=7860, help="the port to use (7860)")
    add("--browser", action="store_true", help="open the page in a browser")
    add("--data-dir", type=Path, help="where the queue, recordings and settings lie")
    add("--models-dir", type=Path, help="where models lie")
    add("--outputs-dir", type=Path, help="where pictures go")
    add("--device", help="cpu, cuda, cuda:1, mps")
    add("--no-token", action="store_true", help="with --listen: let everybody in without a token")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="one more name this server answers to; may be given more than once",
    )
    return parser.parse_args(words)


def port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings file, and over it what this start was told."""
    settings = read_settings(ROOT)
    folders = {
        name: getattr(given, name).expanduser().resolve()
        for name in ("data_dir", "models_dir", "outputs_dir")
        if getattr(given, name) is not None
    }
    settings = replace(settings, **folders)
    return replace(settings, device=given.device) if given.device else settings


def rules_of(given: argparse.Namespace) -> Rules:
    """Which names are answered to, and whether a token is asked for."""
    hosts = {*LOOPBACK, *(name.lower().strip("[]") for name in given.allow_host)}
    if given.listen:
        hosts |= {*addresses(), *own_names()}
    token = None
    if given.listen and not given.no_token:
        token = os.environ.get("VITRINE_TOKEN") or secrets.token_urlsafe(16)
    return Rules(port=given.port, hosts=frozenset(hosts), token=token)


def own_names() -> set[str]:
    """This machine's name, with and without .local."""
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], name.partition(".")[0] + ".local"}


def addresses() -> list[str]:
    """This machine's addresses on its networks, as far as it knows them."""
    import psutil

    return [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]


def listening(host: str, port: int) -> socket.socket:
    """The socket, taken before anything slow begins. Exits with a sentence if it is not free."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            sys.exit(
                f"Port {port} is taken, perhaps by a Vitrine that runs already: look at "
                f"http://{HOME}:{port}/, or choose another one with --port {port + 1}."
            )
        sys.exit(f"Port {port} can't be used: {error.strerror}. Choose another one with --port.")
    taken.listen(128)
    return taken


def greeting(rules: Rules, listen: bool) -> str:
    """Where to look, as a line to follow; beyond this machine also as a QR code."""
    if not listen:
        return f"\n  Vitrine is open: http://{HOME}:{rules.port}/\n"
    key = f"?token={rules.token}" if rules.token else ""
    here = f"http://{HOME}:{rules.port}/{key}"
    lines = ["", f"  Vitrine is open: {here}"]
    for address in addresses():
        url = f"http://{address}:{rules.port}/{key}"
        lines += ["", f"  On other devices: {url}", "", qr(url)]
    if not rules.token:
        lines += ["", "  Everybody on your network may use it: it was started with --no-token."]
    return "\n".join([*lines, ""])


def qr(url: str) -> str:
    """The address as a picture that a terminal can print."""
    import segno

    out = io.StringIO()
    segno.make(url, micro=False, error="m").terminal(out=out, compact=True, border=2)
    return out.getvalue()


class Server(uvicorn.Server):
    """uvicorn's own, which says when it is really there."""

    def __init__(self, config: uvicorn.Config, opened: Callable[[], None]) -> None:
        super().__init__(config)
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._opened()


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    taken = listening("0.0.0.0" if given.listen else HOME, given.port)
    try:
        settings, rules = settings_of(given), rules_of(given)
        serve(settings, rules, taken, given)
    except VitrineError as error:
        sys.exit(f"Vitrine can't start: {error}")


def serve(
    settings: Settings, rules: Rules, taken: socket.socket, given: argparse.Namespace
) -> None:
    """Runs until it is told to stop."""
    from core.engine.local import LocalEngine
    from core.registry import built_in
    from webui.app import create_app

    engine = LocalEngine(settings, built_in())
    app = create_app(engine, settings, rules)

    def opened() -> None:
        print(greeting(rules, given.listen), flush=True)
        if given.browser:
            key = f"?token={rules.token}" if rules.token else ""
            threading.Thread(
                target=webbrowser.open, args=(f"http://{HOME}:{rules.port}/{key}",), daemon=True
            ).start()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=3,
        ws_max_size=2**16,
        server_header=False,
    )
    try:
        Server(config, opened).run(sockets=[taken])
    finally:
        engine.close()


if __name__ == "__main__":
    main()
