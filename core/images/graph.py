"""ComfyUI's workflow JSON as nodes with inputs: the graph as it ran, or as it was drawn.

Reading trusts nothing; following the wires is `core.images.comfy`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from core.errors import RequestError

MAX_LENGTH = 4_000_000
"""Characters of JSON."""
MAX_NODES = 5_000

MUTED, BYPASSED = 2, 4
"""Modes of a drawn node."""

WIDGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
        "KSamplerAdvanced": (
            *("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
            *("start_at_step", "end_at_step", "return_with_leftover_noise"),
        ),
        "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
        "RandomNoise": ("noise_seed", ""),
        "CFGGuider": ("cfg",),
        "KSamplerSelect": ("sampler_name",),
        "BasicScheduler": ("scheduler", "steps", "denoise"),
        "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
        "ExponentialScheduler": ("steps", "sigma_max", "sigma_min"),
        "AlignYourStepsScheduler": ("model_type", "steps", "denoise"),
        "CLIPTextEncode": ("text",),
        "CLIPSetLastLayer": ("stop_at_clip_layer",),
        "CheckpointLoaderSimple": ("ckpt_name",),
        "CheckpointLoader": ("config_name", "ckpt_name"),
        "UNETLoader": ("unet_name", "weight_dtype"),
        "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
        "LoraLoaderModelOnly": ("lora_name", "strength_model"),
        "HypernetworkLoader": ("hypernetwork_name", "strength"),
        "VAELoader": ("vae_name",),
        "EmptyLatentImage": ("width", "height", "batch_size"),
        "LatentUpscale": ("upscale_method", "width", "height", "crop"),
        "LatentUpscaleBy": ("upscale_method", "scale_by"),
        "ImageScale": ("upscale_method", "width", "height", "crop"),
        "ImageScaleBy": ("upscale_method", "scale_by"),
        "UpscaleModelLoader": ("model_name",),
        "LoadImage": ("image", ""),
        "PrimitiveNode": ("value", ""),
    }
)
"""The drawn graph keeps values without names: which they are, in order; "" is not an input."""


@dataclass(frozen=True)
class Node:
    """`inputs`: values as typed, or [id of a node, number of its output]."""

    id: str
    kind: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """Nodes by id, and the JSON they came from."""

    nodes: Mapping[str, Node]
    text: str

    def linked(self, value: Any) -> tuple[Node, int] | None:
        """What an input's value points at; None: it is a value."""
        if not isinstance(value, list) or len(value) != 2:
            return None
        id, slot = value
        if isinstance(id, bool) or not isinstance(id, str | int) or not isinstance(slot, int):
            return None
        node = self.nodes.get(str(id))
        return None if node is None else (node, slot)

    def shown(self) -> set[str]:
        """Ids of all nodes that lead to one which saves or shows a picture."""
        waiting = [
            node
            for node in self.nodes.values()
            if "save" in node.kind.lower() or "preview" in node.kind.lower()
        ]
        seen: set[str] = set()
        while waiting:
            node = waiting.pop()
            if node.id in seen:
                continue
            seen.add(node.id)
            links = (self.linked(value) for value in node.inputs.values())
            waiting += [link[0] for link in links if link is not None]
        return seen


def read(prompt: str | None, workflow: str | None) -> Graph:
    """The graph that ran if it is there and can be read, else the one that was drawn.

    Raises:
        RequestError: neither can be read.
    """
    problem: RequestError | None = None
    for text, nodes_of in ((prompt, _ran), (workflow, _drawn)):
        if text is None:
            continue
        try:
            return Graph(_by_id(nodes_of(_json(text))), text)
        except RequestError as error:
            problem = problem or error
    raise problem or RequestError("there is no workflow")


def _json(text: str) -> Any:
    if len(text) > MAX_LENGTH:
        raise RequestError(f"a workflow of {len(text):,} characters is too large")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the workflow is no JSON: {str(error)[:200]}") from error


def _by_id(nodes: Iterator[Node]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for node in nodes:
        found[node.id] = node
        if len(found) > MAX_NODES:
            raise RequestError(f"a workflow of more than {MAX_NODES:,} nodes is too large")
    if not found:
        raise RequestError("there are no nodes in the workflow")
    return found


def _ran(data: Any) -> Iterator[Node]:
    """Node id -> {"class_type", "inputs"}."""
    for id, value in data.items() if isinstance(data, dict) else ():
        kind, inputs = _entry(value, "class_type"), _entry(value, "inputs")
        if isinstance(kind, str) and isinstance(inputs, dict):
            yield Node(str(id), kind, inputs)


def _drawn(data: Any) -> Iterator[Node]:
    """{"nodes": […], "links": [[id, from node, from output, to node, to input, type], …]}."""
    links: dict[Any, list[Any]] = {}
    for link in _listed(data, "links"):
        if isinstance(link, list) and len(link) >= 5 and isinstance(link[0], int):
            links[link[0]] = [link[1], link[2]]
    for value in _listed(data, "nodes"):
        kind, id = _entry(value, "type"), _entry(value, "id")
        if not isinstance(kind, str) or not isinstance(id, int | str):
            continue
        if _entry(value, "mode") in (MUTED, BYPASSED) and "Lora" in kind:
            kind = "Reroute"
        inputs = dict(_typed(kind, _entry(value, "widgets_values")))
        for entry in _listed(value, "inputs"):
            name, link = _entry(entry, "name"), _entry(entry, "link")
            if isinstance(name, str) and isinstance(link, int) and link in links:
                inputs[name or "model"] = links[link]
        yield Node(str(id), kind, inputs)


def _typed(kind: str, values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        yield from ((str(name), value) for name, value in values.items())
    elif isinstance(values, list):
        names = WIDGETS.get(kind, ())
        yield from ((name, value) for name, value in zip(names, values, strict=False) if name)


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _listed(value: Any, key: str) -> list[Any]:
    found = _entry(value, key)
    return found if isinstance(found, list) else []
