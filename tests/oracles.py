"""Reference implementations that tests compare with; nothing of them is used outside tests."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache
from pathlib import Path


@cache
def k_diffusion_sampling() -> types.ModuleType:
    """`k_diffusion.sampling` alone.

    The package's own start imports training code with many needs; sampling itself asks only for
    torchdiffeq and torchvision, for functions that are not called here. The stand-ins are taken
    away again, since diffusers and transformers would trip over them.
    """
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None, "k-diffusion is missing: python3 launch.py test installs it"
    assert spec.submodule_search_locations is not None
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(Path(place)) for place in spec.submodule_search_locations]
    stubs = {
        name: types.ModuleType(name)
        for name in ("torchdiffeq", "torchvision", "torchvision.transforms")
        if name not in sys.modules
    }
    stubs["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    stubs["torchvision"].transforms = stubs["torchvision.transforms"]  # type: ignore[attr-defined]
    stubs["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    sys.modules.update(stubs, k_diffusion=package)
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in stubs:
            del sys.modules[name]
