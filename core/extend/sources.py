"""Fetches an extension's files from a git address or a zip, and runs nothing of them.

What comes is checked before anybody sees it: sizes, names, no links, nothing outside its folder.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from core.errors import ExtensionError

MOST_BYTES = 200 * 2**20
"""Of all files of an extension."""
MOST_FILES = 5_000
SECONDS = 180.0
"""How long a download may take."""
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

GIT = (
    *("-c", "protocol.allow=never"),
    *("-c", "protocol.https.allow=always"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.symlinks=false"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "http.followRedirects=false"),
    *("-c", "credential.helper="),
    *("-c", "filter.lfs.smudge="),
    *("-c", "filter.lfs.required=false"),
)
"""What every call of git is told: no hooks, no filters, no links, no way but https."""


def checked_url(url: str, hosts: Collection[str] = ()) -> tuple[str, str]:
    """The address, and the number that its host had when it was looked up.

    Args:
        hosts: names of one's own servers, with or without a port, that may be private.

    Raises:
        ExtensionError: it is not one that is asked.
    """
    if not url.isascii() or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise ExtensionError("an address has no spaces and no control characters")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ExtensionError(f"an extension's address begins with https://, not {url[:40]!r}")
    if parts.username or parts.password:
        raise ExtensionError("an address may not hold a name or a password")
    try:
        port = parts.port or 443
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise ExtensionError(f"{parts.hostname} can't be found: {error}") from error
    numbers = [str(entry[4][0]) for entry in found]
    own = {parts.hostname, f"{parts.hostname}:{port}"} & set(hosts)
    for number in numbers:
        if not own and not ipaddress.ip_address(number.partition("%")[0]).is_global:
            raise ExtensionError(
                f"{parts.hostname} is a private address; --extension-host allows one at the start"
            )
    return url, numbers[0]


def fetched(url: str, into: Path, hosts: Collection[str] = ()) -> str:
    """Fetches the newest files of a repository into a new folder; returns their commit.

    Raises:
        ExtensionError: the address, the server or the files are not what they should be.
    """
    url, number = checked_url(url, hosts)
    if not has_git():
        return unpacked(_archived(url), into)
    parts = urlsplit(url)
    pinned = f"http.curloptResolve={parts.hostname}:{parts.port or 443}:{number}"
    options = ["--depth=1", "--no-tags", "--single-branch", "--no-recurse-submodules"]
    words = ["-c", pinned, "clone", "--quiet", "--template=", *options, "--", url, str(into)]
    _git(words, into)
    commit = _git(["-C", str(into), "rev-parse", "HEAD"], into).strip()
    for line in _git(["-C", str(into), "ls-files", "-s", "-z"], into).split("\0"):
        mode, _, name = line.partition(" ")[0], "", line.partition("\t")[2]
        if mode == "120000":
            raise ExtensionError(f"it holds a link, {name[:80]!r}; an extension may have none")
    shutil.rmtree(into / ".git")
    check_tree(into)
    return commit


def unpacked(data: bytes, into: Path) -> str:
    """Unpacks a zip into a new folder; returns the commit that its maker noted, or "".

    Raises:
        ExtensionError: it is no zip, too large, or would write where it may not.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MOST_FILES:
                raise ExtensionError(f"it holds more than {MOST_FILES:,} files")
            names = [_inner_name(entry) for entry in entries]
            top = _common_top(names)
            left = MOST_BYTES
            for entry, name in zip(entries, names, strict=True):
                target = into.joinpath(*name.parts[len(top) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source:
                    content = source.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise ExtensionError(f"it is larger than {MOST_BYTES // 2**20} MB")
                target.write_bytes(content)
            comment = archive.comment.decode("ascii", "replace").strip()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise ExtensionError(f"that is no zip that can be read: {error}") from error
    check_tree(into)
    return comment if COMMIT.fullmatch(comment) else ""


def check_tree(folder: Path) -> None:
    """Raises ExtensionError for links, things that are no files, and too much of anything."""
    size = count = 0
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise ExtensionError(f"{name[:80]!r} in it is a link or no file at all")
            size += path.lstat().st_size if stat.S_ISREG(mode) else 0
            count += 1
    if size > MOST_BYTES or count > MOST_FILES:
        raise ExtensionError(
            f"it holds {count:,} files of {size / 2**20:.0f} MB; at most {MOST_FILES:,} files "
            f"and {MOST_BYTES // 2**20} MB fit"
        )


def _inner_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The name of a file in a zip, which lies inside."""
    raw = entry.filename
    name = PurePosixPath(raw)
    is_outside = name.is_absolute() or ".." in name.parts or not name.parts
    if is_outside or "\\" in raw or ":" in raw or any(ord(letter) < 32 for letter in raw):
        raise ExtensionError(f"it would write outside its folder: {raw[:80]!r}")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ExtensionError(f"it holds a link, {raw[:80]!r}; an extension may have none")
    return name


def _common_top(names: Sequence[PurePosixPath]) -> tuple[str, ...]:
    """The one folder that everything lies in, as in archives of git hosts."""
    tops = {name.parts[0] for name in names}
    return (tops.pop(),) if len(tops) == 1 and all(len(n.parts) > 1 for n in names) else ()


def _git(words: Sequence[str], into: Path) -> str:
    """What git says. Raises ExtensionError where it fails, takes too long or fetches too much."""
    keep = ("PATH", "HOME", "SYSTEMROOT", "TEMP", "TMP", "GIT_SSL_CAINFO", "SSL_CERT_FILE")
    proxies = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
    environment = {name: os.environ[name] for name in (*keep, *proxies) if name in os.environ}
    environment |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ALLOW_PROTOCOL": "https",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ASKPASS": "",
        "LC_ALL": "C",
    }
    process = subprocess.Popen(
        ["git", *GIT, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    ends = time.monotonic() + SECONDS
    while True:
        try:
            out, said = process.communicate(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            size = _size(into)
            if time.monotonic() > ends or size > 2 * MOST_BYTES:
                _end(process)
                what = f"it is larger than {MOST_BYTES // 2**20} MB"
                if size <= 2 * MOST_BYTES:
                    what = f"it took more than {SECONDS:.0f} s"
                raise ExtensionError(f"the download was given up: {what}") from None
    if process.returncode:
        last = said.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise ExtensionError(f"it can't be fetched: {last[-1][:300]}")
    return out.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """git and what it started."""
    if os.name == "nt":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def has_git() -> bool:
    return shutil.which("git") is not None


def archives(url: str) -> tuple[str, ...]:
    """Where hosts of repositories offer the newest files as a zip: GitHub, else as GitLab does,
    else as Gitea and Forgejo do."""
    parts = urlsplit(url)
    path = parts.path.strip("/").removesuffix(".git")
    if not re.fullmatch(r"[\w.~-]+(?:/[\w.~-]+)*", path):
        return ()
    if parts.hostname == "github.com":
        return (f"https://codeload.github.com/{path}/zip/HEAD",)
    whole = f"https://{parts.netloc}/{path}"
    return (f"{whole}/-/archive/HEAD/extension.zip", f"{whole}/archive/HEAD.zip")


def _archived(url: str) -> bytes:
    """The zip that the host of a repository offers, for machines without git."""
    said = ""
    for place in archives(url):
        try:
            return _downloaded(place)
        except ExtensionError as error:
            said = f" ({error})"
    raise ExtensionError(
        "there is no git on this machine, and no archive at that address; "
        f"install git, or give a zip{said}"
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def _downloaded(url: str, most: int = MOST_BYTES) -> bytes:
    """The bytes at an address. Raises ExtensionError."""
    opener = urllib.request.build_opener(
        _NoRedirects, urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    try:
        with opener.open(url, timeout=30) as answer:
            data: bytes = answer.read(most + 1)
    except (OSError, urllib.error.URLError) as error:
        raise ExtensionError(f"{url} can't be fetched: {error}") from error
    if len(data) > most:
        raise ExtensionError(f"{url} is larger than {most // 2**20} MB")
    return data


def downloaded(url: str, hosts: Collection[str], most: int) -> bytes:
    """The bytes at an address that was checked. Raises ExtensionError."""
    return _downloaded(checked_url(url, hosts)[0], most)
