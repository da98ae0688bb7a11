"""One file from the network to the disk: allowed hosts only, resumed, checked, never over another.

Knows no models: what to fetch and where to put it is `download`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from core.errors import FileError, RequestError
from core.events import Loading
from core.models.files import NO_MODELS, other_kind, shown_bytes

HOSTS = (
    "huggingface.co",
    "hf.co",
    "civitai.com",
    # where civitai keeps its files: the bucket of its own account, and no other
    "5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com",
)
"""Only these and the names below them are asked, over https, redirections included."""
REDIRECTIONS = 6
TIMEOUT = 30.0
"""Seconds without an answer."""
ATTEMPTS = 6
"""So often a broken connection is taken up again, where the last attempt brought nothing new."""
CHUNK = 2**20
MAX_JSON = 32 * 2**20
SPARE = 256 * 2**20
"""Bytes of disk that are left free."""


def is_allowed(url: str) -> bool:
    """Whether an address may be asked: https, at one of the hosts, without a login in it."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        plain = parts.scheme == "https" and parts.port in (None, 443) and not parts.username
    except ValueError:
        return False
    return plain and any(host == one or host.endswith("." + one) for one in HOSTS)


@dataclass(frozen=True)
class Web:
    """How the network is asked."""

    allows: Callable[[str], bool] = is_allowed
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Host → what is sent to it, and to no other, as a Bearer token."""
    pause: float = 1.0
    """Seconds before the first new attempt; each further pause is twice as long."""

    def opened(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """The answer to a GET; redirections are followed to allowed hosts only.

        Raises:
            RequestError: a host that is not allowed; names it.
            FileError: the server refuses, or can't be reached.
        """
        opener = urllib.request.build_opener(_NoRedirection)
        for _ in range(REDIRECTIONS):
            self._check(url)
            request = urllib.request.Request(url, headers=self._headers(url, headers or {}))
            try:
                answer = opener.open(request, timeout=TIMEOUT)
            except urllib.error.HTTPError as error:
                error.close()
                place = error.headers.get("Location")
                if error.code not in (301, 302, 303, 307, 308) or not place:
                    raise _Refused(url, error.code) from error
                url = urllib.parse.urljoin(url, place)
                continue
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"{_host(url)} can't be reached: {_reason(error)}") from error
            assert isinstance(answer, http.client.HTTPResponse)
            return answer
        raise FileError(f"{_host(url)} sends from one address to the next without end")

    def table(self, url: str) -> Any:
        """A JSON answer.

        Raises:
            RequestError, FileError: as `opened`; FileError also for what is no JSON.
        """
        with self.opened(url, {"Accept": "application/json"}) as answer:
            text = answer.read(MAX_JSON + 1)
        try:
            if len(text) > MAX_JSON:
                raise ValueError("it is too long")
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FileError(f"{_host(url)} gave an answer that can't be read: {error}") from error

    def _check(self, url: str) -> None:
        if not self.allows(url):
            host = _host(url) or url[:60]
            raise RequestError(
                f"{host} is not asked for models: only {', '.join(HOSTS[:3])} are, over https"
            )

    def _headers(self, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        token = self.tokens.get(_host(url))
        sent = {"User-Agent": "vitrine", "Accept-Encoding": "identity", **headers}
        return sent | ({"Authorization": f"Bearer {token}"} if token else {})


class _Broken(FileError):
    """The connection failed; another attempt may succeed."""


class _Refused(FileError):
    """The server said no."""

    def __init__(self, url: str, code: int) -> None:
        super().__init__(_refused(url, code))
        self.code = code


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Leaves redirections to `Web`, which looks at each host."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def fetched(
    url: str,
    part: Path,
    web: Web,
    size: int | None = None,
    sha256: str | None = None,
) -> Generator[Loading, None, str]:
    """Fetches a file to `part`, going on where an earlier attempt stopped; returns its SHA-256.

    Closing the generator leaves what has come, for the next time.

    Args:
        size, sha256: what the file must have, where that is known.

    Raises:
        RequestError: a host that is not allowed.
        FileError: refused, no file, cut off, or not what was promised: then nothing is left of it.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _bytes_of(part)
        try:
            total = yield from _rest(url, part, web, size)
            break
        except _Broken as error:
            failures = failures + 1 if _bytes_of(part) == before else 1
            if failures >= ATTEMPTS:
                raise
            yield Loading(f"{error}; trying again", _bytes_of(part), size or 0)
            time.sleep(web.pause * 2 ** (failures - 1))
    digest = yield from _hashed(part, total)
    if sha256 is not None and digest != sha256.lower():
        discard(part)
        raise FileError(
            f"{part.name} arrived damaged: its SHA-256 is {digest[:12]}…, and "
            f"{sha256[:12].lower()}… was promised; it was removed"
        )
    return digest


def _rest(url: str, part: Path, web: Web, size: int | None) -> Generator[Loading, None, int]:
    """What of the file is not there yet; returns how many bytes it has."""
    have, mark = _begun(part)
    if size is not None and have == size:
        return size
    if size is not None and have > size:
        discard(part)
        have = 0
    headers = {"Range": f"bytes={have}-", "If-Range": mark} if have and mark else {}
    try:
        answer = web.opened(url, headers)
    except _Refused as error:
        if error.code != 416:
            raise
        discard(part)  # it has no such rest, so what is here is not the beginning of it
        raise _Broken(f"{_host(url)} has no rest of {part.name}") from error
    with answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        have = have if goes_on else 0
        _check_is_file(answer, url)
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else size
        if size is not None and total is not None and total != size:
            discard(part)
            raise FileError(
                f"{part.name} has {shown_bytes(total)} there, and {shown_bytes(size)} were promised"
            )
        _check_room(part, (total or 0) - have)
        _mark_of(part).write_text(_strong_mark(answer), encoding="utf-8")
        with part.open("ab" if goes_on else "wb") as file:
            have += yield from _copied(answer, file, have, total, part.name, url)
    if total is not None and have < total:
        raise _Broken(f"{_host(url)} broke off after {shown_bytes(have)}")
    return have


def _copied(
    answer: IO[bytes], file: IO[bytes], have: int, total: int | None, name: str, url: str
) -> Generator[Loading, None, int]:
    done = 0
    while True:
        try:
            block = answer.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"{_host(url)} broke off: {_reason(error)}") from error
        if not block:
            return done
        if have + done == 0 and (kind := other_kind(block[:264])) in NO_MODELS:
            raise FileError(f"{name} is no model file: it is {kind}")
        file.write(block)
        done += len(block)
        yield Loading(name, have + done, total or 0)


def _check_is_file(answer: http.client.HTTPResponse, url: str) -> None:
    if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise FileError(f"{url} is a page, not a file; use the address of its download button")


def _check_room(part: Path, more: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if more + SPARE > free:
        raise FileError(
            f"{part.name} needs {shown_bytes(more)} more, and the disk has {shown_bytes(free)} free"
        )


def _hashed(part: Path, total: int) -> Generator[Loading, None, str]:
    digest = hashlib.sha256()
    done = 0
    with part.open("rb") as file:
        while block := file.read(8 * CHUNK):
            digest.update(block)
            done += len(block)
            yield Loading(f"checking {part.name}", done, total)
    return digest.hexdigest()


def settled(part: Path, target: Path) -> None:
    """Gives a fetched file its name, unless there is one of that name.

    Raises:
        FileError: there is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise FileError(f"{target} is there already; nothing was changed") from error
    except OSError:  # another disk, or one without links
        _copied_over(part, target)
    discard(part)


def _copied_over(part: Path, target: Path) -> None:
    """Copies beside the target first, so that it is whole or not there."""
    if target.exists():
        raise FileError(f"{target} is there already; nothing was changed")
    beside = target.with_name(f".{target.name}.part")
    shutil.copyfile(part, beside)
    os.replace(beside, target)


def discard(part: Path) -> None:
    """Removes a part and its mark."""
    for path in (part, _mark_of(part)):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _begun(part: Path) -> tuple[int, str]:
    """Bytes that are there, and the server's mark of the file they are from."""
    try:
        return _bytes_of(part), _mark_of(part).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return _bytes_of(part), ""


def _mark_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _strong_mark(answer: http.client.HTTPResponse) -> str:
    """The ETag, which alone may ask for the rest of the very same file."""
    mark = answer.headers.get("ETag", "")
    return "" if mark.startswith("W/") else mark


def _bytes_of(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _host(url: str) -> str:
    try:
        return (urllib.parse.urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _reason(error: Exception) -> str:
    said = getattr(error, "reason", error)
    return str(getattr(said, "strerror", None) or said or type(error).__name__)


def _refused(url: str, code: int) -> str:
    host = _host(url)
    if code in (401, 403):
        return (
            f"{host} asks for permission: accept the model's licence there, and set a token of "
            "yours as HF_TOKEN or CIVITAI_TOKEN"
        )
    if code == 404:
        return f"{host} has nothing at {urllib.parse.urlsplit(url).path}"
    if code == 429:
        return f"{host} asks to wait: too many downloads at once"
    return f"{host} refuses the download (HTTP {code})"
