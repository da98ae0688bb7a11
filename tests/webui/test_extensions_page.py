"""The Extensions tab in a browser: a zip is looked at, installed, used, switched off, removed."""

from __future__ import annotations

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

from core.extend.house import Extensions
from core.registry import built_in
from core.settings import default_settings
from tests.core.extend.test_house import STEP, write
from tests.core.extend.test_install import zipped
from tests.webui.fake_engine import FakeEngine
from webui import hookspecs
from webui.app import create_app
from webui.gate import Rules


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine(0.0)
    yield made
    made.close()


@pytest.fixture
def address(engine: FakeEngine, tmp_path: Path) -> Iterator[str]:
    write(tmp_path / "shipped", "broken", "raise ValueError('<b>no</b>')")
    settings = default_settings(tmp_path)
    folders = [(tmp_path / "shipped", True), (settings.data_dir / "extensions", False)]
    extensions = Extensions(
        built_in(), folders, settings.data_dir, settings.outputs_dir, (hookspecs,), packages=False
    )
    extensions.listen(lambda registry: setattr(engine, "registry", registry))
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    app = create_app(engine, settings, Rules(port=port), extensions)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(timeout=5)


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
    assert not engine.registry.request_steps
    page.screenshot(path=str(tmp_path / "list.png"))
    row.get_by_text("Remove…").click()
    expect(row).to_have_count(0)
    expect(page.locator(".v-xt-list > li")).to_have_count(1)
    assert re.search("broken", page.locator(".v-xt-list").first.inner_text(), re.IGNORECASE)
