"""Our own scripts and styles, read once and served under their content's hash.

A changed file changes every address, so browsers may keep what they have for ever.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "static"
KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
}


IMPORTED = re.compile(r'^(?:import|export|\}) .*from "\./([a-z_]+\.js)";$', re.MULTILINE)
"""The one way in which our scripts import one another at their beginning."""


@dataclass(frozen=True)
class Assets:
    """The files of one folder, in memory."""

    files: Mapping[str, bytes]
    hash: str

    @property
    def base(self) -> str:
        """The address they are served under. Relative, so a mounted page finds them too."""
        return f"/vitrine/{self.hash}/"

    def text(self, name: str) -> str:
        return self.files[name].decode()

    def url(self, name: str) -> str:
        """Raises KeyError for a file that is not there."""
        self.files[name]
        return self.base + name

    def reached(self, *modules: str) -> list[str]:
        """These scripts and all that they import, and what those import, each once."""
        found = dict.fromkeys(modules)
        waiting = list(modules)
        while waiting:
            fresh = IMPORTED.findall(self.text(waiting.pop()))
            waiting += [name for name in dict.fromkeys(fresh) if name not in found]
            found |= dict.fromkeys(fresh)
        return list(found)


def read_assets(folder: Path = FOLDER) -> Assets:
    files = {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in KINDS
    }
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(name.encode() + b"\0" + data + b"\0")
    return Assets(files, digest.hexdigest()[:12])


def routes(assets: Assets) -> APIRouter:
    router = APIRouter()

    @router.get(assets.base + "{name}")
    def asset(name: str) -> Response:
        if name not in assets.files:
            return Response("There is no such file.", 404, media_type="text/plain")
        return Response(
            assets.files[name],
            media_type=KINDS[Path(name).suffix],
            headers={"cache-control": "public, max-age=31536000, immutable"},
        )

    return router
