"""Flags as people type them, those of AUTOMATIC1111 included → arguments of `python -m webui`.

Standard library only: `launch.py` reads flags before anything is installed.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass


class FlagError(Exception):
    """A flag whose value is missing or wrong, in a sentence."""


HONOURED = {
    "no value": "--listen --no-token --autolaunch --no-browser --skip-install --reinstall-torch "
    "--disable-all-extensions --enable-insecure-extension-access --api --medvram --medvram-sdxl "
    "--lowvram --no-half --no-half-vae",
    "one value": "--port --host --device-id --data-dir --models-dir --outputs-dir --extension-host "
    "--cors-allow-origins --tls-keyfile --tls-certfile --ckpt --ckpt-dir --lora-dir --vae-dir "
    "--embeddings-dir --hypernetwork-dir --controlnet-dir --esrgan-models-path",
    "any values": "--use-cpu",
}

WITHOUT_EFFECT = {
    "memory, precision and attention are chosen without flags": "--lowram "
    "--precision --upcast-sampling --xformers --opt-sdp-attention --opt-sdp-no-mem-attention "
    "--opt-split-attention --opt-channelslast "
    "--opt-sub-quad-attention --always-batch-cond-uncond --disable-nan-check",
    "nobody has a name here; under --listen a token guards page and API": "--gradio-auth "
    "--gradio-auth-path --api-auth",
    "no tunnel is opened; --listen shows the page to your own network": "--share --ngrok",
    "bring a certificate: --tls-keyfile and --tls-certfile": "--self-sign --disable-tls-verify",
    "name each origin: --cors-allow-origins": "--cors-allow-origins-regex",
    "choose it on the page": "--vae-path",
    "extensions are chosen and updated on the page": "--disable-extra-extensions "
    "--update-all-extensions",
    "it has no counterpart here": "--nowebui --subpath --server-name --theme --loglevel "
    "--skip-torch-cuda-test --skip-python-version-check --skip-version-check --update-check "
    "--reinstall-xformers --disable-safe-unpickle --no-download-sd-model --no-hashing "
    "--no-gradio-queue --do-not-download-clip --freeze-settings --ui-settings-file --api-log",
}
"""Why → flags that A1111 knows and that change nothing here."""


SETS = {
    "--medvram": ("memory", "medvram"),
    "--medvram-sdxl": ("memory", "medvram"),
    "--lowvram": ("memory", "lowvram"),
    "--no-half": ("precision", "float32"),
    "--no-half-vae": ("vae_precision", "float32"),
    "--ckpt-dir": ("checkpoints_dir", ""),
    "--lora-dir": ("loras_dir", ""),
    "--vae-dir": ("vaes_dir", ""),
    "--embeddings-dir": ("embeddings_dir", ""),
    "--hypernetwork-dir": ("hypernetworks_dir", ""),
    "--controlnet-dir": ("controlnets_dir", ""),
    "--esrgan-models-path": ("upscalers_dir", ""),
}
"""A1111's flag -> our setting, and its value; empty: the folder that is named."""


@dataclass(frozen=True)
class Start:
    """The flags, understood."""

    webui: tuple[str, ...]
    """Arguments for `python -m webui`."""
    notes: tuple[str, ...]
    """What a person should hear about them."""
    skip_install: bool
    reinstall_torch: bool

    def value(self, flag: str, default: str) -> str:
        """The last value handed on under `flag`."""
        pairs = zip(self.webui, self.webui[1:], strict=False)
        return dict(pairs).get(flag, default)


def grouped(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """`--port 7861` or `--port=7861` → ("--port", ["7861"]): each flag with all up to the next."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("-") or not found:
            name, equals, value = word.partition("=")
            found.append((name, [value] if equals else []))
        else:
            found[-1][1].append(word)
    return found


def understood(words: Sequence[str], has_display: bool) -> Start:
    """Flags as typed → what to do. Raises FlagError for a value that is missing or wrong."""
    webui: list[str] = []
    notes: list[str] = []
    seen: set[str] = set()
    for name, values in grouped(words):
        kind = next((kind for kind, flags in HONOURED.items() if name in flags.split()), None)
        if kind is None:
            notes.append(note_on(name))
            continue
        seen.add(name)
        if kind == "one value" and not values:
            raise FlagError(f"{name} needs a value.")
        if surplus := {"no value": values, "one value": values[1:]}.get(kind):
            notes.append(f"{' '.join(surplus)!r} after {name} is not understood and left out")
        webui += translated(name, values, notes)
    on_desktop = has_display and "--listen" not in seen
    if "--no-browser" not in seen and ("--autolaunch" in seen or on_desktop):
        webui.append("--browser")
    if {"--listen", "--no-token"} <= seen:
        notes.append("no token is asked: whoever reaches this machine's address may use the page")
    skip, again = "--skip-install" in seen, "--reinstall-torch" in seen
    return Start(tuple(webui), tuple(notes), skip_install=skip, reinstall_torch=again)


def translated(name: str, values: Sequence[str], notes: list[str]) -> list[str]:
    """One honoured flag in the words of `python -m webui`; may add a note."""
    if name in SETS:
        setting, value = SETS[name]
        return ["--set", f"{setting}={value or os.path.abspath(os.path.expanduser(values[0]))}"]
    if name == "--ckpt":
        stem = os.path.splitext(os.path.basename(values[0].replace("\\", "/")))[0]
        return ["--set", f"checkpoint={stem}"]
    if name.startswith("--tls-"):
        return [name, os.path.abspath(os.path.expanduser(values[0]))]
    if name == "--cors-allow-origins":
        return [name, values[0]]
    if name in ("--listen", "--no-token", "--api") or name.endswith(
        ("-all-extensions", "-extension-access")
    ):
        return [name]
    if name == "--extension-host":
        return [name, values[0]]
    if name.endswith("-dir"):
        return [name, os.path.abspath(os.path.expanduser(values[0]))]
    if name == "--host":
        return ["--allow-host", values[0]]
    if name == "--port":
        return [name, whole_number(name, values[0], 1, 65535)]
    if name == "--device-id":
        return ["--device", "cuda:" + whole_number(name, values[0], 0, 255)]
    if name == "--use-cpu":
        if not values or {"all", "sd"} & set(values):
            return ["--device", "cpu"]
        notes.append(f"--use-cpu {' '.join(values)} has no effect: one device does everything")
    return []


def whole_number(flag: str, text: str, low: int, high: int) -> str:
    """`text` as a number in low…high, written plainly. Raises FlagError."""
    if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise FlagError(f"{flag} takes a whole number from {low} to {high}, not {text!r}.")
    return str(int(text))


def note_on(name: str) -> str:
    """What to say of a flag that is not honoured."""
    for reason, flags in WITHOUT_EFFECT.items():
        if name in flags.split():
            return f"{name} has no effect: {reason}"
    known = " ".join([*HONOURED.values(), *WITHOUT_EFFECT.values()]).split()
    close = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"; the closest there is: {close[0]}" if close else ""
    return f"there is no flag {name}, it is left out{hint}"


def split_words(text: str, windows: bool = os.name == "nt") -> list[str]:
    """A command line as words; on Windows a backslash is a letter like any other."""
    if windows:
        return [word.strip("\"'") for word in shlex.split(text, posix=False)]
    return shlex.split(text)


def has_display() -> bool:
    """Whether a browser could open a window here."""
    if os.environ.get("SSH_CONNECTION") or sys.platform in ("win32", "darwin"):
        return not os.environ.get("SSH_CONNECTION")
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
