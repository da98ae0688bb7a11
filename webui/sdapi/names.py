"""What clients call things, and which of ours is meant: as generous as A1111."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.engine.engine import Engine
from core.errors import RequestError
from core.images.resize import FILTERS
from core.models.catalog import Catalog, Kind, ModelFile
from core.passes import LATENT_UPSCALERS
from core.registry import Registry
from core.settings import Settings
from webui.sdapi.given import ApiError

NO_UPSCALER = "None"


@dataclass(frozen=True)
class Names:
    """The shelves, asked with A1111's words."""

    engine: Engine
    settings: Settings

    @property
    def catalog(self) -> Catalog:
        return self.engine.catalog

    @property
    def registry(self) -> Registry:
        """As it is now: extensions may put more on the shelves."""
        return self.engine.registry

    def checkpoint(self, text: str, field: str = "sd_model_checkpoint") -> str:
        """The catalog's name. By name, file, title, hash; else the shortest title it is part of."""
        try:
            return self.catalog.checkpoint(text).name
        except RequestError as error:
            wanted = text.partition(" [")[0].casefold().strip()
            parts = [
                f for f in self.catalog.files(Kind.CHECKPOINT) if wanted in title(f).casefold()
            ]
            if not wanted or not parts:
                raise ApiError(422, str(error), field) from error
            return min(parts, key=lambda file: len(title(file))).name

    def vae(self, text: str | None) -> str | None:
        """The catalog's name; None for "Automatic" and "None", which both leave it to the file."""
        if text is None or text.casefold() in ("", "automatic", "none", "auto"):
            return None
        try:
            return self.catalog.file(Kind.VAE, text, "sd_vae").name
        except RequestError as error:
            raise ApiError(422, str(error), "sd_vae") from error

    def sampler(self, text: str, scheduler: str | None) -> tuple[str, str]:
        """(sampler, schedule). "DPM++ 2M Karras" means both, whatever `scheduler` says.

        Raises:
            ApiError: 400, as A1111 answers.
        """
        schedule = "automatic"
        if scheduler and scheduler.casefold() != "automatic":
            schedule = self._schedule(scheduler)
        if (found := self._sampler(text)) is not None:
            return found, schedule
        for entry in self.registry.schedules.values():
            for ending in (entry.title, entry.name):
                head = text[: -len(ending) - 1]
                if text.casefold().endswith(" " + ending.casefold()) and (
                    found := self._sampler(head)
                ):
                    return found, entry.name
        there = ", ".join(entry.title for entry in self.registry.samplers.values())
        raise ApiError(400, f"no sampler named {text!r}; there are: {there}", "sampler_name")

    def upscaler(self, text: str, latent: bool = True) -> str:
        """Ours of that name; "None" scales by Lanczos, as A1111 does."""
        if text.casefold() == NO_UPSCALER.casefold():
            return "Lanczos"
        built_in = {
            name.casefold(): name for name in (*(LATENT_UPSCALERS if latent else ()), *FILTERS)
        }
        if text.casefold() in built_in:
            return built_in[text.casefold()]
        try:
            return self.catalog.file(Kind.UPSCALER, text).name
        except RequestError as error:
            there = [*built_in.values(), *(f.name for f in self.catalog.files(Kind.UPSCALER))]
            raise ApiError(
                422, f"no upscaler named {text!r}; there are: {', '.join(there)}", "upscaler"
            ) from error

    def shown(self, path: Path) -> str:
        """A path below the models folder; beyond it the file's name alone."""
        base = self.settings.models_dir.parent
        return str(path.relative_to(base)) if path.is_relative_to(base) else path.name

    def _sampler(self, text: str) -> str | None:
        plain = text.strip()
        for name in (plain, plain.casefold().removeprefix("k_")):
            try:
                return self.registry.sampler(name).name
            except RequestError:
                continue
        return None

    def _schedule(self, text: str) -> str:
        for name in (text, text.casefold().replace(" ", "_")):
            try:
                return self.registry.schedule(name).name
            except RequestError:
                continue
        there = ", ".join(entry.title for entry in self.registry.schedules.values())
        raise ApiError(
            400, f"no scheduler named {text!r}; there are: Automatic, {there}", "scheduler"
        )


def title(file: ModelFile) -> str:
    """A1111's: the file's name below its folder, and the short hash once it is known."""
    folder = file.name.rpartition("/")[0]
    name = f"{folder}/{file.path.name}" if folder else file.path.name
    return f"{name} [{file.hash[:10]}]" if file.hash else name
