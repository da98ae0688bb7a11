"""The page that looks into runs and models; it is drawn and moved by static/explain.js."""

from __future__ import annotations

from webui.shell import Shell, own


def tab(shell: Shell) -> None:
    own(shell.files, "explain")
