"""One table: a request's field, its widget, its words and its limits.

The page is drawn from it, and it is read, filled from a picture and reset through it; no list of
positions exists anywhere. It knows values, not widgets.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import RequestError
from core.registry import Registry
from core.request import Emphasis, GenerationRequest, NoiseKind, SamplerOptions, Variation
from core.resolve import BOUNDS, OPTION_BOUNDS, SIZE_STEP

Kind = Literal["text", "whole", "number", "seed", "choice"]
Place = Literal["prompt", "basic", "more"]

OPTION = "sampler_options."
VARIATION = "variation."
AUTOMATIC = "automatic"

LIMITS: Mapping[str, tuple[float, float]] = {
    **BOUNDS,
    "variation.seed": BOUNDS["seed"],
    "variation.strength": (0, 1),
}


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
        if self.name.startswith(OPTION):
            return OPTION_BOUNDS[self.name.removeprefix(OPTION)]
        return LIMITS.get(self.name)


class FormError(RequestError):
    """Wrong values, each by its field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(errors.values()), next(iter(errors), None))
        self.errors = dict(errors)


_PLAIN = GenerationRequest(prompt="")

FIELDS: tuple[Field, ...] = (
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
)

_KINDS: Mapping[str, type[enum.Enum]] = {"emphasis": Emphasis, "noise": NoiseKind}

BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}
OPTION_FIELDS = tuple(field for field in FIELDS if field.name.startswith(OPTION))


def read(values: Mapping[str, Any], registry: Registry) -> GenerationRequest:
    """The form's values, by field name, as a request. An absent field keeps its default.

    An option the chosen sampler does not take is left out: its widget is not shown.

    Raises:
        FormError: names every field that can't be read, with a sentence for each.
    """
    read: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in FIELDS:
        try:
            read[field.name] = _read(field, values.get(field.name, field.default))
        except ValueError as error:
            errors[field.name] = str(error)
    if errors:
        raise FormError(errors)
    taken = registry.sampler(read["sampler"]).options
    options = _part(read, OPTION)
    variation = _part(read, VARIATION)
    return GenerationRequest(
        **{name: value for name, value in read.items() if value is not None},
        sampler_options=SamplerOptions(**{k: v for k, v in options.items() if k in taken}),
        variation=Variation(**variation) if variation["strength"] else None,
    )


def written(request: GenerationRequest) -> dict[str, Any]:
    """The form's values for a request, by field name: what `read` turns into it again."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        value: Any = request
        for name in field.name.split("."):
            value = getattr(value, name) if value is not None else None
        if isinstance(value, enum.Enum):
            value = value.value
        if value is None and (field.is_typed or field.unset is not None):
            value = ""
        elif field.is_typed:
            value = repr(value).removesuffix(".0")
        values[field.name] = value
    if not isinstance(request.schedule, str):
        values["schedule"] = AUTOMATIC
    if request.variation is None:
        values["variation.strength"] = BY_NAME["variation.strength"].default
    return values


def not_written(request: GenerationRequest) -> list[str]:
    """Sentences on what of a request the form has no place for."""
    notes = []
    if not isinstance(request.schedule, str):
        notes.append("The noise levels were drawn by hand; the sampler's own are used instead.")
    if request.variation is not None and request.variation.resize_from is not None:
        notes.append("This page has no place for a seed of another size yet.")
    plain = GenerationRequest(prompt="")
    on_form = {name.partition(".")[0] for name in BY_NAME}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        is_plain = value == getattr(plain, field.name)
        if field.name not in on_form and field.name != "record" and not is_plain:
            notes.append(f"This page has no place for {field.name.replace('_', ' ')} yet.")
    return notes


def defaults(checkpoint_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What choosing a checkpoint sets: its own size (left empty) and its own favourites."""
    fields = [BY_NAME[name] for name in ("width", "height", "steps", "cfg_scale")]
    values = {field.name: "" if field.is_typed else field.default for field in fields}
    for name, value in checkpoint_defaults.items():
        if name in BY_NAME:
            values[name] = int(value) if BY_NAME[name].kind == "whole" else value
    return values


def _part(read: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Takes out the values of one part of the request, by its own field names."""
    return {
        name.removeprefix(prefix): read.pop(name) for name in list(read) if name.startswith(prefix)
    }


def _read(field: Field, value: Any) -> Any:
    """One value; None where the house decides. Raises ValueError with a sentence."""
    if field.kind == "text":
        if value is None:
            return field.default
        if not isinstance(value, str):
            raise ValueError(f"{field.label} must be text.")
        return value
    if value is None or (isinstance(value, str) and not value.strip()):
        value = field.default
    if value is None:
        return None
    if field.kind == "choice":
        if not isinstance(value, str):
            raise ValueError(f"{field.label} must be one of the list.")
        if field.choices and value not in [name for _, name in field.choices]:
            raise ValueError(f"{field.label} must be one of the list.")
        return _KINDS[field.name](value) if field.name in _KINDS else value
    number = _number(field, value)
    if field.kind == "seed" and number == -1:  # A1111's word for "a new one each time"
        return None
    limits = field.limits
    if limits is not None and not limits[0] <= number <= limits[1]:
        raise ValueError(f"{field.label} lies between {limits[0]:,} and {limits[1]:,}.")
    return number


def _number(field: Field, value: Any) -> int | float:
    """`value` as a finite number of the field's kind; large seeds keep every digit."""
    whole = field.kind in ("whole", "seed")
    wanted = "a whole number" if whole else "a number"
    problem = ValueError(f"{field.label} must be {wanted}.")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise problem
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40:
            raise problem
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise problem from None
    if isinstance(value, float) and (not math.isfinite(value) or (whole and value % 1)):
        raise problem
    return int(value) if whole else float(value) if abs(value) < 2**1000 else _too_large(problem)


def _too_large(problem: ValueError) -> float:
    raise problem
