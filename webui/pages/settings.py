"""The page of settings; it is filled and sent by static/settings_page.js."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "settings_page")
