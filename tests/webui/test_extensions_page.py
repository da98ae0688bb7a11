"""The Extensions tab in a browser: a zip is looked at, installed, used, switched off, removed."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from core.engine.local import LocalEngine
from core.events import ImageDone
from core.extend.house import Extensions
from core.registry import built_in
from core.settings import default_settings
from tests.core.extend.test_house import STEP, write
from tests.core.extend.test_install import zipped
from tests.tiny import write_sd1
from tests.webui.fake_engine import FakeEngine
from tests.webui.test_extending import Repository
from tests.webui.test_extending import served as served  # a fixture
from webui import hookspecs
from webui.app import create_app
from webui.extending import Rights
from webui.gate import Rules


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine(0.0)
    yield made
    made.close()


@contextlib.contextmanager
def serving(engine: FakeEngine | LocalEngine, root: Path, *hosts: str) -> Iterator[str]:
    """A server whose only extension that ships is broken; gives its address."""
    write(root / "shipped", "broken", "raise ValueError('<b>no</b>')")
    settings = default_settings(root)
    folders = [(root / "shipped", True), (settings.data_dir / "extensions", False)]
    extensions = Extensions(
        built_in(), folders, settings.data_dir, settings.outputs_dir, (hookspecs,), packages=False
    )
    extensions.listen(
        engine.adopt
        if isinstance(engine, LocalEngine)
        else lambda shelves: setattr(engine, "registry", shelves)
    )
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    rights = Rights(hosts=frozenset(hosts))
    app = create_app(engine, settings, Rules(port=port), extensions, rights)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(timeout=5)


@pytest.fixture
def address(engine: FakeEngine, tmp_path: Path) -> Iterator[str]:
    with serving(engine, tmp_path) as address:
        yield address


def test_a_zip_is_installed_used_and_removed_on_the_page(
    page: Page, address: str, engine: FakeEngine, tmp_path: Path
) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(address + "?tab=extensions")
    broken = page.locator('[data-name="broken"]')
    expect(broken).to_contain_text("Broken: its import failed: ValueError: <b>no</b>")
    toml = 'title = "Louder <i>"\ndescription = "Shouts."\npermissions = ["noise"]'
    source = dedent(STEP.replace("{name}", "louder"))
    archive = tmp_path / "louder-main.zip"
    archive.write_bytes(zipped({"extension.py": source, "extension.toml": toml}))
    page.set_input_files('[data-v="zip"]', archive)
    sheet = page.locator('[data-v="sheet"]')
    expect(sheet).to_contain_text("This runs with your rights")
    expect(sheet).to_contain_text("noise")
    assert not engine.registry.request_steps, "looking at it runs nothing"
    page.screenshot(path=str(tmp_path / "sheet.png"))
    sheet.get_by_text("Install and enable").click()
    row = page.locator('[data-name="louder"]')
    expect(row).to_have_attribute("data-state", "on")
    expect(row).to_contain_text("Louder <i>")
    assert "louder" in engine.registry.request_steps
    row.get_by_text("Read more").click()
    expect(row).to_contain_text("Its author wrote nothing.")
    row.get_by_text("Disable").click()
    expect(row).to_have_attribute("data-state", "off")
    expect(row.locator("pre")).to_be_visible()  # what is being read stays open
    expect(row).to_contain_text("Its author wrote nothing.")
    assert not engine.registry.request_steps
    page.screenshot(path=str(tmp_path / "list.png"))
    row.get_by_text("Remove…").click()
    expect(row).to_have_count(0)
    expect(page.locator(".v-xt-list > li")).to_have_count(1)
    assert re.search("broken", page.locator(".v-xt-list").first.inner_text(), re.IGNORECASE)


RED = '''
"""Paints every picture red."""
from dataclasses import dataclass
from core.extend import Finisher, hookimpl, setting
from webui.hookspecs import Page, Panel

@dataclass(frozen=True)
class Settings:
    level: int = setting(255, low=0, high=255, help="Of red.")

def painted(image, request, settings):
    from PIL import Image
    return Image.new("RGB", image.size, (settings.level, 0, 0))

def drawn(shell):
    import gradio as gr
    gr.Markdown("All about red.")

@hookimpl
def finishers():
    return [Finisher("painted", Settings, painted)]

@hookimpl
def panels():
    return [Panel("painted", Settings, "Paint it red")]

@hookimpl
def pages():
    return [Page("red", "Red", drawn)]
'''
SWITCH = "#v-extras-painted-on input"


@pytest.fixture
def real(tmp_path: Path) -> Iterator[LocalEngine]:
    write_sd1(tmp_path / "models" / "Stable-diffusion" / "tiny.safetensors")
    made = LocalEngine(default_settings(tmp_path), built_in())
    yield made
    made.close()


def corner(page: Page, engine: LocalEngine) -> tuple[int, int, int]:
    """A pixel of the picture that Generate makes."""
    before = {job.id for job in engine.jobs()}
    page.locator("#txt2img_prompt textarea").fill("a fox")
    page.click("#txt2img_generate")
    while not (new := [job for job in engine.jobs() if job.id not in before]):
        page.wait_for_timeout(50)
    assert new[0].wait(60) and new[0].error is None
    (done,) = (event for event in new[0].events() if isinstance(event, ImageDone))
    return done.image.getpixel((0, 0))


def opened(page: Page, address: str) -> None:
    page.goto(address + "?tab=extensions")
    expect(page.locator('[data-name="broken"]')).to_be_visible()


def lived_through(page: Page, address: str, engine: LocalEngine) -> None:
    """What is on the sheet is installed, used, switched off and removed."""
    page.on("dialog", lambda dialog: dialog.accept())
    sheet, row = page.locator('[data-v="sheet"]'), page.locator('[data-name="shouting"]')
    expect(sheet).to_contain_text("This runs with your rights")
    assert "painted" not in engine.registry.finishers
    sheet.get_by_text("Install and enable").click()
    expect(row).to_have_attribute("data-state", "on")
    page.get_by_role("button", name="Load again").click()
    expect(page.locator('a[data-tab="red"]')).to_be_attached()
    page.goto(address)
    page.get_by_role("button", name="Paint it red").click()
    page.check(SWITCH)
    assert corner(page, engine) == (255, 0, 0)
    page.goto(address + "?tab=extensions")
    row.get_by_text("Disable").click()
    expect(row).to_have_attribute("data-state", "off")
    page.goto(address)
    expect(page.locator("#txt2img_generate")).to_be_visible()
    expect(page.get_by_role("button", name="Paint it red")).to_have_count(0)
    assert corner(page, engine) != (255, 0, 0)
    page.goto(address + "?tab=extensions")
    row.get_by_text("Remove…").click()
    expect(row).to_have_count(0)
    assert not (engine.settings.data_dir / "extensions" / "shouting").exists()


def test_a_repository_is_installed_used_and_removed_on_the_page(
    page: Page, real: LocalEngine, served: tuple[Repository, str], tmp_path: Path
) -> None:
    repository, url = served
    commit = repository.push(extension__py=RED)
    with serving(real, tmp_path, "127.0.0.1") as address:
        opened(page, address)
        page.fill('[data-v="url"]', url)
        page.locator('[data-v="get"]').get_by_text("Look at it").click()
        expect(page.locator('[data-v="sheet"]')).to_contain_text(commit)
        lived_through(page, address, real)


def test_what_a_zip_draws_comes_and_goes_with_the_page(
    page: Page, real: LocalEngine, tmp_path: Path
) -> None:
    archive = tmp_path / "shouting-main.zip"
    archive.write_bytes(zipped({"extension.py": RED}))
    with serving(real, tmp_path) as address:
        opened(page, address)
        page.set_input_files('[data-v="zip"]', archive)
        lived_through(page, address, real)
