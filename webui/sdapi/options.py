"""A1111's options: what each caller has set, and what they come to in a request.

They are the caller's own. Nothing here changes the machine, or what others get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import VitrineError
from core.models.catalog import Kind, ModelFile
from core.request import Json
from webui.people import People
from webui.sdapi.given import ApiError, Given
from webui.sdapi.names import Names, title

KEPT_UNDER = "sdapi"
"""The name that a caller's options have among what people prefer."""

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
SOURCES = ("CPU", "GPU", "NV")
EMPHASES = ("None", "Ignore", "Original", "No norm")


@dataclass(frozen=True)
class Option:
    """One that can be set. `among`: what it can be; empty: anything of its kind."""

    default: Json
    among: tuple[str, ...] = ()


SETTABLE: Mapping[str, Option] = {
    "sd_model_checkpoint": Option(""),
    "sd_vae": Option("Automatic"),
    "CLIP_stop_at_last_layers": Option(1),
    "samples_format": Option("png", tuple(FORMATS)),
    "jpeg_quality": Option(80),
    "webp_lossless": Option(False),
    "randn_source": Option("CPU", SOURCES),
    "eta_noise_seed_delta": Option(0),
    "emphasis": Option("Original", EMPHASES),
    "tiling": Option(False),
    "eta_ancestral": Option(1.0),
    "eta_ddim": Option(0.0),
    "s_churn": Option(0.0),
    "s_tmin": Option(0.0),
    "s_tmax": Option(0.0),
    "s_noise": Option(1.0),
    "sigma_min": Option(0.0),
    "sigma_max": Option(0.0),
    "rho": Option(0.0),
    "always_discard_next_to_last_sigma": Option(False),
    "enable_quantization": Option(False),
    "live_previews_enable": Option(True),
}
"""A1111's name -> its default there."""

FIXED: Mapping[str, Json] = {
    "outdir_samples": "",
    "outdir_txt2img_samples": "outputs/txt2img-images",
    "outdir_img2img_samples": "outputs/img2img-images",
    "outdir_extras_samples": "",
    "outdir_grids": "",
    "outdir_txt2img_grids": "",
    "outdir_img2img_grids": "",
    "outdir_save": "",
    "outdir_init_images": "",
    "samples_save": True,
    "samples_filename_pattern": "[number]-[seed]",
    "save_to_dirs": True,
    "directories_filename_pattern": "[date]",
    "grid_save": False,
    "grid_format": "png",
    "return_grid": False,
    "enable_pnginfo": True,
    "save_txt": False,
    "add_model_name_to_info": True,
    "add_model_hash_to_info": True,
    "face_restoration": False,
    "face_restoration_model": None,
    "upscaler_for_img2img": None,
    "img2img_color_correction": False,
    "img2img_fix_steps": False,
    "img2img_background_color": "#ffffff",
    "initial_noise_multiplier": 1.0,
    "inpainting_mask_weight": 1.0,
    "sd_unet": "Automatic",
    "sd_noise_schedule": "Default",
    "use_downcasted_alpha_bar": False,
    "sd_lora": "None",
    "sd_hypernetwork": "None",
    "live_previews_image_format": "jpeg",
    "show_progress_every_n_steps": 1,
    "api_enable_requests": False,
    "hide_samplers": [],
    "disabled_extensions": [],
    "disable_all_extensions": "none",
}
"""What is as it is: told to those who ask, and refused to those who would change it."""

LENIENT = ("sd_checkpoint_hash",)
"""Clients send the whole dictionary back; this one may have become known meanwhile."""


class Options:
    """The options of every caller."""

    def __init__(self, people: People, names: Names) -> None:
        self._people, self._names = people, names

    def of(self, owner: str) -> dict[str, Json]:
        """Every option, as A1111 would tell it."""
        said = self._said(owner)
        file = self._checkpoint(str(said.get("sd_model_checkpoint") or ""))
        return {
            **FIXED,
            **{name: option.default for name, option in SETTABLE.items()},
            **said,
            "sd_model_checkpoint": title(file),
            "sd_checkpoint_hash": file.hash or "",
        }

    def effective(self, owner: str, overrides: Mapping[str, Any]) -> dict[str, Json]:
        """The same with those of one request over it; the checkpoint by the catalog's name.

        Raises:
            ApiError: an option there is not, or that can't be changed.
        """
        said = {name: option.default for name, option in SETTABLE.items()}
        return {**said, **self._said(owner), **self._checked(overrides)}

    def change(self, owner: str, values: Mapping[str, Any]) -> None:
        """Keeps what is new. All of it, or nothing.

        Raises:
            ApiError: an option there is not, or that can't be changed.
        """
        changed = self._checked(values)
        if changed:
            said = {**self._said(owner), **changed}
            self._people.change(owner, {KEPT_UNDER: said})

    def _checkpoint(self, name: str) -> ModelFile:
        catalog = self._names.catalog
        try:
            chosen = catalog.checkpoint(name or None)
        except VitrineError:  # it was chosen, and is there no longer
            chosen = catalog.default()
        return catalog.file(Kind.CHECKPOINT, chosen.name)

    def _said(self, owner: str) -> dict[str, Json]:
        said = self._people.of(owner).get(KEPT_UNDER)
        return dict(said) if isinstance(said, dict) else {}

    def _checked(self, values: Mapping[str, Any]) -> dict[str, Json]:
        given, found = Given(values), dict[str, Json]()
        for name, value in values.items():
            if name in LENIENT or value is None:
                continue
            if name in SETTABLE:
                found[name] = self._read(name, SETTABLE[name], given)
            elif name not in FIXED:
                raise ApiError(422, f"there is no option {name!r} here", name)
            elif value != FIXED[name]:
                raise ApiError(
                    422, f"the option {name} can't be changed here; it is {FIXED[name]!r}", name
                )
        return found

    def _read(self, name: str, option: Option, given: Given) -> Json:
        if name == "sd_model_checkpoint":
            text = given.chosen(name)
            return "" if text is None else self._names.checkpoint(text)
        if name == "sd_vae":
            text = given.text(name)
            return self._names.vae(text) or "Automatic"
        reader = READERS[type(option.default)]
        value = reader(given, name)
        if option.among:
            shelf = {entry.casefold(): entry for entry in option.among}
            if str(value).casefold() not in shelf:
                there = ", ".join(option.among)
                raise ApiError(422, f"{name} can be {there}, not {value!r}", name)
            return shelf[str(value).casefold()]
        return option.default if value is None else value


READERS: Mapping[type, Callable[[Given, str], Json]] = {
    bool: Given.truth,
    int: Given.whole,
    float: Given.number,
    str: Given.text,
}
