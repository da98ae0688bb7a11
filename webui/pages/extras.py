"""The page that makes pictures larger; it is drawn and moved by static/extras_page.js."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "extras_page")
