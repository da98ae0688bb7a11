"""Sets Vitrine up in `.venv` and starts it. Needs Python 3.11 or newer, and nothing else.

  python3 launch.py [FLAGS]          set up, then start the page
  python3 launch.py test [...]       set up, then run pytest; --slow: the slow tests as well
  python3 launch.py doctor [FLAGS]   say in words what is wrong with this set-up
  python3 launch.py generate [...]   set up, then make pictures from the terminal
  python3 launch.py download WHAT    set up, then fetch a model (owner/name or an address)
  python3 launch.py extensions [...] set up, then list, install, enable or remove extensions
  python3 launch.py house WHAT       ask the server that runs here: queue, people, links
  python3 launch.py bench [...]      set up, then measure how quick it is here; --checkpoint FILE
  python3 launch.py new-extension NAME   set up, then write an extension that works, to begin with
Flags; the environment variable COMMANDLINE_ARGS may hold some too:
  --listen              let other machines on the network in, with a token
  --api                 ... and let A1111's clients in as well (at home they always may)
  --no-token            ... without one: whoever reaches the address may use the page
  --host NAME           a further name this machine is called by; may be repeated
  --port N              7860 unless said
  --autolaunch          open the page in a browser; done by itself on a desktop
  --no-browser          never open it
  --models-dir DIR  --outputs-dir DIR  --data-dir DIR
  --use-cpu             compute on the CPU
  --device-id N         compute on the N-th graphics card, from 0
  --skip-install        install nothing, start with what is there
  --reinstall-torch     choose and install torch anew

TORCH_COMMAND (a whole pip command line) or TORCH_INDEX_URL decide where torch comes from.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from webui.flags import FlagError, Start, has_display, split_words, understood


class SetupError(Exception):
    """Ends the run with a sentence."""


class Place:
    """The project's folder, and what set-up keeps in the `.venv` inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.python = self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.pip = [str(self.python), "-m", "pip"]
        self.stamp = self.venv / "vitrine-stamp.json"
        self.constraints = self.venv / "constraints.txt"
        self.log = self.venv / "setup.log"

    @property
    def site_packages(self) -> Path:
        """Where packages go; a folder that is not there, where there is no `.venv`."""
        pattern = "Lib/site-packages" if os.name == "nt" else "lib/python3*/site-packages"
        return next(iter(self.venv.glob(pattern)), self.venv / "lib")


# --- torch: which one, and from where ------------------------------------------------------------

INDEXES = {
    "cuda": "https://download.pytorch.org/whl/cu130",
    "rocm": "https://download.pytorch.org/whl/rocm6.4",
    "cpu": "https://download.pytorch.org/whl/cpu",
}
"""PyPI's own Linux build brings gigabytes of CUDA, so every kind has its index but "mps"."""


def accelerator() -> str:
    """What torch should be built for: "cuda", "rocm", "mps" or "cpu"."""
    if sys.platform == "darwin":
        return "mps"
    if "GPU" in (output_of(["nvidia-smi", "-L"]) or ""):
        return "cuda"
    if sys.platform == "linux" and (shutil.which("rocminfo") or Path("/opt/rocm").exists()):
        return "rocm"
    return "cpu"


def torch_arguments(
    version: str,
    environment: Mapping[str, str],
    probe: Callable[[], str | None],
    detect: Callable[[], str],
) -> list[str]:
    """What to tell pip so that the right torch comes.

    Args:
        version: the torch that pyproject.toml asks for.
        environment: TORCH_COMMAND and TORCH_INDEX_URL are read from it.
        probe: where plain pip would take torch from, as a URL, or None.
        detect: `accelerator`; neither is asked unless needed.
    """
    if command := environment.get("TORCH_COMMAND", "").strip():
        words = split_words(command)
        if "install" not in words:
            raise SetupError(f"TORCH_COMMAND must be a pip install command, not {command!r}.")
        return words[words.index("install") :]
    plain = ["install", f"torch=={version}"]
    if index := environment.get("TORCH_INDEX_URL", "").strip():
        return [*plain, "--index-url", index]
    # A wheel that pip's own configuration offers on this disk was put there on purpose.
    if (probe() or "").startswith("file://"):
        return plain
    kind = detect()
    return [*plain, "--index-url", INDEXES[kind]] if kind in INDEXES else plain


def probed_url(place: Place, version: str) -> str | None:
    """Where plain pip would take torch from, without taking it."""
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--retries=1"]
    command = [*place.pip, "install", *options, "--report=-", f"torch=={version}"]
    try:
        report = json.loads(output_of(command, place) or "")
        return str(report["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError):
        return None


def wanted_torch(pyproject: str) -> str:
    """The version of torch that pyproject.toml pins."""
    found = re.search(r'"torch==([^"]+)"', pyproject)
    assert found, "pyproject.toml pins torch"
    return found.group(1)


def installed_torch(site_packages: Path) -> str | None:
    """The version in a site-packages folder, with its build: "2.13.0+cpu"."""
    names = [info.name for info in site_packages.glob("torch-*.dist-info")]
    return names[0][len("torch-") : -len(".dist-info")] if names else None


def install_torch(place: Place) -> None:
    """Leaves an installed torch of the right version alone, else brings one; pins what is there."""
    wanted = wanted_torch(read_pyproject(place))
    installed = installed_torch(place.site_packages)
    if not installed or installed.split("+")[0] != wanted:
        place.constraints.unlink(missing_ok=True)
        chosen = torch_arguments(wanted, os.environ, lambda: probed_url(place, wanted), accelerator)
        print(f"Installing torch: pip {' '.join(chosen)}", flush=True)
        logged([*place.pip, *chosen], "torch could not be installed", place)
        installed = installed_torch(place.site_packages) or "none"
    if installed.split("+")[0] != wanted:
        raise SetupError(f"Vitrine needs torch {wanted}, but TORCH_COMMAND gave {installed}.")
    place.constraints.write_text(f"torch=={installed}\n", encoding="utf-8")


# --- set-up --------------------------------------------------------------------------------------

ORACLES = ["k-diffusion==0.1.1.post1"]
"""Tests compare with these; taken without what they ask for, which is not needed and is a lot."""


def set_up(place: Place, extras: Sequence[str] = (), reinstall_torch: bool = False) -> None:
    """Makes `.venv` what pyproject.toml asks for; reads two files if it is already.

    The stamp goes first and comes back last, so an interrupted set-up is done again.
    """
    if not reinstall_torch and is_up_to_date(place, extras):
        return
    if not os.access(place.root, os.W_OK):
        raise SetupError(f"Vitrine may not write to its folder {place.root}.")
    started = time.monotonic()
    ensure_venv(place)
    place.stamp.unlink(missing_ok=True)
    clear_leftovers(place.site_packages)
    if reinstall_torch:
        logged([*place.pip, "uninstall", "-y", "torch"], "torch could not be removed", place)
    install_torch(place)
    print("Installing what else Vitrine needs", flush=True)
    project = str(place.root) + (f"[{','.join(extras)}]" if extras else "")
    failure = "the packages could not be installed"
    logged([*place.pip, "install", "-c", str(place.constraints), "-e", project], failure, place)
    if "test" in extras:
        logged([*place.pip, "install", "--no-deps", *ORACLES], failure, place)
    write_stamp(place, extras)
    print(f"Set up in {time.monotonic() - started:.0f} s", flush=True)


def read_pyproject(place: Place) -> str:
    return (place.root / "pyproject.toml").read_text(encoding="utf-8")


def fingerprint(place: Place, version: str) -> str:
    """What a finished set-up depends on: dependencies, Python, and the folder it links to."""
    parts = json.dumps([read_pyproject(place), version, str(place.root)])
    return hashlib.sha256(parts.encode()).hexdigest()


def is_up_to_date(place: Place, extras: Sequence[str]) -> bool:
    """Whether the stamp says that all this is installed, and the Python in `.venv` runs."""
    try:
        stamp = json.loads(place.stamp.read_text(encoding="utf-8"))
        installed, made_for = set(stamp["extras"]), stamp["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if not set(extras) <= installed:
        return False
    version = python_version(place)
    return version is not None and made_for == fingerprint(place, version)


def write_stamp(place: Place, extras: Sequence[str]) -> None:
    """Says that all is installed: whole or not at all."""
    stamp = {"fingerprint": fingerprint(place, python_version(place) or ""), "extras": [*extras]}
    unfinished = place.stamp.with_suffix(".tmp")
    unfinished.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(unfinished, place.stamp)


def python_version(place: Place) -> str | None:
    """ "3.11"; None if the Python in `.venv` is gone, does not run, or has no packages of its own.

    The last happens when a system upgrade puts another Python behind the link in `.venv`.
    """
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = (output_of([str(place.python), "-c", script]) or "").strip()
    if os.name != "nt" and not (place.venv / f"lib/python{version}/site-packages").is_dir():
        return None
    return version or None


def ensure_venv(place: Place) -> None:
    """Makes `.venv`, anew if the one there has no Python or pip that runs."""
    if python_version(place) and output_of([*place.pip, "--version"]):
        place.log.write_text("", encoding="utf-8")
        return
    print("Making .venv" + (" anew: it was broken" if place.venv.exists() else ""), flush=True)
    if place.venv.exists():
        shutil.rmtree(place.venv)
    place.venv.mkdir()
    # Run from inside a virtual environment, the Python behind it is the one to build on.
    python = getattr(sys, "_base_executable", None) or sys.executable
    logged([python, "-m", "venv", str(place.venv)], ".venv could not be made", place)


def clear_leftovers(site_packages: Path) -> None:
    """Removes what an interrupted pip left, so that the next one does not take it for installed.

    pip writes INSTALLER when all of a package's files are there, and moves what it replaces to `~`.
    """
    unfinished = [d for d in site_packages.glob("*.dist-info") if not (d / "INSTALLER").exists()]
    for folder in [*unfinished, *site_packages.glob("~*")]:
        shutil.rmtree(folder, ignore_errors=True)


# --- other programs ------------------------------------------------------------------------------

FAILURES = {
    "No space left on device|Errno 28|WinError 112": "The disk is full; make room and try again.",
    "CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError": "The server's certificate is not "
    "trusted; behind a company's proxy, set PIP_CERT to its certificate.",
    "ProxyError": "The proxy refuses the connection; look at HTTPS_PROXY.",
    "NameResolutionError|name resolution|getaddrinfo failed|NewConnectionError|Max retries exceeded"
    "|ConnectTimeoutError|ReadTimeoutError|unreachable|Connection (refused|reset|aborted)": "The "
    "package server can't be reached; connect to the network and try again.",
    "DO NOT MATCH THE HASHES|IncompleteRead|BadZipFile": "A download arrived damaged; try again.",
    "ensurepip is not available|No module named '?ensurepip": "This Python can't make virtual "
    "environments; on Debian and Ubuntu: sudo apt install python3-venv",
    "Permission denied|Errno 13|WinError 5\\b": "A file or folder may not be written.",
    "ResolutionImpossible|conflicting dependencies": "The packages asked for don't fit together; "
    "a constraint of your own (PIP_CONSTRAINT) may be the cause.",
}
"""What pip's output holds → what that means; the surest sign first."""


def why_it_failed(output: str, code: int) -> str:
    """pip's output as a sentence."""
    for pattern, sentence in FAILURES.items():
        if re.search(pattern, output):
            return sentence
    if found := re.search(r"No matching distribution found for (\S+)", output):
        return f"pip finds no {found.group(1)} for Python {platform.python_version()}."
    if code < 0:
        return f"It was ended from outside (signal {-code}); memory may have run out."
    errors = re.findall(r"(?m)^\s*((?:ERROR|\w+Error): .+)$", output)
    return errors[-1] if errors else f"It ended with code {code}."


def child_environment(place: Place) -> dict[str, str]:
    """For all that is started: nobody is told about it, and pip can't replace torch."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    environment.update(DO_NOT_TRACK="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    environment.update(PIP_USER="0", PYTHONUNBUFFERED="1")
    if place.constraints.exists():
        # pip splits the variable at spaces, so the path travels as a URL.
        uris = [*environment.get("PIP_CONSTRAINT", "").split(), place.constraints.as_uri()]
        environment["PIP_CONSTRAINT"] = " ".join(dict.fromkeys(uris))
    return environment


def output_of(command: Sequence[str], place: Place | None = None) -> str | None:
    """What a command prints; None if it can't run, fails or takes over two minutes."""
    environment = child_environment(place) if place else None
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def logged(command: Sequence[str], failure: str, place: Place) -> None:
    """Runs a command into the log, showing its milestones. Raises SetupError if it fails."""
    environment = child_environment(place)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with place.log.open("a+", encoding="utf-8", errors="replace") as log:
        log.write(f"$ {' '.join(command)}\n")
        begin = log.tell()
        with subprocess.Popen(command, env=environment, **pipes) as process:  # type: ignore[call-overload]
            for line in process.stdout:
                text = line.decode(errors="replace")
                log.write(text)
                if milestone := shown(text):
                    print(f"  {milestone}", flush=True)
        log.seek(begin)
        output = log.read()
    if process.returncode:
        reason = why_it_failed(output, process.returncode)
        raise SetupError(f"Set-up stopped: {failure}. {reason}\nThe full log is {place.log}")


def shown(line: str) -> str | None:
    """The few of pip's lines that say how far it is: large downloads, and the last stretch."""
    if found := re.match(r"\s*Downloading (\S+) \(([0-9.]+ GB|[0-9]{2,}[0-9.]* MB)\)", line):
        return f"downloading {found.group(1).rsplit('/', 1)[-1]} ({found.group(2)})"
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1} packages"
    return None


def hand_over(command: Sequence[str], place: Place) -> int:
    """Becomes another program; on Windows, waits for it and gives its exit code."""
    if os.name != "nt":
        os.execve(command[0], list(command), child_environment(place))
    return subprocess.call(command, env=child_environment(place))


# --- the commands --------------------------------------------------------------------------------


def findings(place: Place, flags: Start) -> list[tuple[bool, str]]:
    """(is well, sentence), from the ground up."""
    folders = {
        name: Path(flags.value(f"--{name}-dir", str(place.root / name)))
        for name in ("models", "outputs", "data")
    }
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    free = shutil.disk_usage(place.root).free / 2**30
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    return [
        (True, python),
        venv_finding(place),
        torch_finding(place),
        (free >= 3, f"{free:.1f} GB of disk free; set-up takes 2"),
        *map(writable_finding, (place.root, place.venv, *folders.values())),
        port_finding(int(flags.value("--port", "7860"))),
        (True, f"Chromium for the tests: {chromium or 'not there; the tests of the page need it'}"),
    ]


def venv_finding(place: Place) -> tuple[bool, str]:
    if not place.venv.exists():
        return True, "Nothing is installed yet; starting Vitrine does that"
    if not python_version(place):
        return False, "The Python in .venv does not run; the next start makes .venv anew"
    if not is_up_to_date(place, ()):
        return False, "Set-up is unfinished or out of date; the next start completes it"
    return True, "Everything pyproject.toml asks for is installed in .venv"


def torch_finding(place: Place) -> tuple[bool, str]:
    wanted = accelerator()
    if not installed_torch(place.site_packages):
        return True, f"torch is not installed yet; what it would be chosen for: {wanted}"
    script = (
        "import torch as t; print(t.__version__, 'on', t.cuda.get_device_name() if "
        "t.cuda.is_available() else 'mps' if t.backends.mps.is_available() else 'cpu')"
    )
    answer = (output_of([str(place.python), "-c", script], place) or "").strip()
    if not answer:
        return False, "torch is installed but can't be imported; start with --reinstall-torch"
    if answer.endswith(" cpu") and wanted in ("cuda", "rocm"):
        return False, f"torch {answer}, though there is a graphics card: try --reinstall-torch"
    return True, f"torch {answer}"


def writable_finding(folder: Path) -> tuple[bool, str]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return True, f"{folder} can be written" if there == folder else f"{folder} can be made"
    return False, f"{folder} can't be written: {there} is not yours, or no folder"


def port_finding(port: int) -> tuple[bool, str]:
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return False, f"Port {port} can't be used ({error.strerror}); --port chooses another"
    return True, f"Port {port} is free"


def start(place: Place, words: Sequence[str]) -> int:
    words = [*split_words(os.environ.get("COMMANDLINE_ARGS", "")), *words]
    flags = understood(words, has_display())
    for note in flags.notes:
        print(f"Note: {note}.", flush=True)
    if not flags.skip_install:
        set_up(place, reinstall_torch=flags.reinstall_torch)
    python = place.python if place.python.exists() else sys.executable
    os.chdir(place.root)
    return hand_over([str(python), "-m", "webui", *flags.webui], place)


def test(place: Place, words: Sequence[str]) -> int:
    set_up(place, ["test"])
    slow = ["-m", ""] if "--slow" in words else []
    os.chdir(place.root)
    rest = [word for word in words if word != "--slow"]
    workers = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]
    return hand_over([str(place.python), "-m", "pytest", *workers, *slow, *rest], place)


def doctor(place: Place, words: Sequence[str]) -> int:
    flags = understood(words, has_display=False)
    found = findings(place, flags)
    for is_well, sentence in found:
        print(f"{'  ok ' if is_well else 'LOOK '} {sentence}", flush=True)
    is_well = all(is_well for is_well, _ in found)
    if not is_up_to_date(place, ()):
        return 0 if is_well else 1
    # What is installed can say more: of models, settings and the queue.
    asked = [str(place.python), "-m", "webui.doctor", *flags.webui]
    more = subprocess.call(asked, env=child_environment(place), cwd=place.root)
    return 0 if is_well and not more else 1


def running(module: str, *first: str) -> Callable[[Place, Sequence[str]], int]:
    """A command that sets up, then becomes one of our modules."""

    def command(place: Place, words: Sequence[str]) -> int:
        set_up(place)
        return hand_over([str(place.python), "-P", "-m", module, *first, *words], place)

    return command


COMMANDS = {
    "start": start,
    "test": test,
    "doctor": doctor,
    "generate": running("core"),
    "download": running("core.models.download"),
    "extensions": running("core.extend"),
    "house": running("webui.terminal"),
    "bench": running("tests.benchmarks", "--short"),
    "new-extension": running("core.extend.skeleton"),
}


def main(words: Sequence[str], place: Place) -> int:
    """The exit code; a start, test or generate that begins never comes back from here."""
    if words and words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    has_command = bool(words) and not words[0].startswith("-")
    command, rest = (words[0], words[1:]) if has_command else ("start", words)
    if command not in COMMANDS:
        print(f"There is no command {command!r}; there are: {', '.join(COMMANDS)}.")
        return 2
    try:
        return COMMANDS[command](place, rest)
    except (SetupError, FlagError) as error:
        print(error)
    except OSError as error:
        print(f"Set-up stopped: {error.filename or place.root}: {error.strerror or error}.")
    except KeyboardInterrupt:
        print("\nInterrupted; the next run goes on from here.")
        return 130
    return 1


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - this file must be able to say so
        sys.exit(f"Vitrine needs Python 3.11 or newer; this is {platform.python_version()}.")
    sys.exit(main(sys.argv[1:], Place(Path(__file__).resolve().parent)))
