"""Routes of the Explain page for trying a model out: a picture under noise, one guess, the VAE.

No run is needed for it; the picture is one that was put in.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from core.engine.engine import DecodeLatents, EncodePicture, GuessOnce, PlotSchedules
from core.errors import RequestError
from core.request import MAX_SEED
from core.resolve import BOUNDS, MAX_PROMPT
from webui.looks import Arrays, Looks, png_of
from webui.packing import binary
from webui.stream import IMMUTABLE, Missing, Stage, owner


def routes(stage: Stage, looks: Looks) -> APIRouter:
    router = APIRouter()
    trials = Trials(stage, looks)
    _noise_routes(router, stage, looks, trials)
    _vae_routes(router, stage, looks, trials)
    _schedule_routes(router, stage, looks)
    return router


class Trials:
    """Pictures as latents, and guesses at them; asked for once and kept."""

    def __init__(self, stage: Stage, looks: Looks) -> None:
        self._stage, self._looks = stage, looks

    def encoded(self, picture: str, checkpoint: str, seed: int, mine: str) -> Any:
        if not 0 <= seed <= MAX_SEED:
            raise RequestError(f"seed must lie between 0 and {MAX_SEED}", "seed")
        query = EncodePicture(picture, checkpoint_of(self._stage, checkpoint), None, seed)
        return self._looks.asked(query, mine, query)

    def guess(
        self, picture: str, checkpoint: str, seed: int, timestep: float, prompt: str, mine: str
    ) -> Any:
        if not 0 <= timestep <= 999:
            raise RequestError("timestep must lie between 0 and 999", "timestep")
        if len(prompt) > MAX_PROMPT:
            raise RequestError(f"the prompt has more than {MAX_PROMPT:,} letters", "prompt")
        start = self.encoded(picture, checkpoint, seed, mine)
        name = checkpoint_of(self._stage, checkpoint)
        query = GuessOnce(name, None, start.latents, start.noise, timestep, prompt, "")
        return self._looks.asked(query, mine, ("guess", picture, name, seed, timestep, prompt))


def _noise_routes(router: APIRouter, stage: Stage, looks: Looks, trials: Trials) -> None:
    @router.get("/encoded/{picture}")
    def encoded(picture: str, request: Request, checkpoint: str = "", seed: int = 0) -> Response:
        """A picture as latents, noise to lay over it, and the levels of training."""
        found = trials.encoded(picture, checkpoint, seed, owner(request))
        arrays: Arrays = {
            "latents": ("f2", found.latents[0]),
            "noise": ("f2", found.noise[0]),
            "preview": ("f4", found.preview),
            "sigmas": ("f4", found.sigmas),
        }
        facts = {"checkpoint": checkpoint_of(stage, checkpoint), "size": found.picture.size}
        # Without a name it is the default model's, which may be another one tomorrow.
        return binary(facts, arrays, IMMUTABLE if checkpoint else None)

    @router.get("/guess/{picture}")
    def guess(
        picture: str,
        request: Request,
        timestep: float,
        checkpoint: str = "",
        seed: int = 0,
        prompt: str = "",
    ) -> Response:
        """What one call of the network makes of the noised picture, with a prompt and without."""
        found = trials.guess(picture, checkpoint, seed, timestep, prompt, owner(request))
        arrays: Arrays = {"cond": ("f2", found.cond[0]), "uncond": ("f2", found.uncond[0])}
        return binary({}, arrays)

    @router.get("/guess/{picture}/{which}.jpg")
    def developed(
        picture: str,
        which: str,
        request: Request,
        timestep: float,
        checkpoint: str = "",
        seed: int = 0,
        prompt: str = "",
    ) -> Response:
        """One of the guesses ("cond" or "uncond") through the VAE."""
        mine = owner(request)
        found = trials.guess(picture, checkpoint, seed, timestep, prompt, mine)
        latents = {"cond": found.cond, "uncond": found.uncond}
        if which not in latents:
            raise Missing("there is no such guess")
        return looks.picture(
            DecodeLatents(checkpoint_of(stage, checkpoint), None, latents[which]), mine
        )


def _vae_routes(router: APIRouter, stage: Stage, looks: Looks, trials: Trials) -> None:
    @router.get("/vae/{picture}")
    def through(picture: str, request: Request, checkpoint: str = "") -> dict[str, Any]:
        """What is left of a picture behind the VAE, in numbers."""
        from core.images.difference import difference

        mine = owner(request)
        found = trials.encoded(picture, checkpoint, 0, mine)
        name = checkpoint_of(stage, checkpoint)
        query = DecodeLatents(name, None, found.latents)
        back = looks.asked(query, mine, ("decoded", picture, name))
        lost = difference(found.picture, back)
        width, height = found.picture.size
        return {
            "width": width,
            "height": height,
            "pixels": width * height * 3,
            "latents": found.latents.numel(),
            "shape": list(found.latents.shape[1:]),
            "psnr": lost.psnr,
            "mean": lost.mean,
            "most": lost.most,
        }

    @router.get("/vae/{picture}/{which}.png")
    def before_and_behind(
        picture: str,
        which: str,
        request: Request,
        checkpoint: str = "",
        channel: int = 0,
        row: int = 0,
        column: int = 0,
        nudge: float = 0.0,
    ) -> Response:
        """The picture "before" the VAE, or "behind" it, perhaps with one latent cell nudged."""
        mine = owner(request)
        found = trials.encoded(picture, checkpoint, 0, mine)
        if which == "before":
            return png_of(found.picture)
        if which != "behind":
            raise Missing("there is no such picture")
        latents = found.latents.clone()
        _, channels, rows, columns = latents.shape
        if not (0 <= channel < channels and 0 <= row < rows and 0 <= column < columns):
            raise RequestError(f"there are {channels} channels of {rows} × {columns} cells")
        if not -20 <= nudge <= 20:
            raise RequestError("a nudge must lie between -20 and 20", "nudge")
        latents[0, channel, row, column] += nudge
        query = DecodeLatents(checkpoint_of(stage, checkpoint), None, latents)
        return png_of(looks.asked(query, mine))


def _schedule_routes(router: APIRouter, stage: Stage, looks: Looks) -> None:
    @router.get("/schedules")
    def schedules(request: Request, steps: int, checkpoint: str = "") -> Response:
        """The levels of every schedule for so many steps."""
        low, high = BOUNDS["steps"]
        if not low <= steps <= high:
            raise RequestError(f"steps must be a whole number from {low} to {high}", "steps")
        query = PlotSchedules(checkpoint_of(stage, checkpoint), steps)
        found = looks.asked(query, owner(request), query)
        shelf = stage.engine.registry.schedules
        told = [
            {"name": name, "title": shelf[name].title, "help": shelf[name].help}
            for name in found.schedules
        ]
        arrays: Arrays = {name: ("f4", levels) for name, levels in found.schedules.items()}
        arrays["training"] = ("f4", found.training)
        return binary({"schedules": told, "checkpoint": query.checkpoint}, arrays)


def checkpoint_of(stage: Stage, name: str) -> str:
    """Of that name, or the default one. Raises RequestError where there is none."""
    catalog = stage.engine.catalog
    return catalog.checkpoint(name).name if name else catalog.default().name
