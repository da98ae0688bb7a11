"""`python -m webui`: one server, one engine, one line that says where to look."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
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
from core.extend.house import Extensions
from core.registry import built_in
from core.settings import Settings, with_values
from webui import hookspecs
from webui.codes import qr
from webui.gate import LOOPBACK, Rules
from webui.people import People, save_options
from webui.settings_file import settled

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
    add("--api", action="store_true", help="with --listen: /sdapi/v1 for others too")
    add(
        "--cors-allow-origins",
        type=origins,
        default=frozenset(),
        metavar="A,B",
        help="other sites whose scripts may call this server, as https://host:port",
    )
    add(
        "--set",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of vitrine.toml, for this start",
    )
    add("--tls-keyfile", type=Path, help="with --tls-certfile: serve over https")
    add("--tls-certfile", type=Path)
    add("--no-token", action="store_true", help="with --listen: let everybody in without a token")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="one more name this server answers to; may be given more than once",
    )
    add("--disable-all-extensions", action="store_true", help="start without any extension")
    add(
        "--enable-insecure-extension-access",
        action="store_true",
        help="let everybody who is let in install and enable extensions",
    )
    add(
        "--extension-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a server of your own that extensions may come from, with or without a port",
    )
    return parser.parse_args(words)


def origins(text: str) -> frozenset[str]:
    found = [one.strip().rstrip("/") for one in text.split(",") if one.strip()]
    for one in found:
        if not re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", one):
            raise argparse.ArgumentTypeError(
                f"an origin is https://host or http://host:port, not {one!r}"
            )
    return frozenset(found)


def assignment(text: str) -> tuple[str, str | int]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"a setting is set as name=value, not {text!r}")
    return name, int(value) if re.fullmatch("[0-9]{1,9}", value) else value


def port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings file, and over it what this start was told."""
    settings, notes = settled(ROOT)
    for note in notes:
        print(f"Note: {note}.", file=sys.stderr)
    folders = {
        name: getattr(given, name).expanduser().resolve()
        for name in ("data_dir", "models_dir", "outputs_dir")
        if getattr(given, name) is not None
    }
    settings = replace(settings, **folders)
    settings = with_values(settings, dict(given.set), ROOT)
    return replace(settings, device=given.device) if given.device else settings


def rules_of(given: argparse.Namespace) -> Rules:
    """Which names are answered to, and whether a token is asked for."""
    hosts = {*LOOPBACK, *(name.lower().strip("[]") for name in given.allow_host)}
    if given.listen:
        hosts |= {*addresses(), *own_names()}
    token = None
    if given.listen and not given.no_token:
        token = os.environ.get("VITRINE_TOKEN") or secrets.token_urlsafe(16)
    return Rules(
        port=given.port,
        hosts=frozenset(hosts),
        token=token,
        origins=given.cors_allow_origins,
        has_sdapi=given.api or not given.listen,
    )


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


def greeting(rules: Rules, listen: bool, scheme: str = "http") -> str:
    """Where to look, as a line to follow; beyond this machine also as a QR code."""
    if not listen:
        return f"\n  Vitrine is open: {scheme}://{HOME}:{rules.port}/\n"
    key = f"?token={rules.token}" if rules.token else ""
    here = f"{scheme}://{HOME}:{rules.port}/{key}"
    lines = ["", f"  Vitrine is open: {here}"]
    for address in addresses():
        url = f"{scheme}://{address}:{rules.port}/{key}"
        lines += ["", f"  On other devices: {url}", "", qr(url)]
    if not rules.token:
        lines += ["", "  Everybody on your network may use it: it was started with --no-token."]
    return "\n".join([*lines, ""])


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


def extensions_of(settings: Settings, all_off: bool) -> Extensions:
    """All extensions: those of the house's own folder, and those that were installed."""
    folders = [(ROOT / "extensions", True), (settings.data_dir / "extensions", False)]
    data, outputs = settings.data_dir, settings.outputs_dir
    extensions = Extensions(built_in(), folders, data, outputs, (hookspecs,), all_off)
    for one in extensions.all():
        if one.problem:
            logging.warning("left out: %s", one.problem)
    return extensions


def serve(
    settings: Settings, rules: Rules, taken: socket.socket, given: argparse.Namespace
) -> None:
    """Runs until it is told to stop."""
    from core.engine.local import LocalEngine
    from webui.app import create_app
    from webui.extending import Rights

    extensions = extensions_of(settings, given.disable_all_extensions)
    people = People(settings.data_dir / "people.sqlite3")
    engine = LocalEngine(
        settings, extensions.registry, lambda owner: save_options(people.of(owner))
    )
    extensions.listen(engine.adopt)
    extensions.opening()
    rights = Rights(given.enable_insecure_extension_access, frozenset(given.extension_host))
    try:
        app = create_app(engine, settings, rules, extensions, rights, ROOT)
    except KeyboardInterrupt:
        extensions.opened()  # a person's doing, and no extension's
        raise

    scheme = "https" if given.tls_certfile else "http"

    def opened() -> None:
        extensions.opened()
        print(greeting(rules, given.listen, scheme), flush=True)
        if given.browser:
            key = f"?token={rules.token}" if rules.token else ""
            threading.Thread(
                target=webbrowser.open, args=(f"{scheme}://{HOME}:{rules.port}/{key}",), daemon=True
            ).start()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=3,
        ws_max_size=2**16,
        server_header=False,
        ssl_keyfile=given.tls_keyfile,
        ssl_certfile=given.tls_certfile,
    )
    try:
        Server(config, opened).run(sockets=[taken])
    finally:
        engine.close()


if __name__ == "__main__":
    main()
