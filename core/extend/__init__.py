"""What an extension is written with; extensions/README.md is its guide.

from core.extend import CombineWrapper, hookimpl, setting
"""

from core.additions import (
    AttentionWrapper,
    CombineWrapper,
    DenoiserWrapper,
    Finisher,
    Reader,
    RequestStep,
    setting,
)
from core.entries import SamplerEntry, ScheduleEntry
from core.extend.hookspecs import Place, hookimpl

__all__ = [
    "AttentionWrapper",
    "CombineWrapper",
    "DenoiserWrapper",
    "Finisher",
    "Place",
    "Reader",
    "RequestStep",
    "SamplerEntry",
    "ScheduleEntry",
    "hookimpl",
    "setting",
]
