"""What every test may lean on: nothing leaves this machine, and folders are temporary."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings, default_settings

# Read by libraries when they are imported, so before any test module is.
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",  # tiny models are done before a second thread has woken up
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A house of its own: empty models, outputs and data folders below `tmp_path`."""
    return default_settings(tmp_path)


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """Playwright drives the system's Chromium: nothing is downloaded for the tests."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    return {"executable_path": chromium, "args": ["--no-sandbox"]}
