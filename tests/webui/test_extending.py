"""Extensions on a server: who may change them, their routes and files, and how they come."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fastapi.testclient import TestClient

from core.extend.house import Extensions
from core.registry import built_in
from core.settings import default_settings
from tests.core.extend.test_house import STEP, write
from tests.core.extend.test_install import zipped
from tests.webui.fake_engine import FakeEngine
from webui import hookspecs
from webui.app import create_app
from webui.extending import Rights
from webui.gate import Rules

HOST = "http://127.0.0.1:7860"
GIT = shutil.which("git") or ""
ROUTED = """
    from core.extend import hookimpl
    from webui.hookspecs import Files

    @hookimpl
    def routes(place, engine):
        from fastapi import APIRouter
        from core.errors import RequestError
        router = APIRouter()
        @router.get("/hello")
        def hello(): return {"samplers": len(engine.registry.samplers)}
        @router.get("/wrong")
        def wrong(): raise RequestError("that is wrong", "x")
        @router.get("/broken")
        def broken(): 1 / 0
        return [router]

    @hookimpl
    def static():
        return [Files(scripts=("a.js",), styles=("a.css",))]
"""


class House:
    """A server with extensions, and a client that is the machine's own user."""

    def __init__(self, root: Path, **rights: Any) -> None:
        self.settings = default_settings(root)
        self.mine = root / "shipped"
        folders = [(self.mine, True), (self.settings.data_dir / "extensions", False)]
        self.extensions = Extensions(
            built_in(),
            folders,
            self.settings.data_dir,
            self.settings.outputs_dir,
            (hookspecs,),
            packages=False,
            seconds=2.0,
        )
        self.engine = FakeEngine(0.0)
        self.engine.registry = self.extensions.registry
        self.extensions.listen(self.adopt)
        rules = Rules(port=7860)
        self.app = create_app(self.engine, self.settings, rules, self.extensions, Rights(**rights))
        self.client = TestClient(self.app, HOST, client=("127.0.0.1", 50000))
        self.token = self.client.get("/api/extensions").json()["token"]

    def adopt(self, registry: Any) -> None:
        self.engine.registry = registry

    def post(self, what: str, token: str | None = None, **values: Any) -> Any:
        headers = {"x-vitrine-token": self.token if token is None else token}
        return self.client.post(f"/api/extensions/{what}", json=values, headers=headers)

    def state(self, name: str) -> str:
        told = self.client.get("/api/extensions").json()["extensions"]
        return next((one["state"] for one in told if one["name"] == name), "not there")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = write(tmp_path / "shipped", "routed", ROUTED)
    (place / "static").mkdir()
    (place / "static" / "a.js").write_text("export {};")
    (place / "static" / "a.css").write_text("a {}")
    (place / "static" / "a.py").write_text("secret")
    write(tmp_path / "shipped", "broken", "raise ValueError('<script>no</script>')")
    return tmp_path


@pytest.fixture
def house(folder: Path) -> Iterator[House]:
    made = House(folder)
    yield made
    made.engine.close()


def test_routes_and_files_of_an_extension_are_its_own(house: House) -> None:
    client = house.client
    assert client.get("/ext/routed/hello").json()["samplers"] == len(built_in().samplers)
    wrong = client.get("/ext/routed/wrong")
    assert (wrong.status_code, wrong.json()) == (422, {"error": "that is wrong", "field": "x"})
    assert (
        client.get("/ext/routed/static/a.js").headers["content-type"].startswith("text/javascript")
    )
    for path in ("static/a.py", "static/../extension.py", "static/%2e%2e/extension.py", "nothing"):
        assert client.get(f"/ext/routed/{path}").status_code == 404, path
    assert client.get("/ext/nobody/hello").status_code == 404
    script = client.get("/ext/-/all.js").text
    assert '"/ext/routed/static/a.js"' in script and '"/ext/routed/static/a.css"' in script


def test_one_that_fails_in_a_route_is_named_and_the_server_goes_on(house: House) -> None:
    broken = house.client.get("/ext/routed/broken")
    assert broken.status_code == 500 and "ZeroDivisionError" not in broken.text
    (told,) = (
        one
        for one in house.client.get("/api/extensions").json()["extensions"]
        if one["name"] == "routed"
    )
    assert told["errors"] == 1 and "ZeroDivisionError" in told["sentences"][0]
    assert house.client.get("/ext/routed/hello").status_code == 200


def test_extensions_stand_behind_the_gate(house: House) -> None:
    for headers in ({"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert house.client.get("/ext/routed/hello", headers=headers).status_code in (403, 421)
    assert house.post("switch", name="routed", do="disable").status_code == 200
    assert house.client.get("/ext/routed/hello").status_code == 404, "none of its code runs"
    assert "routed" not in house.client.get("/ext/-/all.js").text
    assert house.post("switch", name="routed", do="enable").status_code == 200
    assert house.client.get("/ext/routed/hello").status_code == 200


def test_only_this_page_may_change_anything(house: House) -> None:
    for what in ("switch", "order", "look", "look-into", "install", "roll-back", "remove", "index"):
        refused = house.post(what, token="", name="routed", do="disable", names=[])
        assert refused.status_code == 403, what
    assert house.state("routed") == "on"
    for values in ({}, {"name": 3, "do": "enable"}, {"name": "routed", "do": "explode"}):
        assert house.post("switch", **values).status_code == 422
    assert house.post("switch", name="nobody", do="enable").status_code == 422


def test_others_than_the_machines_own_user_may_only_look(folder: Path) -> None:
    house = House(folder)
    try:
        other = TestClient(house.app, HOST, client=("192.168.1.7", 50000))
        told = other.get("/api/extensions").json()
        assert told["may_change"] is False and told["token"] == ""
        headers = {"x-vitrine-token": house.token}
        changed = other.post(
            "/api/extensions/switch", json={"name": "routed", "do": "disable"}, headers=headers
        )
        assert changed.status_code == 403 and house.state("routed") == "on"
    finally:
        house.engine.close()


def test_a_zip_is_looked_at_installed_used_and_removed(house: House) -> None:
    data = zipped({"extension.py": dedent(STEP.replace("{name}", "louder"))}, "louder-main/")
    headers = {"x-vitrine-token": house.token}
    answer = house.client.post(
        "/api/extensions/look-into?name=louder-main.zip", content=data, headers=headers
    )
    shown = answer.json()
    assert answer.status_code == 200 and shown["problems"] == [] and shown["name"] == "louder"
    assert house.state("louder") == "not there"
    done = house.post("install", id=shown["id"], enable=True).json()
    assert done["state"] == "on"
    assert "louder" in house.engine.registry.request_steps, "without a restart"
    house.post("switch", name="louder", do="disable")
    assert "louder" not in house.engine.registry.request_steps
    assert house.post("remove", name="louder").status_code == 200
    assert house.state("louder") == "not there"
    assert house.post("remove", name="routed").status_code == 422, "what ships stays"


def test_the_queue_goes_on_while_one_is_read_anew(house: House, folder: Path) -> None:
    from core.request import GenerationRequest

    write(folder / "shipped", "slowly", STEP)
    house.post("switch", name="slowly", do="enable")
    jobs = [house.engine.submit(GenerationRequest(prompt="a fox", steps=4)) for _ in range(3)]
    write(folder / "shipped", "slowly", STEP.replace('"!"', '"?"'))
    assert house.post("switch", name="slowly", do="reload").status_code == 200
    write(folder / "shipped", "slowly", "raise ValueError")
    broken = house.post("switch", name="slowly", do="reload")
    assert broken.status_code == 409 and "slowly" in broken.json()["error"]
    assert all(job.wait(20) and job.error is None for job in jobs)


class Backend(http.server.BaseHTTPRequestHandler):
    """`git http-backend`, as a web server would run it."""

    root: Path

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.endswith("/archive/HEAD.zip") and "/-/" not in path:  # as Gitea has it
            self.zipped(self.root / f"{path.split('/')[1]}.git")
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type") or "",
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding") or "",
            "GIT_PROTOCOL": self.headers.get("git-protocol") or "",
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(
            [GIT, "http-backend"], input=body, env=environment, capture_output=True
        )
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)

    def zipped(self, bare: Path) -> None:
        words = [GIT, "-C", str(bare), "archive", "--format=zip", "--prefix=shouting/", "HEAD"]
        done = subprocess.run(words, capture_output=True, check=True)
        self.send_response(200)
        self.send_header("content-length", str(len(done.stdout)))
        self.end_headers()
        self.wfile.write(done.stdout)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


class Repository:
    """A bare repository over loopback https, and the work that is pushed to it."""

    def __init__(self, folder: Path) -> None:
        self.work, self.bare = folder / "work", folder / "shouting.git"
        self.git("init", "-q", "-b", "main", str(self.work), at=folder)
        self.git("clone", "-q", "--bare", str(self.work), str(self.bare), at=folder)

    def git(self, *words: str, at: Path | None = None) -> str:
        command = [GIT, "-c", "user.name=x", "-c", "user.email=x@x", *words]
        return subprocess.run(
            command, cwd=at or self.work, check=True, capture_output=True, text=True
        ).stdout

    def push(self, **files: str) -> str:
        for name, text in files.items():
            (self.work / name.replace("__", ".")).write_text(text)
        return self.pushed()

    def pushed(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")
        self.git("push", "-q", str(self.bare), "main")
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def served(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Repository, str]]:
    if not GIT or shutil.which("openssl") is None:
        pytest.skip("needs git and openssl")
    folder = tmp_path_factory.mktemp("git")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    handler = type("Here", (Backend,), {"root": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Repository(folder), f"https://127.0.0.1:{server.server_port}/shouting.git"
    server.shutdown()
    thread.join(5)


def test_a_repository_is_installed_updated_and_rolled_back(
    folder: Path, served: tuple[Repository, str]
) -> None:
    repository, url = served
    source = dedent(STEP.replace("{name}", "shouting"))
    first = repository.push(extension__py=source)
    stranger = House(folder)
    stranger.engine.close()
    assert "--extension-host" in stranger.post("look", url=url).json()["error"]

    house = House(folder, hosts=frozenset({"127.0.0.1"}))
    try:
        shown = house.post("look", url=url).json()
        assert shown["pin"]["commit"] == first and shown["name"] == "shouting"
        assert not shown["problems"] and [path for path, _ in shown["files"]] == ["extension.py"]
        assert house.post("install", id=shown["id"], enable=True).json()["state"] == "on"
        second = repository.push(extension__py=source.replace('"!"', '"?"'))
        newer = house.post("look", url=url).json()
        assert newer["pin"]["commit"] == second and newer["replaces"]["commit"] == first
        assert "+    return replace(" in newer["diff"] and '"?"' in newer["diff"]
        house.post("install", id=newer["id"], enable=True)
        assert house.post("roll-back", name="shouting").json()["state"] == "on"
        pins = {
            one["name"]: one["pin"]
            for one in house.client.get("/api/extensions").json()["extensions"]
        }
        assert pins["shouting"]["commit"] == first
    finally:
        house.engine.close()


def test_a_repository_with_a_link_is_refused_and_its_hooks_never_run(
    folder: Path, served: tuple[Repository, str]
) -> None:
    repository, url = served
    (repository.bare / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch /tmp/vitrine-evil\n")
    (repository.work / "extension.py").symlink_to("/etc/passwd")
    repository.pushed()
    house = House(folder, hosts=frozenset({"127.0.0.1"}))
    try:
        began = time.monotonic()
        refused = house.post("look", url=url)
        assert refused.status_code == 409 and "a link" in refused.json()["error"]
        assert time.monotonic() - began < 30
        assert not Path("/tmp/vitrine-evil").exists()
        assert not any((house.settings.data_dir / "extensions-staging").iterdir())
    finally:
        house.engine.close()


def test_without_git_the_archive_of_its_host_is_taken_and_said(
    folder: Path, served: tuple[Repository, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, url = served
    commit = repository.push(extension__py=dedent(STEP.replace("{name}", "shouting")))
    house = House(folder, hosts=frozenset({"127.0.0.1"}))
    monkeypatch.setenv("PATH", "")
    try:
        shown = house.post("look", url=url).json()
        assert shown["pin"]["commit"] == commit and "no git" in shown["note"]
        assert [path for path, _ in shown["files"]] == ["extension.py"]
        assert house.post("install", id=shown["id"], enable=True).json()["state"] == "on"
        missing = house.post("look", url=url.replace("shouting", "nobody"))
        assert missing.status_code == 409 and "no git on this machine" in missing.json()["error"]
    finally:
        house.engine.close()
