"""Downloads from a server on this machine: resumed, checked, kept to the hosts that are allowed."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from core.engine.answers import exhausted
from core.errors import FileError, RequestError
from core.events import Loading
from core.models.download import Item, Wanted, downloaded, items_of
from core.models.fetch import Web, fetched, is_allowed, settled
from core.settings import Settings

LORA = save({"lora_unet_x.lora_down.weight": torch.ones(300, 300)})


@dataclass
class Server:
    """What it answers, by path, and what it was asked."""

    url: str = ""
    pages: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    breaks_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers are cut off."""
    ranges: bool = True
    html: bool = False
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Path, range and authorization."""

    def web(self, token: str | None = None) -> Web:
        tokens = {} if token is None else {"127.0.0.1": token}
        return Web(lambda url: url.startswith(self.url + "/"), tokens, pause=0)


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urllib.parse.urlsplit(self.path).path
            wanted = self.headers.get("Range")
            server.asked.append((self.path, wanted, self.headers.get("Authorization")))
            if path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[path])
                self.end_headers()
            elif path in server.pages:
                self.answer(json.dumps(server.pages[path]).encode(), 0, "application/json")
            elif path in server.files:
                content = server.files[path]
                mark = hashlib.md5(content).hexdigest()
                same = self.headers.get("If-Range") == f'"{mark}"'
                start = int(wanted[6:-1]) if wanted and same and server.ranges else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                kind = "text/html" if server.html else "application/octet-stream"
                self.answer(content, start, kind, mark)
            else:
                self.send_error(404)

        def answer(self, content: bytes, start: int, kind: str, mark: str = "") -> None:
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                whole = len(content)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            if mark:
                self.send_header("ETag", f'"{mark}"')
            self.end_headers()
            cut = server.breaks_after.pop(0) if mark and server.breaks_after else len(content)
            self.wfile.write(content[start : start + cut])

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    said = Server()
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(said))
    said.url = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield said
    running.shutdown()
    running.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def offers(server: Server, repository: str = "someone/styles", **files: bytes) -> None:
    """A repository at the hub; `__` in a name is a slash, and a dot comes before its last part."""
    named = {name.replace("__", "/"): content for name, content in files.items()}
    server.pages[f"/api/models/{repository}/revision/main"] = {
        "sha": "c0ffee",
        "siblings": [
            {
                "rfilename": name,
                "size": len(content),
                "lfs": {"sha256": sha256(content), "size": len(content)},
            }
            for name, content in named.items()
        ],
    }
    for name, content in named.items():
        server.files[f"/{repository}/resolve/c0ffee/{name}"] = content


def fetch(server: Server, settings: Settings, source: str, **wanted: Any) -> list[Path]:
    asked = Wanted(source, **wanted)
    return exhausted(downloaded(asked, settings, server.web(), server.url, server.url))


# one file


def test_a_file_arrives_whole_and_its_hash_is_told(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA
    part = tmp_path / "x.safetensors"
    steps = fetched(f"{server.url}/x.safetensors", part, server.web())
    events: list[Loading] = []
    digest = drained(steps, events)
    assert digest == sha256(LORA)
    assert part.read_bytes() == LORA
    assert [e.done for e in events if e.part == part.name][-1] == len(LORA)


def drained(steps: Generator[Loading, None, str], events: list[Loading]) -> str:
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return str(end.value)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_again(
    ranges: bool, server: Server, tmp_path: Path
) -> None:
    server.files["/x.safetensors"] = LORA
    server.breaks_after, server.ranges = [100_000, 50_000], ranges
    part = tmp_path / "x.safetensors"
    digest = exhausted(fetched(f"{server.url}/x.safetensors", part, server.web(), len(LORA)))
    assert digest == sha256(LORA)
    assert [asked[1] is not None for asked in server.asked] == [False, True, True]


def test_what_was_stopped_goes_on_from_there(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA * 30
    part = tmp_path / "x.safetensors"
    first = fetched(f"{server.url}/x.safetensors", part, server.web())
    next(first)
    first.close()
    have = part.stat().st_size
    assert 0 < have < len(LORA) * 30
    assert exhausted(fetched(f"{server.url}/x.safetensors", part, server.web())) == sha256(
        LORA * 30
    )
    assert server.asked[-1][1] == f"bytes={have}-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA * 30
    part = tmp_path / "x.safetensors"
    first = fetched(f"{server.url}/x.safetensors", part, server.web())
    next(first)
    first.close()
    other = bytes(reversed(LORA * 30))
    server.files["/x.safetensors"] = other
    assert exhausted(fetched(f"{server.url}/x.safetensors", part, server.web())) == sha256(other)


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA
    part = tmp_path / "x.safetensors"
    part.write_bytes(LORA + b"more")
    mark = hashlib.md5(LORA).hexdigest()
    part.with_name("x.safetensors.etag").write_text(f'"{mark}"')
    assert exhausted(fetched(f"{server.url}/x.safetensors", part, server.web())) == sha256(LORA)


def test_a_server_that_keeps_breaking_off_is_given_up(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA
    server.breaks_after = [0] * 20
    with pytest.raises(FileError, match="broke off"):
        exhausted(fetched(f"{server.url}/x.safetensors", tmp_path / "x", server.web()))
    assert len(server.asked) < 20


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA
    part = tmp_path / "x.safetensors"
    with pytest.raises(FileError, match="arrived damaged"):
        exhausted(fetched(f"{server.url}/x.safetensors", part, server.web(), None, "ab" * 32))
    assert not list(tmp_path.iterdir())


def test_a_wrong_size_is_refused_before_anything_comes(server: Server, tmp_path: Path) -> None:
    server.files["/x.safetensors"] = LORA
    part = tmp_path / "x.safetensors"
    with pytest.raises(FileError, match="were promised"):
        exhausted(fetched(f"{server.url}/x.safetensors", part, server.web(), 12))
    assert not part.exists()


@pytest.mark.parametrize(
    ("content", "html", "hint"),
    [
        (b"anything", True, "is a page"),
        (b"<!DOCTYPE html><html>please log in</html>", False, "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", False, "git-lfs pointer"),
    ],
)
def test_a_page_is_no_file(
    content: bytes, html: bool, hint: str, server: Server, tmp_path: Path
) -> None:
    server.files["/x.safetensors"], server.html = content, html
    with pytest.raises(FileError, match=hint):
        exhausted(fetched(f"{server.url}/x.safetensors", tmp_path / "x", server.web()))


# hosts


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://huggingface.co/a/b/resolve/main/x.safetensors", True),
        ("https://cas-bridge.xethub.hf.co/x", True),
        ("https://civitai.com/api/download/models/1", True),
        ("https://b2.civitai.com/file/x", True),
        ("http://huggingface.co/a", False),
        ("https://huggingface.co:8443/a", False),
        ("https://huggingface.co.evil.net/a", False),
        ("https://evilhuggingface.co/a", False),
        ("https://user:word@huggingface.co/a", False),
        ("https://huggingface.co@evil.net/a", False),
        ("https://169.254.169.254/latest", False),
        ("https://other.r2.cloudflarestorage.com/a", False),
        ("file:///etc/passwd", False),
        ("https://[", False),
    ],
)
def test_only_the_listed_hosts_are_asked(url: str, allowed: bool) -> None:
    assert is_allowed(url) is allowed


def test_a_redirect_to_a_foreign_host_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirects["/x.safetensors"] = "https://evil.net/x.safetensors"
    with pytest.raises(RequestError, match=r"evil\.net is not asked"):
        exhausted(fetched(f"{server.url}/x.safetensors", tmp_path / "x", server.web()))


def test_redirects_in_a_circle_end(server: Server, tmp_path: Path) -> None:
    server.redirects["/x"] = "/x"
    with pytest.raises(FileError, match="without end"):
        exhausted(fetched(f"{server.url}/x", tmp_path / "x", server.web()))


def test_a_token_goes_to_its_own_host_alone(server: Server, tmp_path: Path) -> None:
    server.redirects["/x.safetensors"] = server.url.replace("127.0.0.1", "localhost") + "/y"
    server.files["/y"] = LORA
    web = replace(server.web("secret"), allows=lambda url: True)
    exhausted(fetched(f"{server.url}/x.safetensors", tmp_path / "x", web))
    assert [asked[2] for asked in server.asked] == ["Bearer secret", None]


# into its folder


def test_a_file_goes_to_the_folder_of_its_kind(server: Server, settings: Settings) -> None:
    offers(server, **{"ink.safetensors": LORA, "readme.md": b"words"})
    (path,) = fetch(server, settings, "someone/styles")
    assert path == settings.models_dir / "Lora/ink.safetensors"
    assert path.read_bytes() == LORA
    assert not list((settings.models_dir / ".downloads").rglob("*.safetensors"))


def test_nothing_is_ever_written_over(server: Server, settings: Settings) -> None:
    there = settings.models_dir / "Lora/ink.safetensors"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")
    offers(server, **{"ink.safetensors": LORA})
    with pytest.raises(FileError, match="is there already"):
        fetch(server, settings, "someone/styles")
    assert there.read_bytes() == b"mine"
    other = settings.models_dir / "part"
    other.write_bytes(b"new")
    with pytest.raises(FileError, match="is there already"):
        settled(other, there)
    assert there.read_bytes() == b"mine"


def test_several_files_are_named_to_choose_from(server: Server, settings: Settings) -> None:
    offers(server, **{"a.safetensors": LORA, "b.safetensors": LORA, "words.txt": b"x"})
    with pytest.raises(RequestError, match=r"--file: a\.safetensors, b\.safetensors$"):
        fetch(server, settings, "someone/styles")
    with pytest.raises(RequestError, match=r"no file 'c\.safetensors'"):
        fetch(server, settings, "someone/styles", file="c.safetensors")
    (path,) = fetch(server, settings, "someone/styles", file="b.safetensors")
    assert path.name == "b.safetensors"


def test_a_name_that_all_repositories_use_becomes_the_repositorys(
    server: Server, settings: Settings
) -> None:
    offers(server, **{"pytorch_lora_weights.safetensors": LORA})
    (path,) = fetch(server, settings, "someone/styles")
    assert path.name == "styles.safetensors"


def test_a_diffusers_repository_becomes_a_folder_and_goes_on(
    server: Server, settings: Settings
) -> None:
    parts = {
        "model_index.json": b"{}",
        "unet__config.json": b"{}",
        "unet__diffusion_pytorch_model.safetensors": save({"conv_in.weight": torch.ones(2)}),
        "unet__diffusion_pytorch_model.fp16.safetensors": b"not wanted",
        "vae__diffusion_pytorch_model.safetensors": save({"a": torch.ones(2)}),
        "text_encoder__model.safetensors": save({"a": torch.ones(2)}),
        "tokenizer__vocab.json": b"{}",
    }
    offers(server, **parts)
    gone = server.files.pop("/someone/styles/resolve/c0ffee/text_encoder/model.safetensors")
    with pytest.raises(FileError, match="has nothing at"):
        fetch(server, settings, "someone/styles")
    folder = settings.models_dir / "Stable-diffusion/styles"
    assert not (folder / "model_index.json").exists()
    server.files["/someone/styles/resolve/c0ffee/text_encoder/model.safetensors"] = gone
    fetch(server, settings, "someone/styles")
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert found == [
        "model_index.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert sum("vae/" in asked[0] for asked in server.asked) == 1


def test_an_address_of_a_file_at_the_hub_finds_its_hash(server: Server) -> None:
    offers(server, **{"sub__ink.safetensors": LORA})
    address = f"{server.url}/someone/styles/blob/main/sub/ink.safetensors?download=true"
    (item,) = items_of(Wanted(address), server.web(), server.url, "https://civitai.com")
    assert item == Item(
        f"{server.url}/someone/styles/resolve/c0ffee/sub/ink.safetensors",
        "ink.safetensors",
        len(LORA),
        sha256(LORA),
    )


def test_civitais_versions_tell_kind_and_hash(server: Server, settings: Settings) -> None:
    file = {
        "name": "ink.safetensors",
        "primary": True,
        "hashes": {"SHA256": sha256(LORA).upper()},
        "downloadUrl": f"{server.url}/api/download/models/7",
    }
    server.pages["/api/v1/models/3"] = {"type": "LORA", "modelVersions": [{"files": [file]}]}
    server.pages["/api/v1/model-versions/7"] = {"model": {"type": "LORA"}, "files": [file]}
    server.files["/api/download/models/7"] = LORA
    elsewhere = "https://huggingface.co"
    for address in (f"{server.url}/models/3/ink", f"{server.url}/models/3?modelVersionId=7"):
        (item,) = items_of(Wanted(address), server.web(), elsewhere, server.url)
        assert (item.name, item.kind) == ("ink.safetensors", "LoRA")
        assert item.sha256 == sha256(LORA).upper()
    wanted = Wanted(f"{server.url}/api/download/models/7")
    (path,) = exhausted(downloaded(wanted, settings, server.web(), elsewhere, server.url))
    assert path == settings.models_dir / "Lora/ink.safetensors"


def test_a_file_that_does_not_say_what_it_is_waits_for_a_word(
    server: Server, settings: Settings
) -> None:
    content = save({f"thing{n}": torch.ones(2, 2, 2) for n in range(5)})
    offers(server, **{"odd.safetensors": content})
    with pytest.raises(FileError, match="--to checkpoint, vae, lora"):
        fetch(server, settings, "someone/styles")
    asked = len(server.asked)
    from core.models.kinds import Kind

    (path,) = fetch(server, settings, "someone/styles", kind=Kind.UPSCALER)
    assert path == settings.models_dir / "ESRGAN/odd.safetensors"
    assert len(server.asked) == asked + 1  # the list of files alone


def test_a_cut_off_model_is_not_put_among_the_others(server: Server, settings: Settings) -> None:
    server.files["/x.safetensors"] = LORA[:-100]
    web = server.web()
    wanted = Wanted(f"{server.url}/x.safetensors")
    with pytest.raises(FileError, match="cut off"):
        exhausted(downloaded(wanted, settings, web, "https://a", "https://b"))
    assert not list(settings.models_dir.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "name",
    ["../../evil.safetensors", ".hidden.safetensors", "a\nb.safetensors", "run.sh", "a/b.exe"],
)
def test_names_of_servers_stay_in_their_folder(name: str, server: Server) -> None:
    file = {"name": name, "primary": True, "downloadUrl": f"{server.url}/x"}
    server.pages["/api/v1/models/3"] = {"type": "LORA", "modelVersions": [{"files": [file]}]}
    with pytest.raises(RequestError, match=r"name of a file|no model file"):
        items_of(Wanted(f"{server.url}/models/3"), server.web(), "https://a", server.url)


@pytest.mark.parametrize("source", ["just-a-word", "a/b/c", "ftp://x/y.safetensors", ""])
def test_what_is_no_source_is_named(source: str, server: Server) -> None:
    with pytest.raises(RequestError, match="no repository"):
        items_of(Wanted(source), server.web())
