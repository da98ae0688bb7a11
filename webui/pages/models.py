"""The page of the models there are; it is drawn and moved by static/models_page.js."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "models_page")
