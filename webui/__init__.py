"""The page and its routes: draws what the engine does, computes nothing.

gradio is known only in this room. Whatever may phone home is switched off here, before gradio or
huggingface_hub can be imported.
"""

from __future__ import annotations

import os

from webui.stubs import skip_stubs

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
skip_stubs()
