"""What a ComfyUI workflow says, as a request: from the sampler back to prompts, model and size.

A graph can hold anything, so what comes out is the nearest request and a sentence for each thing
left out. Node names and inputs are ComfyUI's own, as its workflows carry them; nodes of others are
passed through where an input says what it continues.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from core.errors import RequestError
from core.images import infotext
from core.images.graph import Graph, Node, read
from core.request import (
    MAX_SEED,
    Emphasis,
    Enlarge,
    GenerationRequest,
    HypernetUse,
    LoraUse,
    Refine,
)

if TYPE_CHECKING:
    from core.registry import Registry

__all__ = ["Graph", "read", "request_from"]

SAMPLERS = {
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "dpmpp_sde_gpu": "dpmpp_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral",
    "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde",
    "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerDPMAdaptative": "dpm_adaptive",
    "SamplerLMS": "lms",
}
"""ComfyUI's names that differ from ours, and its nodes that are one sampler each."""

SIGMAS = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "PolyexponentialScheduler": "polyexponential",
    "AlignYourStepsScheduler": "align_your_steps",
    "BetaSamplingScheduler": "beta",
}
"""Nodes that are one schedule each."""

LATENTS = ("latent_image", "latent", "samples", "latents", "pixels", "image", "images")
"""Inputs by which a picture on its way is handed on, nearest first."""

NOT_THE_SAME = (
    "ComfyUI scales its noise in another way: expect the same scene rather than the same pixels"
)

LONGEST = 200
"""Nodes in a row that are followed."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One sampler with what it was given. None: the graph does not say."""

    node: Node
    seed: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    strength: float | None = None
    first: int = 0
    """Step at which it takes over, of a sampler that runs a part."""
    model: Node | None = None
    positive: tuple[Node, int] | None = None
    """Where the prompt comes from, and by which of that node's outputs."""
    negative: tuple[Node, int] | None = None


@dataclass
class Reader:
    """One reading of a graph; `notes` fills as it goes."""

    graph: Graph
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def node(self, node: Node | None, *names: str) -> Node | None:
        """What an input is connected to: the first of the names that is."""
        found = self.link(node, *names)
        return None if found is None else found[0]

    def link(self, node: Node | None, *names: str) -> tuple[Node, int] | None:
        for name in names if node is not None else ():
            found = self.graph.linked(node.inputs.get(name))  # type: ignore[union-attr]
            if found is not None:
                return found
        return None

    def value(self, node: Node | None, *names: str) -> Any:
        """A typed-in value, also by way of nodes that only hold one."""
        for name in names if node is not None else ():
            value: Any = node.inputs.get(name)  # type: ignore[union-attr]
            for _ in range(LONGEST):
                link = self.graph.linked(value)
                if link is None:
                    break
                held = (link[0].inputs.get(key) for key in _HELD)
                value = next((one for one in held if one is not None), None)
            if value is not None and not isinstance(value, list | dict):
                return value
        return None

    def number(self, node: Node | None, *names: str) -> float | None:
        value = self.value(node, *names)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) and abs(number) < 1e15 else None

    def whole(self, node: Node | None, *names: str) -> int | None:
        value = self.value(node, *names)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        number = self.number(node, *names)
        return None if number is None else int(number)

    def name(self, node: Node | None, *names: str) -> str | None:
        value = self.value(node, *names)
        return value if isinstance(value, str) and value else None

    def back(self, node: Node | None, *names: str) -> Iterator[Node]:
        """The node and those before it along the named inputs, nearest first."""
        seen: set[str] = set()
        while node is not None and node.id not in seen and len(seen) < LONGEST:
            seen.add(node.id)
            yield node
            node = self.node(node, *names)


_HELD = (
    "value",
    "seed",
    "noise_seed",
    "int",
    "float",
    "number",
    "string",
    "text",
    "Text",
    "STRING",
)


def request_from(
    graph: Graph, registry: Registry, checkpoints: Collection[str] | None = None
) -> tuple[GenerationRequest, list[str]]:
    """The request nearest to a graph, and a sentence for each thing that can't be honoured.

    Raises:
        RequestError: there is no sampler in it.
    """
    reader = Reader(graph)
    passes = _passes(reader)
    first = passes[0]
    prompt, negative, clip = _prompts(reader, first)
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    values |= _numbers(reader, first)
    values |= _sampling(reader, first, registry)
    values |= _model(reader, first, checkpoints)
    values |= _size(reader, first)
    skip = next((reader.whole(n, "stop_at_clip_layer") for n in clip if _sets_layer(n)), None)
    if skip is not None and -12 <= skip < -1:
        values["clip_skip"] = -skip
    request = GenerationRequest(**values, emphasis=Emphasis.COMFY)
    for later in passes[1:]:
        request = _followed(reader, request, later, registry, checkpoints)
    reader.note(NOT_THE_SAME)
    return request, reader.notes


def _sets_layer(node: Node) -> bool:
    return node.kind == "CLIPSetLastLayer"


def _is_sampler(node: Node) -> bool:
    inputs = node.inputs.keys()
    known = node.kind in ("SamplerCustom", "SamplerCustomAdvanced")
    return known or ("steps" in inputs and "cfg" in inputs and "sampler_name" in inputs)


def _passes(reader: Reader) -> list[Pass]:
    """The samplers that lead to the picture, in the order they ran."""
    samplers = [node for node in reader.graph.nodes.values() if _is_sampler(node)]
    if not samplers:
        raise RequestError("there is no sampler in the workflow that is known here")
    before = {id for node in samplers for id in _before(reader, node)}
    last = [node for node in samplers if node.id not in before] or samplers
    shown = [node for node in last if node.id in reader.graph.shown()] or last
    if len(shown) > 1:
        reader.note(f"The workflow makes pictures with {len(shown)} samplers; the first is taken")
    chain = [shown[0]]
    while (earlier := _earlier(reader, chain[0])) is not None and len(chain) < LONGEST:
        if any(earlier.id == node.id for node in chain):
            break
        chain.insert(0, earlier)
    return [_pass(reader, node) for node in chain]


def _before(reader: Reader, sampler: Node) -> set[str]:
    """Samplers whose latents this one goes on from."""
    earlier = _earlier(reader, sampler)
    return set() if earlier is None else {earlier.id}


def _earlier(reader: Reader, sampler: Node) -> Node | None:
    way = reader.back(reader.node(sampler, *LATENTS), *LATENTS)
    return next((node for node in way if _is_sampler(node)), None)


def _pass(reader: Reader, node: Node) -> Pass:
    """A sampler node of whatever kind, with its settings gathered from the nodes around it."""
    guider, noise = reader.node(node, "guider"), reader.node(node, "noise")
    sigmas = next(
        (n for n in reader.back(reader.node(node, "sigmas"), "sigmas") if "steps" in n.inputs), None
    )
    chosen = reader.node(node, "sampler")
    schedule = reader.name(node, "scheduler") or reader.name(sigmas, "scheduler")
    sampler = reader.name(node, "sampler_name") or reader.name(chosen, "sampler_name")
    hands = guider or node
    seed = reader.whole(node, "seed", "noise_seed")
    strength = reader.number(node, "denoise")
    return Pass(
        node=node,
        seed=reader.whole(noise, "noise_seed", "seed") if seed is None else seed,
        steps=reader.whole(node if sigmas is None else sigmas, "steps"),
        cfg_scale=reader.number(hands, "cfg") if "cfg" in hands.inputs else 1.0,
        sampler=sampler or (chosen.kind if chosen is not None else None),
        schedule=schedule or (SIGMAS.get(sigmas.kind, sigmas.kind) if sigmas else None),
        strength=reader.number(sigmas, "denoise") if strength is None else strength,
        first=reader.whole(node, "start_at_step") or 0,
        model=reader.node(hands, "model") or reader.node(sigmas, "model"),
        positive=reader.link(hands, "positive", "conditioning"),
        negative=reader.link(hands, "negative"),
    )


def _numbers(reader: Reader, run: Pass) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if run.seed is not None and 0 <= run.seed <= MAX_SEED:
        values["seed"] = run.seed
    elif run.seed is not None:
        reader.note(f"Seed: {str(run.seed)[:40]} – not used: the highest here is {MAX_SEED}")
    if run.steps is not None and run.steps > 0:
        values["steps"] = run.steps
    if run.cfg_scale is not None:
        values["cfg_scale"] = run.cfg_scale
    return values


def _sampling(reader: Reader, run: Pass, registry: Registry) -> dict[str, str]:
    """Sampler and schedule as they are called here."""
    values = {}
    if run.sampler is not None:
        try:
            values["sampler"] = registry.sampler(SAMPLERS.get(run.sampler, run.sampler)).name
        except RequestError as error:
            reader.note(f"Sampler: {infotext.short(run.sampler)} – not used: {error}")
    if run.schedule is not None:
        try:
            values["schedule"] = registry.schedule(run.schedule).name
        except RequestError as error:
            reader.note(f"Scheduler: {infotext.short(run.schedule)} – not used: {error}")
    return values


def _model(reader: Reader, run: Pass, checkpoints: Collection[str] | None) -> dict[str, Any]:
    """Checkpoint, LoRAs and hypernetworks, back along the model's wire."""
    values: dict[str, Any] = {}
    loras: list[LoraUse] = []
    hypernets: list[HypernetUse] = []
    for node in reader.back(run.model, "model", "base_model"):
        if "ckpt_name" in node.inputs or "unet_name" in node.inputs:
            name = reader.name(node, "ckpt_name", "unet_name")
            there = infotext.known_checkpoint(name or "", checkpoints)
            if there is not None:
                values["checkpoint"] = there
            elif name:
                reader.note(
                    f"Model: {infotext.short(name)} – not used: there is no such checkpoint here"
                )
        elif "hypernetwork_name" in node.inputs:
            name = reader.name(node, "hypernetwork_name")
            weight = reader.number(node, "strength")
            if name:
                hypernets.append(
                    HypernetUse(name=_stem(name), weight=1.0 if weight is None else weight)
                )
        elif "lora" in node.kind.lower():
            loras += reversed(list(_loras(reader, node)))
        elif "model" in node.inputs:
            reader.note(f"{infotext.short(node.kind)}: passed over; it changes the model")
    if loras:
        values["loras"] = tuple(reversed(loras))
    if hypernets:
        values["hypernets"] = tuple(reversed(hypernets))
    return values


def _loras(reader: Reader, node: Node) -> Iterator[LoraUse]:
    """Of ComfyUI's loaders, and of stacks that hold an object for each LoRA."""
    name = reader.name(node, "lora_name")
    if name is not None:
        weight = reader.number(node, "strength_model", "strength")
        text_weight = reader.number(node, "strength_clip")
        if text_weight is None and "ModelOnly" in node.kind:
            text_weight = 0.0
        yield _lora(name, weight, text_weight)
        return
    held = [one for one in node.inputs.values() if isinstance(one, Mapping) and "lora" in one]
    for one in held:
        if one.get("on", True) is True and isinstance(one["lora"], str):
            yield _lora(one["lora"], _finite(one.get("strength")), _finite(one.get("strengthTwo")))
    if not held:
        reader.note(f"{infotext.short(node.kind)}: its LoRAs can't be read here")


def _lora(name: str, weight: float | None, text_weight: float | None) -> LoraUse:
    weight = 1.0 if weight is None else weight
    return LoraUse(
        name=_stem(name), weight=weight, text_weight=None if text_weight == weight else text_weight
    )


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e6 else None


def _stem(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    known = path.suffix.lower() in (".safetensors", ".pt", ".ckpt", ".bin", ".pth")
    return path.stem if known else path.name


def _prompts(reader: Reader, run: Pass) -> tuple[str, str, list[Node]]:
    """Prompt, negative prompt and the nodes along the text encoder's wire."""
    clip: list[Node] = []
    positive = _words(reader, run.positive, clip, 0)
    negative = _words(reader, run.negative, [], 0) if run.negative else ""
    return positive, negative, clip


def _words(reader: Reader, link: tuple[Node, int] | None, clip: list[Node], depth: int) -> str:
    if link is None or depth > 40:
        return ""
    node, slot = link
    if node.kind == "ConditioningZeroOut":
        return ""
    several = [
        reader.link(node, name)
        for name in ("conditioning_1", "conditioning_2", "conditioning_to", "conditioning_from")
        if name in node.inputs
    ]
    if several:
        reader.note(f"{infotext.short(node.kind)}: its prompts are put one behind the other")
        joined = (_words(reader, one, clip, depth + 8) for one in several)
        return ", ".join(text for text in joined if text)
    # A node with both hands them on by its outputs, in that order.
    onward = reader.link(node, "negative" if slot == 1 else "positive") or reader.link(
        node, "conditioning"
    )
    if onward is not None:
        reader.note(f"{infotext.short(node.kind)}: passed over; it changes what the prompt does")
        return _words(reader, onward, clip, depth + 1)
    clip += reader.back(reader.node(node, "clip"), "clip")
    texts = [reader.name(node, name) for name in ("text", "text_g", "text_l", "prompt")]
    found = list(dict.fromkeys(text for text in texts if text))
    if not found and any(reader.node(node, name) for name in ("text", "text_g", "prompt")):
        reader.note(f"{infotext.short(node.kind)}: its text comes from a node not known here")
    if len(found) > 1:
        reader.note("The two text encoders had prompts of their own; they are put together")
    return ", ".join(found)


def _size(reader: Reader, run: Pass) -> dict[str, int]:
    for node in reader.back(reader.node(run.node, *LATENTS), *LATENTS):
        width, height = reader.whole(node, "width"), reader.whole(node, "height")
        is_empty = reader.link(node, *LATENTS) is None
        if (reader.whole(node, "batch_size") or 1) > 1:
            reader.note(
                "ComfyUI draws the noise of a batch at once: only its first picture has this seed"
            )
        if is_empty and width and height and min(width, height) > 0:
            return {"width": width, "height": height}
        if is_empty and "image" in node.inputs:
            strength = 1.0 if run.strength is None else run.strength
            reader.note(
                f"It was made from another picture at strength {strength:g}, which is not in the "
                "file: choose it again as the start"
            )
    return {}


def _followed(
    reader: Reader,
    request: GenerationRequest,
    later: Pass,
    registry: Registry,
    checkpoints: Collection[str] | None,
) -> GenerationRequest:
    """The request with one more sampler behind it: a refiner, or a pass at a larger size."""
    model = _model(reader, later, checkpoints).get("checkpoint")
    if later.first > 0 and later.steps:
        if model is None or model == request.checkpoint or request.refine is not None:
            return request
        share = min(1.0, later.first / later.steps)
        refine = Refine(checkpoint=model, switch_at=share, by_steps=True)
        return replace(request, refine=refine)
    if request.enlarge is not None:
        reader.note("A third sampler is left out: one larger pass is made here")
        return request
    values: dict[str, Any] = _sampling(reader, later, registry) | _enlarged(reader, later)
    values |= {k: v for k, v in _numbers(reader, later).items() if k in ("steps", "cfg_scale")}
    prompt, negative, _ = _prompts(reader, later)
    values |= {"prompt": prompt, "negative_prompt": negative, "checkpoint": model}
    own = {k: v for k, v in values.items() if v != getattr(request, k, None)}
    strength = 1.0 if later.strength is None else min(1.0, max(0.0, later.strength))
    return replace(request, enlarge=Enlarge(**own, strength=strength))


def _enlarged(reader: Reader, run: Pass) -> dict[str, Any]:
    """How the picture grew between two samplers."""
    values: dict[str, Any] = {"scale": 1.0}
    for node in reader.back(reader.node(run.node, *LATENTS), *LATENTS):
        if _is_sampler(node):
            break
        width, height = reader.whole(node, "width"), reader.whole(node, "height")
        scale = reader.number(node, "scale_by")
        if width and height and min(width, height) > 0:
            values |= {"width": width, "height": height}
        if scale is not None and scale > 0:
            values["scale"] *= scale
        if "upscale_method" in node.inputs or scale is not None:
            values["upscaler"] = "Latent" if "Latent" in node.kind else "Lanczos"
        loader = reader.node(node, "upscale_model")
        if loader is not None and (name := reader.name(loader, "model_name")):
            values["upscaler"] = _stem(name)
    return values
