"""Vitrine's core: Stable Diffusion without a web page. Importing it does not import torch.

from core import GenerationRequest, LocalEngine, built_in, read_settings

engine = LocalEngine(read_settings(Path(".")), built_in())
for event in engine.submit(GenerationRequest(prompt="a red apple on a blue background")):
    print(event)
"""

import os

# Torch asks the system for pages of 2 MB instead of 4 kB wherever a tensor fills them (Linux; it
# reads this at its first tensor): new memory is ready six times as soon.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from core.engine.engine import DecodeStep
from core.engine.job import Job, JobState
from core.engine.local import LocalEngine
from core.errors import VitrineError
from core.events import Event, Finished, ImageDone, Started, Step
from core.registry import Registry, built_in
from core.request import GenerationRequest, SamplerOptions
from core.settings import Settings, read_settings

__all__ = [
    "DecodeStep",
    "Event",
    "Finished",
    "GenerationRequest",
    "ImageDone",
    "Job",
    "JobState",
    "LocalEngine",
    "Registry",
    "SamplerOptions",
    "Settings",
    "Started",
    "Step",
    "VitrineError",
    "built_in",
    "read_settings",
]
