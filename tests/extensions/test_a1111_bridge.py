"""Three extensions written as AUTOMATIC1111's are, by way of the bridge."""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import webui.hookspecs
from core.extend.house import Extensions
from core.extend.install import Installer
from core.registry import built_in
from core.request import GenerationRequest
from tests.webui.fake_engine import FakeEngine
from webui import panels
from webui.extending import Hosted
from webui.stream import Stage

HERE = Path(__file__).parent / "a1111"
SHIPPED = Path(__file__).parents[2] / "extensions"


def zipped(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in folder.rglob("*.*"):
            if "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(folder.parent))
    return out.getvalue()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Extensions]:
    """All three installed as a person would, and on."""
    installer = Installer(tmp_path, ())
    tiers = {}
    for name in ("tags", "louder", "sweep"):
        staged = installer.install(installer.look_into(zipped(HERE / name), f"{name}.zip").id)
        tiers[name] = staged.tier[0]
    assert "tier A" in tiers["tags"] and "tier B" in tiers["louder"] and "tier B" in tiers["sweep"]
    folders = [(SHIPPED, True), (installer.folder, False)]
    made = Extensions(built_in(), folders, tmp_path, tmp_path, (webui.hookspecs,), packages=False)
    for name in ("a1111_bridge", *tiers):
        made.enable(name)
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] == "modules"]:
        del sys.modules[name]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine(0.0)
    yield made
    made.close()


def test_routes_settings_and_scripts_of_the_page_are_served(
    house: Extensions, engine: FakeEngine
) -> None:
    client = TestClient(Hosted(house, engine))
    assert client.get("/tags/tags/all/l").json() == {"tags": ["landscape"]}
    told = client.get("/a1111_bridge/bridged").json()
    assert told["scripts"] == ["/ext/tags/javascript/tags.js"]
    assert told["styles"] == ["/ext/tags/style.css"]
    assert "onUiLoaded" in client.get("/tags/javascript/tags.js").text
    assert client.get("/tags/style.css").text.startswith(".tags")
    assert client.get("/tags/javascript/..%2Fscripts%2Ftags.py").status_code in (404, 422)


def test_a_script_that_is_always_there_acts_where_it_is_asked_to(house: Extensions) -> None:
    registry = house.registry
    (panel,) = (one for one in panels.panels(house) if one.panel.name == "louder")
    names = [field.name.rpartition(".")[2] for field in panel.fields]
    assert (panel.panel.title, names) == ("Louder", ["enabled", "times", "mark", "done"])

    def stepped(**settings: Any) -> GenerationRequest:
        extras = registry.checked({"louder": settings})
        return registry.stepped(GenerationRequest(prompt="a fox", seed=1, extras=extras))

    assert stepped(times=3).prompt == "a fox!!!"
    assert stepped(enabled=False).prompt == "a fox"
    once = stepped(mark="?")
    assert once.prompt == "a fox??" and registry.stepped(once) == once
    plain = GenerationRequest(prompt="a fox", seed=1)
    assert registry.stepped(plain) == plain
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    assert registry.finished(image, once).getpixel((0, 0)) == (245, 235, 225)
    assert registry.finished(image, plain) is image


def test_a_script_that_is_chosen_runs_in_a_tab(house: Extensions, engine: FakeEngine) -> None:
    page = importlib.import_module("vitrine_extension_a1111_bridge.page")
    pages = {page.title: place.name for place, page in house.asked("pages")}
    assert pages == {"Sweep of steps": "sweep"}
    there = sys.modules["vitrine_extension_a1111_bridge"].THERE["sweep"]
    (script,) = there._listed
    images = page.ran(script, ["a fox", "", 3], Stage(engine), "me")
    assert len(images) == 3 and all(isinstance(image, Image.Image) for image in images)
    asked = [job.request for job in engine.jobs("me")]
    assert [request.steps for request in asked] == [2, 3, 4]
    assert len({request.seed for request in asked}) == 1 and asked[0].prompt == "a fox"


def test_without_the_bridge_each_says_what_it_needs(tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("vitrine_extension_a1111")]:
        del sys.modules[name]
    installer = Installer(tmp_path, ())
    installer.install(installer.look_into(zipped(HERE / "tags"), "tags.zip").id)
    made = Extensions(built_in(), [(installer.folder, False)], tmp_path, tmp_path, packages=False)
    with pytest.raises(Exception, match="it needs the AUTOMATIC1111 bridge"):
        made.enable("tags")
