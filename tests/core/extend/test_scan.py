"""What the scanner says of extensions written as AUTOMATIC1111's are."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from core.extend.install import Installer
from core.extend.scan import is_a1111, scanned
from tests.core.extend.test_install import zipped

ROUTES = """
    from modules import script_callbacks, shared

    def on_app_started(demo, app):
        @app.get("/tags")
        def tags(): return {"dir": shared.opts.data.get("tags")}

    script_callbacks.on_app_started(on_app_started)
"""
SCRIPT = """
    import modules.scripts as scripts
    import gradio as gr

    class Loud(scripts.Script):
        def title(self): return "Loud"
        def show(self, is_img2img): return scripts.AlwaysVisible
        def ui(self, is_img2img): return [gr.Checkbox()]
        def process(self, p, enabled): p.prompt += "!"
        def postprocess_maskoverlay(self, p, pp): ...
"""
GUIDES = (
    SCRIPT
    + """
    from modules.script_callbacks import on_cfg_denoiser
    import modules.script_callbacks
    modules.script_callbacks.on_cfg_denoiser(print)
"""
)
SURGERY = """
    import modules.scripts as scripts
    from modules import sd_samplers
    from modules.sd_hijack import model_hijack
    old = sd_samplers.create_sampler
    sd_samplers.create_sampler = lambda *a: old(*a)
"""


def write(folder: Path, source: str, **more: str) -> Path:
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "one.py").write_text(dedent(source))
    for name, text in more.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("source", "tier", "said"),
    [
        (ROUTES, "A", ""),
        (SCRIPT, "B", "postprocess_maskoverlay"),
        (GUIDES, "C", "on_cfg_denoiser"),
        (SURGERY, "D", "modules.sd_hijack"),
        ("import ldm.modules.attention", "D", "ldm"),
        (SCRIPT + "\n    gr.Box().style(x=1)\n", "B", "Gradio 3: gr.Box, style"),
        ("print 'python 2'", "A", "can't be read as Python 3: scripts/one.py"),
    ],
)
def test_each_is_of_its_tier_and_says_why(
    tmp_path: Path, source: str, tier: str, said: str
) -> None:
    scan = scanned(write(tmp_path, source))
    assert scan.tier == tier and said in " ".join(scan.reasons)


def test_setting_an_option_is_no_surgery(tmp_path: Path) -> None:
    source = "from modules import shared\nshared.opts.x = 1\nshared.state.job = 'x'\n"
    assert scanned(write(tmp_path, source)).tier == "A"


def test_nothing_of_it_runs_and_it_ends(tmp_path: Path) -> None:
    source = "import pathlib; pathlib.Path(__file__ + '.ran').touch()"
    write(tmp_path, source, install_py="raise SystemExit")
    (tmp_path / "scripts" / "deep.py").write_text("(" * 5_000)
    scan = scanned(tmp_path)
    assert scan.installs and not list(tmp_path.rglob("*.ran"))
    assert "deep.py" in " ".join(scan.reasons)


def test_its_tier_is_told_before_it_is_installed(tmp_path: Path) -> None:
    data = zipped({"scripts/one.py": dedent(SCRIPT)})
    staged = Installer(tmp_path, ()).look_into(data, "sd-webui-loud.zip")
    assert "of tier B" in staged.tier[0] and staged.name == "loud"
    assert is_a1111(tmp_path / "extensions-staging" / staged.id)
