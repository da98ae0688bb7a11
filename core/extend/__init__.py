"""What an extension is written with; extensions/README.md is its guide.

from core.extend import CombineWrapper, hookimpl, setting
"""

from core.adapters.kinds import AdapterKind
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
from core.images.guides import Preprocessor
from core.models.family import Family

__all__ = [
    "AdapterKind",
    "AttentionWrapper",
    "CombineWrapper",
    "DenoiserWrapper",
    "Family",
    "Finisher",
    "Place",
    "Preprocessor",
    "Reader",
    "RequestStep",
    "SamplerEntry",
    "ScheduleEntry",
    "hookimpl",
    "setting",
]
