"""What comes from elsewhere: hostile archives and addresses, pins, updates, roll-backs."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from core.errors import ExtensionError, RequestError
from core.extend import requirements
from core.extend.index import read_index, searched
from core.extend.install import Installer
from core.extend.sources import archives, checked_url, fetched, unpacked

COMMIT = "a" * 40
GOOD = {"extension.py": "x = 1\n", "extension.toml": 'title = "Good"\npermissions = ["network"]\n'}


def zipped(files: dict[str, str], top: str = "good-main/", comment: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(top + name, text)
        archive.comment = comment.encode()
    return out.getvalue()


def linked() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("extension.py")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return out.getvalue()


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path, {"film_grain"})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped({"../evil.py": ""}, ""), "outside its folder"),
        (zipped({"/evil.py": ""}, ""), "outside its folder"),
        (zipped({"a/../../evil.py": ""}, ""), "outside its folder"),
        (zipped({"..\\evil.py": ""}, ""), "outside its folder"),
        (zipped({"C:evil.py": ""}, ""), "outside its folder"),
        (linked(), "a link"),
        (b"PK no zip", "no zip"),
        (zipped({"a": "b"})[:-30], "no zip"),
        (zipped({str(n): "" for n in range(5_001)}), "more than 5,000 files"),
    ],
    ids=("up", "root", "roundabout", "backslash", "drive", "link", "text", "cut", "many"),
)
def test_a_hostile_zip_leaves_nothing_behind(
    installer: Installer, tmp_path: Path, data: bytes, said: str
) -> None:
    with pytest.raises(ExtensionError, match=said):
        installer.look_into(data, "good.zip")
    assert not list(tmp_path.rglob("evil.py"))
    assert not list((tmp_path / "extensions-staging").iterdir())
    assert not installer.pins()


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.extend.sources.MOST_BYTES", 2**20)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("extension.py", b"\0" * 2**24)
    with pytest.raises(ExtensionError, match="larger than"):
        unpacked(out.getvalue(), tmp_path / "into")


def test_links_beside_the_files_are_seen(tmp_path: Path) -> None:
    from core.extend.sources import check_tree

    (tmp_path / "outside").symlink_to("/etc")
    with pytest.raises(ExtensionError, match="link"):
        check_tree(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch /tmp/evil",
        "https://example.com/a --config=x",
        "https://example.com/a\nb",
        "ext::sh -c touch% /tmp/evil",
        "file:///etc",
        "http://example.com/a",
        "ssh://git@example.com/a",
        "git@example.com:a/b",
        "https://user:word@example.com/a",
        "https://127.0.0.1/a",
        "https://localhost/a",
        "https://169.254.169.254/latest",
        "https://[::1]/a",
        "https://10.0.0.1/a",
        "https:///a",
        "https://ex\u0430mple.com/a",
    ],
)
def test_an_address_that_is_no_plain_https_one_is_not_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(ExtensionError):
        fetched(url, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_server_of_ones_own_is_allowed_by_name_alone() -> None:
    assert checked_url("https://127.0.0.1:8443/a", {"127.0.0.1:8443"})[1] == "127.0.0.1"
    assert checked_url("https://127.0.0.1:8443/a", {"127.0.0.1"})[1] == "127.0.0.1"
    with pytest.raises(ExtensionError, match="--extension-host"):
        checked_url("https://127.0.0.1:8444/a", {"127.0.0.1:8443"})


def test_what_will_come_is_shown_and_pinned(installer: Installer) -> None:
    staged = installer.look_into(zipped(GOOD, comment=COMMIT), "good-main.zip")
    assert (staged.name, staged.pin.commit, staged.problems) == ("good", COMMIT, ())
    assert [path for path, _ in staged.files] == ["extension.py", "extension.toml"]
    assert staged.about.permissions == ("network",)
    assert not installer.folder.exists(), "nothing is in place before a yes"
    installer.install(staged.id)
    assert (installer.folder / "good" / "extension.py").read_text() == "x = 1\n"
    assert installer.pins()["good"] == staged.pin
    with pytest.raises(RequestError, match="no longer there"):
        installer.install(staged.id)


def test_what_changed_since_it_was_shown_is_not_installed(
    installer: Installer, tmp_path: Path
) -> None:
    staged = installer.look_into(zipped(GOOD), "good.zip")
    (tmp_path / "extensions-staging" / staged.id / "extension.py").write_text("import os")
    with pytest.raises(ExtensionError, match="has changed since it was shown"):
        installer.install(staged.id)


def test_an_update_shows_its_diff_and_can_be_rolled_back(installer: Installer) -> None:
    first = installer.install(installer.look_into(zipped(GOOD), "good.zip").id)
    newer = installer.look_into(zipped({**GOOD, "extension.py": "x = 2\n"}), "good.zip")
    assert newer.replaces == first.pin
    assert "-x = 1\n+x = 2\n" in newer.diff
    installer.install(newer.id)
    for text, pin in (("x = 1\n", first.pin), ("x = 2\n", newer.pin)):
        installer.roll_back("good")
        assert (installer.folder / "good" / "extension.py").read_text() == text
        assert installer.pins()["good"] == pin
    installer.remove("good")
    assert not (installer.folder / "good").exists() and not installer.pins()
    with pytest.raises(RequestError):
        installer.roll_back("good")


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        (GOOD, "film_grain.zip", "taken"),
        ({"readme.md": ""}, "other.zip", "holds no extension.py"),
        ({**GOOD, "extension.toml": "title = 3"}, "good.zip", "title must be text"),
        ({**GOOD, "requirements.txt": "torch==1.13.1"}, "good.zip", "which stays"),
        ({**GOOD, "requirements.txt": "--index-url https://evil"}, "good.zip", "no package"),
        ({**GOOD, "requirements.txt": "-r /etc/passwd"}, "good.zip", "no package"),
        ({**GOOD, "requirements.txt": "a @ https://evil.example/a.whl"}, "good.zip", "of its own"),
    ],
)
def test_what_can_not_be_installed_says_why(
    installer: Installer, files: dict[str, str], name: str, said: str
) -> None:
    staged = installer.look_into(zipped(files), name)
    assert said in " ".join(staged.problems)
    with pytest.raises(ExtensionError, match=said):
        installer.install(staged.id)


def test_no_requirement_replaces_what_the_house_runs_on() -> None:
    installed = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "tqdm": "4.0"}
    fits = requirements.missing(["numpy>=2", "torch", "torch>=2", "tqdm>=5", "new"], installed)
    assert fits == ["tqdm>=5", "new"]
    for text in ("torch<2.13", "Torch==2.1", "numpy<2", "pillow ; python_version < '3'"):
        if "pillow" in text:
            assert requirements.missing([text], installed) == []
            continue
        with pytest.raises(ExtensionError, match="which stays"):
            requirements.missing([text], installed)
    assert "torch==2.13.0+cpu\n" in requirements.constraints(installed)


def test_a_list_in_a1111s_format_is_read_and_searched() -> None:
    entries = [
        {
            "name": "Grain",
            "url": "https://example.com/grain",
            "description": "film grain",
            "added": "2026-05-25",
            "tags": ["script", "online"],
            "stars": 7,
            "default_branch_commit_sha": COMMIT,
        },
        {"name": "Other", "url": "https://example.com/other", "stars": "many", "tags": None},
        {"name": "No address", "url": "git://example.com"},
        "not an entry",
    ]
    found = read_index(json.dumps({"tags": {}, "extensions": entries}).encode())
    assert [entry.name for entry in found] == ["Grain", "Other"]
    assert [entry.commit for entry in searched(found, "FILM online")] == [COMMIT]
    for data in (b"[]", b"{", b'{"extensions": 1}', b"[" * 100_000):
        with pytest.raises(ExtensionError, match="no list"):
            read_index(data)


def test_git_is_told_of_no_hooks_and_no_way_but_https(tmp_path: Path) -> None:
    """The options hold in git itself: another protocol is refused by it."""
    from core.extend.sources import GIT

    done = subprocess.run(
        ["git", *GIT, "clone", "--", f"file://{tmp_path}", str(tmp_path / "x")],
        capture_output=True,
        text=True,
    )
    assert done.returncode and "not allowed" in done.stderr


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("https://github.com/a/b.git", ["https://codeload.github.com/a/b/zip/HEAD"]),
        (
            "https://gitlab.com/a/b/c",
            [
                "https://gitlab.com/a/b/c/-/archive/HEAD/extension.zip",
                "https://gitlab.com/a/b/c/archive/HEAD.zip",
            ],
        ),
        ("https://example.com/a?b", ["https://example.com/a/-/archive/HEAD/extension.zip",
                                     "https://example.com/a/archive/HEAD.zip"]),
        ("https://example.com/", []),
        ("https://example.com/a%2e/b", []),
    ],
)  # fmt: skip
def test_without_git_the_archives_of_hosts_are_known(url: str, places: list[str]) -> None:
    assert list(archives(url)) == places
