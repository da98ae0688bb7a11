"""The pictures that guide a run, at the size that is painted; what each is used for is not known.

Torch-free, so the page can show a guide before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from core.errors import RequestError
from core.images.guides import Estimates, Preprocessor, preprocessor
from core.images.inputs import Inputs
from core.images.masks import prepared as prepared_mask
from core.images.pixels import in_rgb
from core.images.resize import resized, stretched
from core.images.start import Prepared
from core.request import ControlUse, Resize


@dataclass(frozen=True)
class Scene:
    """What a guide is a part of: one pass, and the picture it began from."""

    inputs: Inputs | None
    width: int
    """Pixels that are painted."""
    height: int
    begun: Prepared | None = None
    estimates: Estimates | None = None
    """Networks that may be asked of a picture; None: there are none at hand."""
    preprocessors: Mapping[str, Preprocessor] | None = None
    """What makes guides; None: what ships."""

    def guide(self, use: ControlUse, where: str = "controls") -> Image.Image:
        """RGB, or RGBA where the network is to invent; `width` × `height`.

        Raises:
            RequestError: a picture, mask or network is missing; a preprocessor or its setting is
                unknown.
            FileError: a network's file is damaged.
        """
        one = preprocessor(use.preprocessor, f"{where}.preprocessor", self.preprocessors)
        settings = one.checked(use.settings, f"{where}.settings.")
        hidden = self.hidden(use) if use.preprocessor == "inpaint" else None
        return one(self.picture(use, where), settings, hidden, self.estimates)

    def picture(self, use: ControlUse, where: str = "controls") -> Image.Image:
        """What the guide is made of: RGB, `width` × `height`."""
        if use.picture is not None:
            return self._placed(in_rgb(self._opened(use.picture)), use)
        return stretched(self._begun(where).picture, self.width, self.height)

    def whole(self, use: ControlUse, where: str = "controls") -> Image.Image:
        """The picture at its own size, for what looks at it as a whole: RGB."""
        if use.picture is not None:
            return in_rgb(self._opened(use.picture))
        return self._begun(where).picture

    def mask(self, use: ControlUse) -> Image.Image | None:
        """Where the guide acts: mode L, `width` × `height`; None: everywhere."""
        if use.mask is None or use.preprocessor == "inpaint":
            return None
        return self._mask(use)

    def hidden(self, use: ControlUse) -> Image.Image | None:
        """What an inpainting guide hides: its own mask, or that of the picture begun from."""
        if use.mask is not None:
            return self._mask(use)
        if self.begun is None or self.begun.mask is None:
            return None
        return stretched(self.begun.mask, self.width, self.height)

    def _mask(self, use: ControlUse) -> Image.Image:
        assert use.mask is not None
        found = self._opened(use.mask)
        return self._placed(prepared_mask(found, found.size), use)

    def _placed(self, picture: Image.Image, use: ControlUse) -> Image.Image:
        """At the size that is painted; where only a part is, the same part of it."""
        how = Resize.STRETCH if use.resize is Resize.LATENT else use.resize
        begun = self.begun
        if begun is not None and begun.box is not None and begun.original is not None:
            part = resized(picture, *begun.original.size, how).crop(begun.box)
            return stretched(part, self.width, self.height)
        return resized(picture, self.width, self.height, how)

    def _opened(self, name: str) -> Image.Image:
        if self.inputs is None:
            raise RequestError("there is no folder of pictures here to be guided by", "controls")
        return self.inputs.open(name)

    def _begun(self, where: str) -> Prepared:
        if self.begun is None:
            raise RequestError(
                "a guide needs a picture: choose one, or start from a picture", f"{where}.picture"
            )
        return self.begun
