"""What was made, in A1111's shapes: pictures in base64, and `info` as JSON in a string."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from core.engine.job import Job
from core.events import ImageDone, loaded_in
from core.images import formats, infotext
from core.images.capsule import read_picture
from core.images.formats import Kind
from core.images.grammar import read
from core.registry import Registry
from webui.sdapi.translate import Asked

ENDINGS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",)}

ECHOED: Mapping[str, Any] = {
    **dict.fromkeys(("prompt", "negative_prompt"), ""),
    **dict.fromkeys(("seed", "subseed", "seed_resize_from_h", "seed_resize_from_w"), -1),
    **dict.fromkeys(("batch_size", "n_iter"), 1),
    **dict.fromkeys(("styles", "scheduler", "width", "height", "steps", "cfg_scale", "tiling")),
    **dict.fromkeys(("sampler_name", "restore_faces", "eta", "denoising_strength", "s_churn")),
    **dict.fromkeys(("s_tmax", "s_tmin", "s_noise", "s_min_uncond", "override_settings")),
    **dict.fromkeys(("refiner_checkpoint", "refiner_switch_at", "script_name")),
    "subseed_strength": 0,
    "sampler_index": "Euler",
    "send_images": True,
    "save_images": False,
    "script_args": [],
    "alwayson_scripts": {},
}
"""Fields that A1111 echoes whether they were sent or not."""


def made(jobs: Iterable[Job]) -> list[tuple[Job, ImageDone]]:
    """The pictures there are, in the order of the requests and their images."""
    found = []
    for job in jobs:
        done = [event for event in job.events() if isinstance(event, ImageDone)]
        found += [(job, event) for event in sorted(done, key=lambda event: event.index)]
    return found


def answered(
    jobs: Sequence[Job], asked: Asked, body: Mapping[str, Any], registry: Registry
) -> dict[str, Any]:
    """The body of an answer to txt2img or img2img."""
    pictures = made(jobs)
    files = [file_of(job, done, asked, registry) for job, done in pictures]
    images = [base64.b64encode(data).decode() for data, _ in files] if asked.sends else []
    texts = [text for _, text in files]
    return {
        "images": images,
        "parameters": echoed(body),
        "info": json.dumps(info_of(jobs, pictures, texts, registry)),
    }


def echoed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request again; its pictures only if they were asked for."""
    echo = {**ECHOED, **body}
    if not body.get("include_init_images"):
        echo |= {name: None for name in ("init_images", "mask") if name in body}
    return echo


def file_of(job: Job, done: ImageDone, asked: Asked, registry: Registry) -> tuple[bytes, str]:
    """The bytes of a file of the kind asked for, and A1111's text in it.

    That of the file which the engine wrote; the disk may have refused that one.
    """
    data, text = b"", ""
    if done.path is not None and done.path.is_file():
        data = done.path.read_bytes()
        text = read_picture(data).parameters or ""
        if done.path.suffix.lower() in ENDINGS[asked.kind]:
            return data, text
    text = text or infotext.written(done.request, registry, *model_of(job), not done.finished)
    kind = cast(Kind, asked.kind)
    return formats.encoded(done.image, kind, text, None, asked.quality, asked.lossless), text


def model_of(job: Job) -> tuple[str, str]:
    """(name, SHA-256) of the checkpoint that the job began with."""
    loaded = loaded_in(job.events())
    if loaded is None:
        return job.request.checkpoint or "", ""
    return loaded.checkpoint, loaded.fingerprint


def info_of(
    jobs: Sequence[Job],
    pictures: list[tuple[Job, ImageDone]],
    texts: list[str],
    registry: Registry,
) -> dict[str, Any]:
    """What A1111 says of a run."""
    first = jobs[0]
    request, (model, digest) = first.request, model_of(first)
    sampler = registry.sampler(request.sampler)
    alone = [done.request for _, done in pictures]
    variation = request.variation
    subseeds = [0 if one.variation is None else one.variation.seed for one in alone]
    resized = None if variation is None else variation.resize_from
    started = request.start or request.enlarge
    vae = read(texts[0]).fields.get("VAE hash") if texts else None
    return {
        "prompt": request.prompt,
        "all_prompts": [one.prompt for one in alone],
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [one.negative_prompt for one in alone],
        "seed": request.seed,
        "all_seeds": [one.seed for one in alone],
        "subseed": 0 if variation is None else variation.seed,
        "all_subseeds": subseeds,
        "subseed_strength": 0 if variation is None else variation.strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": sampler.title,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": request.images,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": model,
        "sd_model_hash": digest[:10],
        "sd_vae_name": request.vae,
        "sd_vae_hash": vae,
        "seed_resize_from_w": -1 if resized is None else resized[0],
        "seed_resize_from_h": -1 if resized is None else resized[1],
        "denoising_strength": None if started is None else started.strength,
        "extra_generation_params": {
            "Schedule type": infotext.schedule_title(request, sampler, registry)
        },
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(first.created)),
        "clip_skip": request.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": infotext.VERSION,
    }
