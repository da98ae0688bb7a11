"""The page of everything that was made; it is drawn and moved by static/gallery_page.js."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "gallery_page")
