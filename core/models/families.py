"""All families of checkpoints that are understood."""

from core.models.family import Family
from core.models.sd1 import SD1
from core.models.sd2 import SD2
from core.models.sdxl import SDXL, SDXL_REFINER

FAMILIES: tuple[Family, ...] = (SD1, SD2, SDXL, SDXL_REFINER)
"""Each tells its files from those of the others, so their order does not count."""
