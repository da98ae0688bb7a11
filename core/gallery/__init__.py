"""What was made, found again: an index of saved pictures, their thumbnails, their bin.

It knows neither pages nor jobs, and needs no torch until a file is read or made small.
"""

from core.gallery.gallery import Gallery
from core.gallery.indexed import indexed
from core.gallery.picture import Page, Picture, Scan

__all__ = ["Gallery", "Page", "Picture", "Scan", "indexed"]
