"""The page that tells what a picture was made with; it is moved by static/info_page.js."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "info_page")
