"""The part of the form's table that is about pictures: what to begin from, what to do after."""

from __future__ import annotations

from core.request import Enlarge, Fill, Refine, Resize, StartImage
from core.resolve import SIZE_STEP
from webui.fields import ENLARGE, ENLARGES, REFINE, START, Field

_START = StartImage(picture="")
_ENLARGE = Enlarge()
_REFINE = Refine(checkpoint="")
_RESIZES = {
    Resize.CROP: "Crop to fill",
    Resize.FILL: "Fit, edges stretched",
    Resize.STRETCH: "Stretch",
    Resize.LATENT: "Stretch, as latents",
}
_FILLS = {
    Fill.ORIGINAL: "What is there",
    Fill.COLOUR: "Colours around it",
    Fill.NOISE: "Noise",
    Fill.NOTHING: "Nothing",
}
_SIDES = {
    "left": ("Left", "To the left"),
    "top": ("Top", "Above"),
    "right": ("Right", "To the right"),
    "bottom": ("Bottom", "Below"),
}

LATENT_UPSCALERS = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
"""The names of `core.models.upscalers`, which needs torch."""

START_FIELDS: tuple[Field, ...] = (
    Field(
        name=START + "picture",
        label="Picture",
        kind="picture",
        place="start",
        elem_id="v-start-picture",
        default="",
    ),
    Field(
        name=START + "mask",
        label="Mask",
        kind="picture",
        place="inpaint",
        elem_id="v-start-mask",
        default="",
    ),
    Field(
        name=START + "depth",
        label="Depth map",
        kind="picture",
        place="start",
        elem_id="v-start-depth",
        default="",
    ),
    Field(
        name=START + "strength",
        label="Strength",
        kind="number",
        place="start",
        help="0 keeps the picture, 1 begins with noise alone.",
        elem_id="img2img_denoising_strength",
        default=_START.strength,
        slider=(0, 1),
        step=0.01,
    ),
    Field(
        name=START + "resize",
        label="To fit the size",
        kind="choice",
        place="start",
        elem_id="img2img_resize_mode",
        default=_START.resize.value,
        choices=tuple((title, way.value) for way, title in _RESIZES.items()),
    ),
    Field(
        name=START + "fill",
        label="Under the mask",
        kind="choice",
        place="inpaint",
        elem_id="img2img_inpainting_fill",
        default=_START.fill.value,
        choices=tuple((title, fill.value) for fill, title in _FILLS.items()),
    ),
    Field(
        name=START + "only_masked",
        label="Only the masked part",
        kind="flag",
        place="inpaint",
        help="It alone is painted at the chosen size, and put back.",
        elem_id="img2img_inpaint_full_res",
        default=_START.only_masked,
    ),
    Field(
        name=START + "padding",
        label="Surroundings it sees",
        kind="whole",
        place="inpaint",
        help="Pixels around the masked part.",
        elem_id="img2img_inpaint_full_res_padding",
        default=_START.padding,
        slider=(0, 256),
    ),
    Field(
        name=START + "grow",
        label="Grow",
        kind="whole",
        place="inpaint",
        help="Pixels the mask widens by.",
        elem_id="img2img_mask_grow",
        default=_START.grow,
        slider=(0, 64),
    ),
    Field(
        name=START + "blur",
        label="Blur",
        kind="whole",
        place="inpaint",
        help="Pixels its edge is softened by.",
        elem_id="img2img_mask_blur",
        default=_START.blur,
        slider=(0, 64),
    ),
    Field(
        name=START + "soft",
        label="Greys are strengths",
        kind="flag",
        place="inpaint",
        help="Half painted is half changed (differential diffusion).",
        elem_id="img2img_soft_inpainting",
        default=_START.soft,
    ),
    Field(
        name=START + "invert",
        label="Paint what is not masked",
        kind="flag",
        place="inpaint",
        elem_id="img2img_inpainting_mask_invert",
        default=_START.invert,
    ),
    *(
        Field(
            name=f"{START}extend.{side}",
            label=title,
            kind="whole",
            place="inpaint",
            help=f"{where}, pixels.",
            elem_id=f"img2img_extend_{side}",
            step=SIZE_STEP,
        )
        for side, (title, where) in _SIDES.items()
    ),
)

GUIDE_FIELDS: tuple[Field, ...] = (
    Field(
        name="controls",
        label="Guides",
        kind="guides",
        place="guides",
        elem_id="v-controls",
        default="",
    ),
)

ENLARGE_FIELDS: tuple[Field, ...] = (
    Field(
        name=ENLARGES,
        label="Enlarge the picture",
        kind="flag",
        place="enlarge",
        help="A second pass paints it again, larger.",
        elem_id="txt2img_enable_hr",
        default=False,
    ),
    Field(
        name=ENLARGE + "scale",
        label="Times as large",
        kind="number",
        place="enlarge",
        elem_id="txt2img_hr_scale",
        default=_ENLARGE.scale,
        slider=(1, 4),
        step=0.05,
    ),
    Field(
        name=ENLARGE + "upscaler",
        label="Upscaler",
        kind="choice",
        place="enlarge",
        elem_id="txt2img_hr_upscaler",
        default=_ENLARGE.upscaler,
    ),
    Field(
        name=ENLARGE + "strength",
        label="Strength of the second pass",
        kind="number",
        place="enlarge",
        help="How much is painted anew.",
        elem_id="txt2img_hr_denoising_strength",
        default=_ENLARGE.strength,
        slider=(0, 1),
        step=0.01,
    ),
    Field(
        name=ENLARGE + "width",
        label="Or to this width",
        kind="whole",
        place="enlarge",
        elem_id="txt2img_hr_resize_x",
        step=SIZE_STEP,
    ),
    Field(
        name=ENLARGE + "height",
        label="Or to this height",
        kind="whole",
        place="enlarge",
        elem_id="txt2img_hr_resize_y",
        step=SIZE_STEP,
    ),
    Field(
        name=ENLARGE + "steps",
        label="Its steps",
        kind="whole",
        place="enlarge",
        elem_id="txt2img_hires_steps",
    ),
    Field(
        name=ENLARGE + "cfg_scale",
        label="Its guidance",
        kind="number",
        place="enlarge",
        elem_id="txt2img_hr_cfg",
        step=0.5,
    ),
    Field(
        name=ENLARGE + "sampler",
        label="Its sampler",
        kind="choice",
        place="enlarge",
        elem_id="hr_sampler",
        unset="The same",
    ),
    Field(
        name=ENLARGE + "schedule",
        label="Its schedule",
        kind="choice",
        place="enlarge",
        elem_id="hr_scheduler",
        unset="The same",
    ),
    Field(
        name=ENLARGE + "checkpoint",
        label="Its model",
        kind="choice",
        place="enlarge",
        elem_id="hr_checkpoint",
        unset="The same",
    ),
    Field(
        name=ENLARGE + "prompt",
        label="Its prompt",
        kind="text",
        place="enlarge",
        help="Empty: the same.",
        elem_id="hires_prompt",
    ),
    Field(
        name=ENLARGE + "negative_prompt",
        label="Its negative prompt",
        kind="text",
        place="enlarge",
        help="Empty: the same.",
        elem_id="hires_neg_prompt",
    ),
)

REFINE_FIELDS: tuple[Field, ...] = (
    Field(
        name=REFINE + "checkpoint",
        label="Goes on with",
        kind="choice",
        place="refine",
        help="Another model paints the rest.",
        elem_id="txt2img_refiner_checkpoint",
        unset="No other model",
    ),
    Field(
        name=REFINE + "switch_at",
        label="From",
        kind="number",
        place="refine",
        help="The share that is behind when it takes over.",
        elem_id="txt2img_switch_at",
        default=_REFINE.switch_at,
        slider=(0, 1),
        step=0.01,
    ),
    Field(
        name=REFINE + "by_steps",
        label="Counted in steps",
        kind="flag",
        place="refine",
        help="Else in noise, as A1111 does.",
        elem_id="txt2img_switch_by_steps",
        default=_REFINE.by_steps,
    ),
)
