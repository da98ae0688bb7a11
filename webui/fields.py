"""The form's table: a request's field, its words, its widget and its limits.

It knows no widgets and no values; webui/form.py reads and writes by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.request import Emphasis, GenerationRequest, NoiseKind
from core.resolve import BOUNDS, OPTION_BOUNDS, PART_BOUNDS, SIZE_STEP

Kind = Literal["text", "whole", "number", "seed", "choice", "flag", "picture", "guides"]
Place = Literal[
    "mode", "prompt", "basic", "more", "start", "inpaint", "enlarge", "refine", "guides"
]

OPTION = "sampler_options."
SCHEDULE_OPTION = "schedule_options."
VARIATION = "variation."
START = "start."
ENLARGE = "enlarge."
REFINE = "refine."
AUTOMATIC = "automatic"

MODE = "mode"
"""What a request begins from is no field of it: it follows from the parts that are set."""
ENLARGES = "enlarge.on"
"""Nor is whether it enlarges."""

LIMITS: Mapping[str, tuple[float, float]] = {
    **BOUNDS,
    **PART_BOUNDS,
    **{OPTION + name: bound for name, bound in OPTION_BOUNDS.items()},
    **{SCHEDULE_OPTION + name: bound for name, bound in OPTION_BOUNDS.items()},
    "variation.seed": BOUNDS["seed"],
    "variation.strength": (0, 1),
    "variation.resize_from.width": BOUNDS["width"],
    "variation.resize_from.height": BOUNDS["height"],
    **{f"start.extend.{side}": (0, 4096) for side in ("left", "top", "right", "bottom")},
    "enlarge.width": BOUNDS["width"],
    "enlarge.height": BOUNDS["height"],
}

TUPLES: Mapping[str, tuple[str, ...]] = {
    "variation.resize_from": ("width", "height"),
    "start.extend": ("left", "top", "right", "bottom"),
}
"""Fields of several numbers, each with a widget of its own."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One thing a person can set. `name` is the request's own, with dots into its parts."""

    name: str
    label: str
    kind: Kind
    place: Place
    help: str = ""
    elem_id: str
    default: Any = None
    """None: left empty, and filled in by the house."""
    slider: tuple[float, float] | None = None
    """The range a slider offers; the limits may be wider."""
    step: float = 1
    choices: tuple[tuple[str, str], ...] = ()
    """(title, value), where they are always the same."""
    unset: str | None = None
    """How a list calls the choice of none, which the house then makes; its value is ""."""

    @property
    def is_typed(self) -> bool:
        """A number that may be left empty is typed as text: gradio's number field now and then
        says 0 for nothing, and 0 is a value."""
        return self.kind == "seed" or (
            self.kind in ("whole", "number") and self.slider is None and self.default is None
        )

    @property
    def limits(self) -> tuple[float, float] | None:
        return LIMITS.get(self.name)

    @property
    def shelf(self) -> str:
        """The list that a choice is made from, where it has none of its own."""
        return self.name.rpartition(".")[2]


_PLAIN = GenerationRequest(prompt="")

WORDS: tuple[Field, ...] = (
    Field(
        name=MODE,
        label="Begin with",
        kind="choice",
        place="mode",
        elem_id="v-mode",
        default="text",
        choices=(("Text", "text"), ("Image", "image"), ("Inpaint", "inpaint")),
    ),
    Field(
        name="prompt",
        label="Prompt",
        kind="text",
        place="prompt",
        elem_id="txt2img_prompt",
        default="",
    ),
    Field(
        name="negative_prompt",
        label="Negative prompt",
        kind="text",
        place="prompt",
        help="What the picture should stay away from.",
        elem_id="txt2img_neg_prompt",
        default="",
    ),
)

BASIC: tuple[Field, ...] = (
    Field(
        name="checkpoint",
        label="Model",
        kind="choice",
        place="basic",
        elem_id="setting_sd_model_checkpoint",
    ),
    Field(
        name="steps",
        label="Steps",
        kind="whole",
        place="basic",
        help="How many times the noise is looked at and lessened.",
        elem_id="txt2img_steps",
        default=_PLAIN.steps,
        slider=(1, 60),
    ),
    Field(
        name="cfg_scale",
        label="Guidance",
        kind="number",
        place="basic",
        help="How firmly the prompt is followed (CFG scale).",
        elem_id="txt2img_cfg_scale",
        default=_PLAIN.cfg_scale,
        slider=(1, 20),
        step=0.5,
    ),
    Field(
        name="seed",
        label="Seed",
        kind="seed",
        place="basic",
        help="Same seed, same picture. Empty: a new one each time.",
        elem_id="txt2img_seed",
    ),
    Field(
        name="images",
        label="Images",
        kind="whole",
        place="basic",
        elem_id="txt2img_batch_count",
        default=_PLAIN.images,
        slider=(1, 8),
    ),
    Field(
        name="width",
        label="Width",
        kind="whole",
        place="basic",
        elem_id="txt2img_width",
        step=SIZE_STEP,
    ),
    Field(
        name="height",
        label="Height",
        kind="whole",
        place="basic",
        elem_id="txt2img_height",
        step=SIZE_STEP,
    ),
    Field(
        name="sampler",
        label="Sampler",
        kind="choice",
        place="basic",
        elem_id="txt2img_sampling",
        default=_PLAIN.sampler,
    ),
    Field(
        name="schedule",
        label="Schedule",
        kind="choice",
        place="basic",
        elem_id="txt2img_scheduler",
        default=AUTOMATIC,
    ),
)

OPTIONS: tuple[Field, ...] = (
    Field(
        name=OPTION + "eta",
        label="Eta",
        kind="number",
        place="more",
        help="Share of fresh noise in each step, 0 to 1.",
        elem_id="txt2img_eta",
        step=0.05,
    ),
    Field(
        name=OPTION + "s_noise",
        label="Noise scale",
        kind="number",
        place="more",
        help="Strength of the fresh noise, 1 as derived.",
        elem_id="txt2img_s_noise",
        step=0.01,
    ),
    Field(
        name=OPTION + "s_churn",
        label="Churn",
        kind="number",
        place="more",
        help="Noise stirred in before steps.",
        elem_id="txt2img_s_churn",
    ),
    Field(
        name=OPTION + "s_tmin",
        label="Churn from σ",
        kind="number",
        place="more",
        help="Lowest σ at which churn acts.",
        elem_id="txt2img_s_tmin",
        step=0.1,
    ),
    Field(
        name=OPTION + "s_tmax",
        label="Churn up to σ",
        kind="number",
        place="more",
        help="Highest σ at which churn acts.",
        elem_id="txt2img_s_tmax",
        step=0.1,
    ),
    Field(
        name=SCHEDULE_OPTION + "rho",
        label="Rho",
        kind="number",
        place="more",
        help="How the schedule bends.",
        elem_id="txt2img_rho",
        step=0.1,
    ),
    Field(
        name=SCHEDULE_OPTION + "sigma_min",
        label="Lowest σ",
        kind="number",
        place="more",
        help="Of the schedule, above 0.",
        elem_id="txt2img_sigma_min",
        step=0.01,
    ),
    Field(
        name=SCHEDULE_OPTION + "sigma_max",
        label="Highest σ",
        kind="number",
        place="more",
        help="Where the schedule begins.",
        elem_id="txt2img_sigma_max",
        step=0.1,
    ),
    Field(
        name=SCHEDULE_OPTION + "discard_penultimate",
        label="Last level but one",
        kind="choice",
        place="more",
        help="Whether it is left out.",
        elem_id="txt2img_discard_penultimate",
        choices=(("Left out", "yes"), ("Kept", "no")),
        unset="Automatic",
    ),
    Field(
        name=SCHEDULE_OPTION + "round_timesteps",
        label="Whole timesteps",
        kind="flag",
        place="more",
        help="The network is told rounded ones.",
        elem_id="txt2img_round_timesteps",
        default=False,
    ),
)

MORE: tuple[Field, ...] = (
    Field(
        name="variation.strength",
        label="Variation",
        kind="number",
        place="more",
        help="0: this seed alone. 1: the other one.",
        elem_id="txt2img_subseed_strength",
        default=0.0,
        step=0.05,
    ),
    Field(
        name="variation.seed",
        label="Variation seed",
        kind="seed",
        place="more",
        help="Whose noise is mixed in. Empty: any.",
        elem_id="txt2img_subseed",
    ),
    Field(
        name="variation.resize_from.width",
        label="Noise of width",
        kind="whole",
        place="more",
        help="Seed of another size.",
        elem_id="txt2img_seed_resize_from_w",
        step=SIZE_STEP,
    ),
    Field(
        name="variation.resize_from.height",
        label="Noise of height",
        kind="whole",
        place="more",
        help="Both, or none.",
        elem_id="txt2img_seed_resize_from_h",
        step=SIZE_STEP,
    ),
    Field(
        name="vae",
        label="VAE",
        kind="choice",
        place="more",
        help="What turns latents into pixels.",
        elem_id="setting_sd_vae",
        unset="The model's own",
    ),
    Field(
        name="clip_skip",
        label="Clip skip",
        kind="whole",
        place="more",
        help="1: the whole text encoder is used.",
        elem_id="txt2img_clip_skip",
        default=_PLAIN.clip_skip,
    ),
    Field(
        name="ensd",
        label="Noise seed delta",
        kind="whole",
        place="more",
        help="Added to the seed after the first noise.",
        elem_id="txt2img_ensd",
        default=_PLAIN.ensd,
    ),
    Field(
        name="emphasis",
        label="Emphasis",
        kind="choice",
        place="more",
        help="What (words:1.2) does.",
        elem_id="txt2img_emphasis",
        default=_PLAIN.emphasis.value,
        choices=tuple((kind.value.capitalize(), kind.value) for kind in Emphasis),
    ),
    Field(
        name="noise",
        label="Noise from",
        kind="choice",
        place="more",
        help="A seed is another picture on another one.",
        elem_id="txt2img_noise",
        default=_PLAIN.noise.value,
        choices=(("CPU", NoiseKind.CPU.value), ("NVIDIA card", NoiseKind.NV.value)),
    ),
    Field(
        name="tiling",
        label="Seamless",
        kind="flag",
        place="more",
        help="Opposite edges fit, so the picture can be tiled.",
        elem_id="txt2img_tiling",
        default=False,
    ),
)
