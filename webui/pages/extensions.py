"""The page of the extensions there are, and of getting more; static/extensions_page.js moves it."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "extensions_page")
