"""A1111's fields to requests. Whatever is asked for and can't be done ends in a sentence."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.images import infotext
from core.images.inputs import Inputs
from core.request import (
    Emphasis,
    Enlarge,
    Fill,
    GenerationRequest,
    Json,
    NoiseKind,
    Record,
    Refine,
    Resize,
    SamplerOptions,
    ScheduleOptions,
    StartImage,
    Variation,
)
from core.resolve import DRAWN_SEEDS
from core.text.prompt import lifted
from core.text.styles import applied, read_styles
from webui.sdapi import controlnet
from webui.sdapi.given import ApiError, Given, picture_bytes
from webui.sdapi.names import Names
from webui.sdapi.options import FORMATS

STEPS, CFG_SCALE, SAMPLER = 50, 7.0, "Euler"
"""A1111's defaults of the API, where neither the client nor the model says anything."""

RESIZES = (Resize.STRETCH, Resize.CROP, Resize.FILL, Resize.LATENT)
FILLS = (Fill.COLOUR, Fill.ORIGINAL, Fill.NOISE, Fill.NOTHING)
"""A1111's numbers are their places."""

WITHOUT_MEANING = (
    *("do_not_save_samples", "do_not_save_grid", "override_settings_restore_afterwards"),
    *("comments", "force_task_id", "image_cfg_scale", "firstpass_image", "script_args"),
    *("init_images", "mask", "latent_mask", "include_init_images", "distilled_cfg_scale"),
    *("hr_cfg", "hr_distilled_cfg", "hr_additional_modules", "inpainting_mask_weight"),
)
"""Known fields that change nothing here, or that are read elsewhere."""


@dataclass(frozen=True)
class Asked:
    """What one call comes to."""

    requests: tuple[GenerationRequest, ...]
    """One, or one for each picture to begin from."""
    sends: bool
    """Whether the pictures are in the answer."""
    saves: bool
    """Whether they are saved to disk as well."""
    kind: str
    """Of the files in the answer: "PNG", "JPEG", "WEBP"."""
    quality: int
    lossless: bool
    ignored: tuple[str, ...]
    """Fields that mean nothing here."""


class Translator:
    """Reads the bodies of txt2img and img2img."""

    def __init__(self, names: Names, inputs: Inputs, styles: Path) -> None:
        self._names, self._inputs, self._styles = names, inputs, styles

    def txt2img(self, given: Given, options: Mapping[str, Json]) -> Asked:
        """
        Raises:
            ApiError: names the field.
        """
        request = self._common(given, options)
        first = (given.whole("firstphase_width") or 0, given.whole("firstphase_height") or 0)
        enlarge = self._enlarge(given)
        if enlarge is not None and any(first):
            # Older clients give the size of the first pass apart.
            enlarge = replace(enlarge, width=request.width, height=request.height)
            width, height = (_eighths(side) if side else None for side in first)
            request = replace(request, width=width, height=height)
        return self._asked(given, options, (replace(request, enlarge=enlarge),))

    def img2img(self, given: Given, options: Mapping[str, Json]) -> Asked:
        """
        Raises:
            ApiError: names the field; 404 without a picture, as A1111 answers.
        """
        pictures = given.list("init_images")
        if not pictures:
            raise ApiError(404, "Init image not found", "init_images")
        request = self._common(given, options)
        starts = [self._start(given, picture) for picture in pictures]
        if len(starts) == 1:
            return self._asked(given, options, (replace(request, start=starts[0]),))
        # As in A1111 each picture is one of a batch, and the seeds count on.
        seed = secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed
        rounds = max(1, given.whole("n_iter") or 1)
        alone = replace(request, images=1)
        requests = (
            replace(alone, start=start, seed=seed + number)
            for number, start in enumerate(starts * rounds)
        )
        return self._asked(given, options, tuple(requests))

    def _asked(
        self, given: Given, options: Mapping[str, Json], requests: tuple[GenerationRequest, ...]
    ) -> Asked:
        sends = given.value("send_images") is None or given.truth("send_images")
        return Asked(
            requests,
            sends=sends,
            saves=given.truth("save_images") and not given.truth("do_not_save_samples"),
            kind=FORMATS[str(options["samples_format"])],
            quality=min(100, max(1, int(str(options["jpeg_quality"])))),
            lossless=bool(options["webp_lossless"]),
            ignored=tuple(given.unread(WITHOUT_MEANING)),
        )

    def _common(self, given: Given, options: Mapping[str, Json]) -> GenerationRequest:
        """All but what begins from a picture and what is enlarged."""
        check_scripts(given)
        _check_what_is_not_there(given)
        base = self._base(given)
        prompt, negative = self._prompts(given, base)
        name = given.chosen("sd_model_checkpoint") or str(options["sd_model_checkpoint"])
        checkpoint = self._names.checkpoint(name) if name else base.checkpoint
        defaults = self._names.catalog.checkpoint(checkpoint).defaults
        told = given.text("infotext") is not None
        sampler, schedule = self._sampling(given, base if told else None)
        size = [given.whole(name) for name in ("width", "height")]
        width, height = (None if side is None else _eighths(side) for side in size)
        cfg_scale, steps = given.number("cfg_scale"), given.whole("steps")
        seed = given.whole("seed")
        if not told:
            base = replace(
                base,
                steps=int(defaults.get("steps", STEPS)),
                cfg_scale=float(defaults.get("cfg_scale", CFG_SCALE)),
            )
        return replace(
            base,
            prompt=prompt,
            negative_prompt=negative,
            checkpoint=checkpoint,
            vae=self._names.vae(str(options["sd_vae"])) or base.vae,
            seed=base.seed if seed is None else None if seed < 0 else seed,
            width=width or base.width,
            height=height or base.height,
            steps=base.steps if steps is None else steps,
            cfg_scale=base.cfg_scale if cfg_scale is None else cfg_scale,
            sampler=sampler,
            schedule=schedule,
            images=_count(given, "batch_size") * _count(given, "n_iter"),
            sampler_options=self._sampler_options(given, options, sampler),
            schedule_options=_schedule_options(options),
            clip_skip=_clip_skip(given, options, base),
            emphasis=_emphasis(options, base),
            noise=NoiseKind.CPU if options["randn_source"] == "CPU" else NoiseKind.NV,
            ensd=int(str(options["eta_noise_seed_delta"])) or base.ensd,
            variation=_variation(given) or base.variation,
            tiling=given.truth("tiling") or bool(options["tiling"]) or base.tiling,
            refine=self._refine(given) or base.refine,
            controls=controlnet.units(given, self._names, self._inputs) or base.controls,
            record=Record.STEPS,
        )

    def _base(self, given: Given) -> GenerationRequest:
        """What the field `infotext` says, where a client sends one; fields of the body beat it."""
        text = given.text("infotext")
        if text is None:
            return GenerationRequest(prompt="")
        checkpoints = [checkpoint.name for checkpoint in self._names.catalog.checkpoints()]
        found = infotext.request_from(text, self._names.registry, checkpoints)[0]
        # A text holds no pictures, and a call has nobody to choose one.
        return replace(found, controls=())

    def _prompts(self, given: Given, base: GenerationRequest) -> tuple[str, str]:
        typed = [given.text(name) for name in ("prompt", "negative_prompt")]
        prompt = base.prompt if typed[0] is None else typed[0]
        negative = base.negative_prompt if typed[1] is None else typed[1]
        if given.truth("disable_extra_networks"):
            prompt = lifted(prompt)[0]
        chosen = [str(name) for name in given.list("styles") if name not in (None, "", "None")]
        if not chosen:
            return prompt, negative
        return applied(prompt, negative, read_styles(self._styles).named(chosen))

    def _sampling(
        self, given: Given, told: GenerationRequest | None
    ) -> tuple[str, str | tuple[float, ...]]:
        """`told`: what an infotext said, which holds where the client names no sampler."""
        named = given.text("sampler_name") or given.text("sampler_index")
        scheduler = given.text("scheduler")
        if told is not None and not named:
            return told.sampler, told.schedule
        return self._names.sampler(named or SAMPLER, scheduler)

    def _sampler_options(
        self, given: Given, options: Mapping[str, Json], sampler: str
    ) -> SamplerOptions:
        """What the sampler takes; the rest A1111 too leaves out without a word."""
        eta = "eta_ddim" if sampler == "ddim" else "eta_ancestral"
        taken = self._names.registry.sampler(sampler).options
        values: dict[str, float | None] = {}
        for name, option in (("eta", eta), *((n, n) for n in taken if n != "eta")):
            value = given.number(name)
            if value is None and options[option] != _default(option):
                value = float(str(options[option]))
            values[name] = value
        if not values.get("s_tmax"):
            values["s_tmax"] = None  # A1111 means by 0 that there is no end
        return SamplerOptions(**{name: values.get(name) for name in taken})

    def _enlarge(self, given: Given) -> Enlarge | None:
        if not given.truth("enable_hr"):
            return None
        strength = given.number("denoising_strength")
        checkpoint = _own(given.chosen("hr_checkpoint_name"))
        sampler, scheduler = (
            _own(given.chosen("hr_sampler_name")),
            _own(given.chosen("hr_scheduler")),
        )
        named = None if sampler is None else self._names.sampler(sampler, scheduler)
        schedule = None if named is None else str(named[1])
        if scheduler is not None and named is None:
            schedule = str(self._names.sampler(SAMPLER, scheduler)[1])
        return Enlarge(
            width=_eighths(given.whole("hr_resize_x") or 0) or None,
            height=_eighths(given.whole("hr_resize_y") or 0) or None,
            scale=given.number("hr_scale") or 2.0,
            upscaler=self._names.upscaler(given.text("hr_upscaler") or "Latent"),
            strength=0.7 if strength is None else strength,
            steps=given.whole("hr_second_pass_steps") or None,
            cfg_scale=given.number("hr_cfg") or None,
            sampler=None if named is None else named[0],
            schedule=schedule,
            prompt=given.text("hr_prompt") or None,
            negative_prompt=given.text("hr_negative_prompt") or None,
            checkpoint=None if checkpoint is None else self._names.checkpoint(checkpoint),
        )

    def _refine(self, given: Given) -> Refine | None:
        name, switch_at = given.chosen("refiner_checkpoint"), given.number("refiner_switch_at")
        if name is None or switch_at == 1:
            return None
        switch_at = 0.8 if switch_at is None else switch_at
        return Refine(checkpoint=self._names.checkpoint(name), switch_at=switch_at)

    def _start(self, given: Given, picture: Any) -> StartImage:
        mask = given.value("mask") or given.value("latent_mask")
        strength = given.number("denoising_strength")
        whole = given.value("inpaint_full_res")
        mask_name = None if not mask else self._inputs.add(picture_bytes(mask, "mask"))
        return StartImage(
            picture=self._inputs.add(picture_bytes(picture, "init_images")),
            mask=mask_name,
            strength=0.75 if strength is None else strength,
            resize=_among(given, "resize_mode", RESIZES, 0),
            fill=_among(given, "inpainting_fill", FILLS, 0),
            invert=bool(given.whole("inpainting_mask_invert") or 0),
            blur=_blur(given),
            only_masked=mask_name is not None
            and (whole is None or given.truth("inpaint_full_res")),
            padding=given.whole("inpaint_full_res_padding") or 0,
        )


def check_scripts(given: Given) -> None:
    """Raises ApiError for a script that is asked to do anything."""
    if (script := given.chosen("script_name")) is not None:
        raise ApiError(422, f"Script '{script}' not found", "script_name")
    for name, entry in given.object("alwayson_scripts").items():
        arguments = entry.get("args", []) if isinstance(entry, Mapping) else entry
        if not isinstance(arguments, list):
            raise ApiError(422, f"the args of {name} must be a list", "alwayson_scripts")
        if name.casefold() != controlnet.SCRIPT and any(_is_on(argument) for argument in arguments):
            raise ApiError(
                422,
                f"always on script {name} not found: it is not there to be used",
                "alwayson_scripts",
            )


def _is_on(argument: Any) -> bool:
    """Whether an argument asks a script for something: clients name scripts they do not use."""
    if isinstance(argument, Mapping):
        on = argument.get("enabled", argument.get("enable", argument.get("ad_tab_enable")))
        return on is None or bool(on)
    return bool(argument)


def _check_what_is_not_there(given: Given) -> None:
    """Raises ApiError for what would change the picture and is not known here."""
    if given.truth("restore_faces"):
        raise ApiError(422, "faces are not repaired here; leave restore_faces out", "restore_faces")
    for name, nothing in (("s_min_uncond", 0.0), ("initial_noise_multiplier", 1.0)):
        value = given.number(name)
        if value is not None and value != nothing:
            raise ApiError(422, f"{name} is not known here; only {nothing:g} can be asked", name)
    if given.value("mask_round") is not None and not given.truth("mask_round"):
        raise ApiError(
            422, "mask_round false is not known here; masks are hard in latents", "mask_round"
        )


def _eighths(side: int) -> int:
    """A1111 leaves out what is beyond a multiple of 8."""
    return side // 8 * 8


def _count(given: Given, name: str) -> int:
    value = given.whole(name)
    if value is not None and value < 1:
        raise ApiError(422, f"{name} must be 1 or more, not {value}", name)
    return value or 1


def _default(option: str) -> float:
    return {"eta_ancestral": 1.0, "s_noise": 1.0}.get(option, 0.0)


def _own(choice: str | None) -> str | None:
    """A1111's "Use same sampler" and the like: none."""
    return None if choice is None or choice.casefold().startswith("use same") else choice


def _among(given: Given, name: str, choices: tuple[Any, ...], default: int) -> Any:
    value = given.whole(name)
    number = default if value is None else value
    if not 0 <= number < len(choices):
        raise ApiError(422, f"{name} must be 0 to {len(choices) - 1}, not {number}", name)
    return choices[number]


def _blur(given: Given) -> int:
    both = {given.whole(name) for name in ("mask_blur_x", "mask_blur_y")} - {None}
    if len(both) > 1:
        raise ApiError(422, "mask_blur_x and mask_blur_y must be the same here", "mask_blur_x")
    whole = given.whole("mask_blur")
    return int(next(iter(both), None) or 0) if both else 4 if whole is None else whole


def _variation(given: Given) -> Variation | None:
    strength = given.number("subseed_strength") or 0.0
    width, height = (given.whole(f"seed_resize_from_{side}") or 0 for side in "wh")
    resized = (width, height) if width > 0 and height > 0 else None
    if not strength and resized is None:
        return None
    seed = given.whole("subseed")
    return Variation(
        seed=None if seed is None or seed < 0 else seed, strength=strength, resize_from=resized
    )


def _clip_skip(given: Given, options: Mapping[str, Json], base: GenerationRequest) -> int:
    typed = given.whole("clip_skip")
    said = int(str(options["CLIP_stop_at_last_layers"]))
    return max(1, typed) if typed is not None else said if said > 1 else base.clip_skip


def _emphasis(options: Mapping[str, Json], base: GenerationRequest) -> Emphasis:
    chosen = str(options["emphasis"]).casefold()
    return base.emphasis if chosen == "original" else Emphasis(chosen)


def _schedule_options(options: Mapping[str, Json]) -> ScheduleOptions:
    """A1111 means by 0 that nothing is set."""
    numbers = {
        name: float(str(options[name])) or None for name in ("sigma_min", "sigma_max", "rho")
    }
    return ScheduleOptions(
        discard_penultimate=bool(options["always_discard_next_to_last_sigma"]) or None,
        round_timesteps=bool(options["enable_quantization"]),
        **numbers,
    )
