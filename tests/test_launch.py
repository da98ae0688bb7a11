"""Set-up and flags, without network and without installing anything."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from launch import Place, SetupError, torch_arguments, why_it_failed
from webui.flags import HONOURED, WITHOUT_EFFECT, FlagError, split_words, understood

ROOT = Path(launch.__file__).parent
BARE = [ROOT / "launch.py", ROOT / "webui/flags.py", ROOT / "webui/__init__.py"]


def page(*words: str, has_display: bool = False) -> list[str]:
    return list(understood(words, has_display).webui)


def notes(*words: str) -> str:
    return "\n".join(understood(words, has_display=False).notes)


# flags


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("", []),
        ("--listen --port 7861", ["--listen", "--port", "7861"]),
        ("--port=07861", ["--port", "7861"]),
        ("--host studio --host den.local", ["--allow-host", "studio", "--allow-host", "den.local"]),
        ("--use-cpu", ["--device", "cpu"]),
        ("--use-cpu all", ["--device", "cpu"]),
        ("--use-cpu interrogate gfpgan", []),
        ("--device-id 1", ["--device", "cuda:1"]),
        ("--models-dir /m --outputs-dir /o", ["--models-dir", "/m", "--outputs-dir", "/o"]),
        ("--autolaunch", ["--browser"]),
        ("--listen --no-token", ["--listen", "--no-token"]),
    ],
)
def test_flags_become_the_pages_own(typed, meant):
    assert page(*typed.split()) == meant


def test_relative_folders_count_from_where_one_stands():
    assert page("--data-dir", "here") == ["--data-dir", os.path.abspath("here")]


def test_the_page_takes_whatever_is_handed_on():
    from webui.__main__ import arguments

    typed = "--listen --no-token --port 7861 --host a --host b --device-id 0 --autolaunch"
    folders = "--data-dir d --models-dir m --outputs-dir o"
    given = arguments(page(*typed.split(), *folders.split()))
    assert (given.port, given.device, given.allow_host) == (7861, "cuda:0", ["a", "b"])
    assert given.listen and given.no_token and given.browser


@pytest.mark.parametrize(
    ("words", "opens"),
    [([], True), (["--no-browser"], False), (["--listen"], False), (["--port", "7861"], True)],
)
def test_a_desktop_opens_the_page(words, opens):
    assert ("--browser" in page(*words, has_display=True)) is opens
    assert "--browser" not in page(*words)


@pytest.mark.parametrize(
    "typed", ["--port", "--port x", "--port 0", "--port 70000", "--device-id -1", "--host"]
)
def test_a_missing_or_wrong_value_ends_in_a_sentence(typed):
    with pytest.raises(FlagError, match=typed.split()[0]):
        page(*typed.split())


def test_every_known_flag_is_honoured_or_explained():
    for flag in " ".join(WITHOUT_EFFECT.values()).split():
        assert notes(flag, "value").startswith(f"{flag} has no effect: ")
    for flag in " ".join(HONOURED.values()).split():
        assert "no effect" not in notes(flag, "all" if flag == "--use-cpu" else "1")


def test_an_unknown_flag_is_named_with_the_closest_known_one():
    assert notes("--prot", "7861") == (
        "there is no flag --prot, it is left out; the closest there is: --port"
    )
    assert notes("--qqq") == "there is no flag --qqq, it is left out"


def test_what_a_flag_does_not_take_is_named():
    assert "'7861' after --listen" in notes("--listen", "7861")
    assert "'b c' after --port" in notes("--port", "1", "b", "c")


def test_an_open_door_is_mentioned():
    assert "no token is asked" in notes("--listen", "--no-token")
    assert not notes("--listen")


def test_backslashes_stay_on_windows():
    assert split_words(r'--models-dir "C:\my models"', windows=True) == [
        "--models-dir",
        r"C:\my models",
    ]
    assert split_words("--models-dir '/my models'", windows=False) == ["--models-dir", "/my models"]


# torch


def never() -> str:
    raise AssertionError("this was not to be asked")


def chosen(url: str | None, kind: str) -> list[str]:
    return torch_arguments("2.13.0", {}, lambda: url, lambda: kind)


def test_torch_command_is_taken_as_it_is():
    command = "python -m pip install torch==2.13.0 --index-url https://example.org/whl"
    arguments = torch_arguments("2.13.0", {"TORCH_COMMAND": command}, never, never)
    assert arguments == ["install", "torch==2.13.0", "--index-url", "https://example.org/whl"]


def test_torch_command_must_install():
    with pytest.raises(SetupError, match="TORCH_COMMAND"):
        torch_arguments("2.13.0", {"TORCH_COMMAND": "rm -r /"}, never, never)


def test_torch_index_is_taken_unasked():
    arguments = torch_arguments("2.13.0", {"TORCH_INDEX_URL": "https://a"}, never, never)
    assert arguments == ["install", "torch==2.13.0", "--index-url", "https://a"]


def test_a_wheel_on_this_disk_wins():
    arguments = torch_arguments("2.13.0", {}, lambda: "file:///wheels/torch.whl", never)
    assert arguments == ["install", "torch==2.13.0"]


@pytest.mark.parametrize("url", [None, "https://example.org/torch.whl"])
@pytest.mark.parametrize("kind", ["cuda", "rocm", "cpu"])
def test_every_kind_of_machine_has_its_index(url, kind):
    index = chosen(url, kind)[-1]
    assert index.startswith("https://download.pytorch.org/whl/")
    assert index.rsplit("/", 1)[1].startswith({"cuda": "cu", "rocm": "rocm", "cpu": "cpu"}[kind])


def test_a_mac_takes_the_plain_one():
    assert chosen(None, "mps") == ["install", "torch==2.13.0"]


def test_the_wanted_torch_is_read_from_the_project():
    assert launch.wanted_torch((ROOT / "pyproject.toml").read_text()).count(".") == 2


# set-up


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A project folder whose `.venv` is this very Python, with empty site-packages."""
    (tmp_path / "pyproject.toml").write_text('dependencies = ["torch==2.13.0"]')
    place = Place(tmp_path)
    place.python.parent.mkdir(parents=True)
    place.python.symlink_to(sys.executable)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (place.venv / f"lib/python{version}/site-packages").mkdir(parents=True)
    return place


def test_a_finished_set_up_is_not_done_again(place, capsys):
    launch.write_stamp(place, ["test"])
    launch.set_up(place)
    launch.set_up(place, ["test"])
    assert capsys.readouterr().out == ""


def test_other_extras_make_the_stamp_stale(place):
    launch.write_stamp(place, [])
    assert launch.is_up_to_date(place, [])
    assert not launch.is_up_to_date(place, ["test"])


def test_other_dependencies_make_the_stamp_stale(place):
    launch.write_stamp(place, [])
    (place.root / "pyproject.toml").write_text('dependencies = ["torch==2.14.0"]')
    assert not launch.is_up_to_date(place, [])


def test_another_python_or_folder_makes_the_stamp_stale(place):
    assert launch.fingerprint(place, "3.11") != launch.fingerprint(place, "3.12")
    moved = Place(place.root / "moved")
    moved.root.mkdir()
    (moved.root / "pyproject.toml").write_bytes((place.root / "pyproject.toml").read_bytes())
    assert launch.fingerprint(place, "3.11") != launch.fingerprint(moved, "3.11")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_broken_stamp_is_no_stamp(place, content):
    place.stamp.write_text(content)
    assert not launch.is_up_to_date(place, [])


def test_a_venv_without_its_python_is_not_up_to_date(place):
    launch.write_stamp(place, [])
    place.python.unlink()
    assert launch.python_version(place) is None
    assert not launch.is_up_to_date(place, [])


def test_a_venv_of_another_python_is_broken(place):
    """A system upgrade puts a newer Python behind the link; the packages stay with the old."""
    place.site_packages.parent.rename(place.venv / "lib/python3.1")
    assert launch.python_version(place) is None


def torch_is_there(place: Place, version: str) -> None:
    (place.site_packages / f"torch-{version}.dist-info").mkdir()


def test_an_installed_torch_is_kept_and_pinned(place):
    torch_is_there(place, "2.13.0+cu130")
    launch.install_torch(place)
    assert place.constraints.read_text() == "torch==2.13.0+cu130\n"


def test_what_is_started_can_not_replace_torch(place, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    assert "PIP_CONSTRAINT" not in launch.child_environment(place)
    place.constraints.write_text("torch==2.13.0\n")
    environment = launch.child_environment(place)
    assert environment["PIP_CONSTRAINT"] == place.constraints.as_uri()
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert "PYTHONPATH" not in environment
    monkeypatch.setenv("PIP_CONSTRAINT", "theirs.txt")
    both = launch.child_environment(place)["PIP_CONSTRAINT"].split()
    assert both == ["theirs.txt", place.constraints.as_uri()]


def test_what_an_interrupted_pip_left_is_cleared(place):
    whole, half, replaced = (
        place.site_packages / name for name in ("a-1.dist-info", "b-1.dist-info", "~orch")
    )
    for folder in (whole, half, replaced):
        folder.mkdir()
    (whole / "INSTALLER").write_text("pip")
    launch.clear_leftovers(place.site_packages)
    assert [whole.exists(), half.exists(), replaced.exists()] == [True, False, False]


# sentences


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("NameResolutionError: Failed to resolve 'pypi.org'\nNo matching distribution", "network"),
        ("Connection refused\nNo matching distribution found for einops", "network"),
        ("certificate verify failed: CERTIFICATE_VERIFY_FAILED\nMax retries exceeded", "PIP_CERT"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no torch==2.13.0 for Python"),
        ("ERROR: ResolutionImpossible: for help", "don't fit together"),
        ("The virtual environment was not created: ensurepip is not available", "python3-venv"),
        ("PermissionError: [Errno 13] Permission denied", "may not be written"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "damaged"),
        ("note\nERROR: something new", "ERROR: something new"),
        ("  OSError: no README\n  [end]\nerror: metadata failed", "OSError: no README"),
        ("", "code 1"),
    ],
)
def test_a_failing_pip_ends_in_a_sentence(output, sentence):
    assert sentence in why_it_failed(output, 1)


def test_a_killed_pip_is_called_so():
    assert "signal 9" in why_it_failed("", -9)


def test_a_failure_names_the_log_and_keeps_what_was_said(place):
    command = [sys.executable, "-c", "print('No space left on device'); raise SystemExit(1)"]
    with pytest.raises(SetupError) as failure:
        launch.logged(command, "torch could not be installed", place)
    assert "torch could not be installed. The disk is full" in str(failure.value)
    assert str(place.log) in str(failure.value)
    assert "No space left on device" in place.log.read_text()


def test_an_earlier_failure_in_the_log_is_not_blamed_again(place):
    place.log.write_text("No space left on device\n")
    with pytest.raises(SetupError, match="code 3"):
        launch.logged([sys.executable, "-c", "raise SystemExit(3)"], "it failed", place)


def test_only_milestones_of_pip_are_shown():
    assert launch.shown("Collecting einops==0.8.2\n") is None
    assert launch.shown("  Downloading einops-0.8.2-py3-none-any.whl (64 kB)\n") is None
    line = "  Downloading https://a/b/torch-2.13.0.whl (190.1 MB)\n"
    assert launch.shown(line) == "downloading torch-2.13.0.whl (190.1 MB)"
    assert launch.shown("Installing collected packages: a, b, c\n") == "installing 3 packages"


def test_a_folder_that_may_not_be_written_ends_in_a_sentence(place, capsys):
    """A file where a folder must be stands for every refusal, also for the superuser."""
    blocked = Place(place.root / "pyproject.toml")
    assert launch.main(["generate"], blocked) == 1
    assert str(blocked.root) in capsys.readouterr().out


def test_an_unknown_command_names_those_there_are(place, capsys):
    assert launch.main(["strat"], place) == 2
    assert "start, test, doctor, generate, download" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "module"), [("generate", "core"), ("download", "core.models.download")]
)
def test_a_command_of_core_is_handed_its_words(command, module, place, monkeypatch):
    launch.write_stamp(place, [])
    handed = []
    monkeypatch.setattr(launch, "hand_over", lambda words, place: handed.append(words) or 0)
    assert launch.main([command, "owner/name", "--file", "x"], place) == 0
    assert handed == [[str(place.python), "-P", "-m", module, "owner/name", "--file", "x"]]


def test_download_says_what_it_takes():
    command = [sys.executable, "-m", "core.models.download", "not a source"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "'not a source' is no repository (owner/name) and no address" in done.stderr


def test_the_doctor_speaks_before_anything_is_installed(tmp_path, capsys):
    (tmp_path / "pyproject.toml").write_text('"torch==2.13.0"')
    launch.main(["doctor", "--port", "47861"], Place(tmp_path))
    said = capsys.readouterr().out
    assert "Nothing is installed yet" in said
    assert "Port 47861" in said


def test_the_doctor_finds_a_broken_venv(place, capsys):
    place.python.unlink()
    assert launch.main(["doctor"], place) == 1
    assert "LOOK  The Python in .venv does not run" in capsys.readouterr().out


def test_the_stamp_is_json_a_person_can_read(place):
    launch.write_stamp(place, ["test"])
    assert json.loads(place.stamp.read_text())["extras"] == ["test"]


# before anything is installed


@pytest.mark.parametrize("path", BARE, ids=lambda path: path.name)
def test_what_runs_bare_is_standard_library_only(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert found - {"webui"} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", BARE, ids=lambda path: path.name)
def test_an_old_python_can_read_it_to_say_that_it_is_too_old(path):
    ast.parse(path.read_text(), feature_version=(3, 8))
