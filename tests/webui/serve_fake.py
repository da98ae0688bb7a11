"""A server with the fake engine, for trying the page by hand: python tests/webui/serve_fake.py."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).parents[2]))
from core.settings import default_settings
from tests.webui.fake_engine import FakeEngine
from webui.app import create_app
from webui.gate import Rules

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 7861
    pace = float(sys.argv[2]) if len(sys.argv) > 2 else 0.1
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(FakeEngine(pace), default_settings(Path(folder)), Rules(port=port))
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
