"""The text A1111 writes into its pictures, from a request.

As AUTOMATIC1111/stable-diffusion-webui 1.10.1 writes it for the same settings, byte for byte but
for the version; keys of Forge where A1111 has no such setting. Reading is `grammar`'s and
`pasted`'s work and can be had here too. This room knows no files and no catalog of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.errors import RequestError
from core.images.control_text import control_fields
from core.images.grammar import (
    FILLS,
    MAX_LENGTH,
    OPTIONS,
    UNNAMED_SCHEDULES,
    WITHOUT_NOISE,
    Infotext,
    quoted,
    read,
    unquoted,
)
from core.images.pasted import known_checkpoint, request_from, short
from core.request import Emphasis, Fill, GenerationRequest

if TYPE_CHECKING:
    from core.registry import Registry, SamplerEntry

__all__ = [
    "MAX_LENGTH",
    "OPTIONS",
    "UNNAMED_SCHEDULES",
    "VERSION",
    "WITHOUT_NOISE",
    "Hashes",
    "Infotext",
    "known_checkpoint",
    "quoted",
    "read",
    "request_from",
    "schedule_title",
    "short",
    "unquoted",
    "written",
]

VERSION = "vitrine-0.1.0"


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """SHA-256, hexadecimal, of the files beside the checkpoint that a picture was made with."""

    vae: str = ""
    loras: Mapping[str, str] = field(default_factory=dict)
    """By name, as the prompt says it: A1111's, of the bytes behind a safetensors header."""
    lora_files: Mapping[str, str] = field(default_factory=dict)
    """By name: of the whole files, for the capsule."""
    embeddings: Mapping[str, str] = field(default_factory=dict)
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """Those of a refiner and a second pass."""
    guides: Mapping[str, str] = field(default_factory=dict)
    """By name: the eight digits that A1111's ControlNet extension calls a file by."""

    def named(self, request: GenerationRequest) -> dict[str, str]:
        """ "vae:NAME" and the like -> hash of the file, for the capsule."""
        kinds = {
            "vae": {request.vae or "": self.vae} if self.vae else {},
            "lora": self.lora_files,
            "embedding": self.embeddings,
            "checkpoint": self.checkpoints,
        }
        return {f"{kind}:{name}": h for kind, those in kinds.items() for name, h in those.items()}


NO_HASHES = Hashes()


def written(
    request: GenerationRequest,
    registry: Registry,
    model_name: str,
    model_hash: str,
    unfinished: bool = False,
    hashes: Hashes = NO_HASHES,
) -> str:
    """The infotext of the one picture that a resolved request makes.

    Args:
        model_hash: SHA-256 in hexadecimal; its first ten digits are written.
        unfinished: the picture is an estimate on the way, not the end.

    Raises:
        RequestError: the seed or the size is not set, or a name is not on its shelf.
    """
    for name in ("seed", "width", "height"):
        if getattr(request, name) is None:
            raise RequestError(f"an infotext needs the {name}, and it is not set", name)
    sampler = registry.sampler(request.sampler)
    fields = {
        "Steps": str(request.steps),
        "Sampler": sampler.title,
        "Schedule type": schedule_title(request, sampler, registry),
        "CFG scale": _number(request.cfg_scale),
        "Seed": str(request.seed),
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash[:10],
        "Model": model_name,
        **({} if not hashes.vae else {"VAE hash": hashes.vae[:10]}),
        **({} if request.vae is None else {"VAE": request.vae}),
        **_noise_fields(request),
        **_mask_fields(request),
        **_enlarge_fields(request, registry, hashes),
        **_network_fields(request, hashes),
        **_schedule_fields(request, sampler, registry),
        **_option_fields(request, sampler),
        **_refine_fields(request, hashes),
        **control_fields(request, hashes.guides),
    }
    if not isinstance(request.schedule, str):
        fields["Sigmas"] = " ".join(_number(sigma) for sigma in request.schedule)
    if unfinished:
        fields["Unfinished"] = "True"
    fields["Version"] = VERSION
    return str(Infotext(request.prompt + _tags(request), request.negative_prompt, fields))


def schedule_title(request: GenerationRequest, sampler: SamplerEntry, registry: Registry) -> str:
    """The name of a request's schedule as A1111 writes it: what "Automatic" came to, mostly."""
    if not isinstance(request.schedule, str):
        return "Custom"
    return _schedule_title(request.schedule, sampler, registry)


def _schedule_title(schedule: str, sampler: SamplerEntry, registry: Registry) -> str:
    automatic = schedule.casefold() == "automatic"
    entry = registry.schedule(sampler.schedule if automatic else schedule)
    own = entry.name == sampler.schedule
    return "Automatic" if own and entry.name in UNNAMED_SCHEDULES else entry.title


def _noise_fields(request: GenerationRequest) -> dict[str, str]:
    """Variation, strength, clip skip, ENSD, RNG and tiling, in A1111's order and as it has them."""
    fields = {}
    variation = request.variation
    if variation is not None and variation.strength:
        fields["Variation seed"] = str(variation.seed)
        fields["Variation seed strength"] = _number(variation.strength)
    if variation is not None and variation.resize_from is not None:
        fields["Seed resize from"] = "x".join(map(str, variation.resize_from))
    noised = request.start or request.enlarge
    if noised is not None:
        fields["Denoising strength"] = _number(noised.strength)
    if request.clip_skip > 1:
        fields["Clip skip"] = str(request.clip_skip)
    if request.ensd:
        fields["ENSD"] = str(request.ensd)
    fields["RNG"] = request.noise.value.upper()
    if request.tiling:
        fields["Tiling"] = "True"
    return fields


def _mask_fields(request: GenerationRequest) -> dict[str, str]:
    """What A1111 says of an inpainted picture. The pictures themselves no text can hold."""
    start = request.start
    if start is None or start.mask is None:
        return {}
    fields = {}
    if start.invert:
        fields["Mask mode"] = "Inpaint not masked"
    if start.blur > 0:
        fields["Mask blur"] = str(start.blur)
    if start.only_masked:
        fields["Inpaint area"] = "Only masked"
        fields["Masked area padding"] = str(start.padding)
    if start.fill is not Fill.ORIGINAL:
        fields["Masked content"] = FILLS[start.fill.value]
    return fields


def _enlarge_fields(
    request: GenerationRequest, registry: Registry, hashes: Hashes
) -> dict[str, str]:
    """A1111's "Hires. fix", in its order: what equals the first pass is left out."""
    enlarge = request.enlarge
    if enlarge is None:
        return {}
    fields = {}
    if enlarge.checkpoint is not None and enlarge.checkpoint != request.checkpoint:
        fields["Hires checkpoint"] = _short_title(enlarge.checkpoint, hashes)
    first = registry.sampler(request.sampler)
    second = first if enlarge.sampler is None else registry.sampler(enlarge.sampler)
    if second is not first:
        fields["Hires sampler"] = second.title
    for key, text, own in (
        ("Hires prompt", enlarge.prompt, request.prompt),
        ("Hires negative prompt", enlarge.negative_prompt, request.negative_prompt),
    ):
        if text is not None and text != own:
            fields[key] = text
    if enlarge.cfg_scale is not None and enlarge.cfg_scale != request.cfg_scale:
        fields["Hires CFG Scale"] = _number(enlarge.cfg_scale)  # Forge's; A1111 has no such thing
    schedule = request.schedule if enlarge.schedule is None else enlarge.schedule
    if isinstance(schedule, str):
        title = _schedule_title(schedule, second, registry)
        if title not in ("Automatic", schedule_title(request, first, registry)):
            fields["Hires schedule type"] = title
    if enlarge.width or enlarge.height:
        fields["Hires resize"] = f"{enlarge.width or 0}x{enlarge.height or 0}"
    else:
        fields["Hires upscale"] = _number(enlarge.scale)
    if enlarge.steps:
        fields["Hires steps"] = str(enlarge.steps)
    fields["Hires upscaler"] = enlarge.upscaler
    return fields


def _network_fields(request: GenerationRequest, hashes: Hashes) -> dict[str, str]:
    """Hashes of LoRAs and embeddings; emphasis, which A1111 names where brackets ask for it."""
    fields = {}
    for key, files in (("Lora hashes", hashes.loras), ("TI hashes", hashes.embeddings)):
        pairs = (f"{_plain(name)}: {digest[:12]}" for name, digest in files.items() if digest)
        if text := ", ".join(pairs):
            fields[key] = text
    prompts = request.prompt + request.negative_prompt
    asked = request.emphasis is Emphasis.COMFY or "(" in prompts or "[" in prompts
    if request.emphasis is not Emphasis.ORIGINAL and asked:
        fields["Emphasis"] = request.emphasis.value.capitalize()
    return fields


def _plain(name: str) -> str:
    return name.replace(":", "").replace(",", "")


def _schedule_fields(
    request: GenerationRequest, sampler: SamplerEntry, registry: Registry
) -> dict[str, str]:
    options, fields = request.schedule_options, {}
    if options.discard_penultimate and not sampler.discards_penultimate:
        fields["Discard penultimate sigma"] = "True"
    for key, value in (
        ("Schedule min sigma", options.sigma_min),
        ("Schedule max sigma", options.sigma_max),
        ("Schedule rho", options.rho),
    ):
        if value is not None:
            fields[key] = _number(value)
    if schedule_title(request, sampler, registry) == "Beta":
        fields |= {"Beta schedule alpha": "0.6", "Beta schedule beta": "0.6"}
    return fields


def _option_fields(request: GenerationRequest, sampler: SamplerEntry) -> dict[str, str]:
    """Only what the sampler takes and what differs from A1111's defaults."""
    fields = {}
    for name, (key, default) in OPTIONS.items():
        value = getattr(request.sampler_options, name)
        if name == "eta" and sampler.name in WITHOUT_NOISE:
            key, default = ("Eta DDIM" if sampler.name == "ddim" else key), 0.0
        if name in sampler.options and value is not None and value != default:
            fields[key] = _number(value)
    return fields


def _refine_fields(request: GenerationRequest, hashes: Hashes) -> dict[str, str]:
    refine = request.refine
    if refine is None:
        return {}
    fields = {"Refiner switch by sampling steps": "True"} if refine.by_steps else {}
    fields["Refiner"] = _short_title(refine.checkpoint, hashes)
    fields["Refiner switch at"] = _number(refine.switch_at)
    return fields


def _short_title(checkpoint: str, hashes: Hashes) -> str:
    digest = hashes.checkpoints.get(checkpoint, "")[:10]
    return f"{checkpoint} [{digest}]" if digest else checkpoint


def _tags(request: GenerationRequest) -> str:
    """Networks chosen beside the prompt, as A1111 names them: in the prompt.

    Weights only; when a LoRA acts, and on which blocks, the capsule knows.
    """
    tags = []
    for lora in request.loras:
        weights = [lora.weight]
        if lora.text_weight is not None and lora.text_weight != lora.weight:
            weights.insert(0, lora.text_weight)  # A1111 puts the text encoder's first
        tags.append(f"<lora:{lora.name}:{':'.join(map(_number, weights))}>")
    tags += [f"<hypernet:{net.name}:{_number(net.weight)}>" for net in request.hypernets]
    separator = " " if request.prompt else ""
    return separator + " ".join(tags) if tags else ""


def _number(value: float) -> str:
    """7.0 -> "7", 7.5 -> "7.5": as A1111's page writes what its sliders hold."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)
