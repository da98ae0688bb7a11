"""Whole runs against diffusers' pipelines, assembled from the same tiny weights.

Same noise, same levels: the latents at the end agree. Text goes through transformers' own classes,
the U-Net through diffusers', guidance and steps through the pipeline's loop and its schedulers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from core.events import Step
from core.generate import House, generate
from core.models.catalog import Catalog
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest, Refine
from core.sampling.noise import SeededNoise
from core.sampling.schedule import scaled_linear
from core.settings import default_settings
from core.text.prompt import Part
from core.text.tokenizer import END, Tokenizer
from tests import tiny
from tests.core.nn.test_parity import diffusers_unet, diffusers_unet_keys

TOKENIZER = Tokenizer()
SCHEDULE = scaled_linear()
STEPS = 8
GRID = [1 + i * (1000 // STEPS) for i in reversed(range(STEPS))]
"""Whole timesteps, which every reference can be given."""
SIGMAS = SCHEDULE.sigmas[GRID]
MARK = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
"""The bias by whose spread SD 2.x tells what it predicts."""
ASKED = GenerationRequest(
    prompt="a red apple on a table", negative_prompt="blue", seed=11, steps=STEPS, cfg_scale=6.0
)
SIZE = 64


@dataclass(frozen=True)
class Told:
    """A prompt as a reference's U-Net is told it."""

    context: Tensor
    pooled: Tensor | None = None


def tensors_of(name: str) -> dict[str, Tensor]:
    tensors = tiny.checkpoint_tensors(name.removesuffix("-v"))
    if name.startswith("sd2"):
        mark = tensors[MARK]
        tensors[MARK] = torch.linspace(-1, 1, len(mark)) * (0.5 if name == "sd2-v" else 0.05)
    return tensors


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("parity")
    for name in ("sd1", "sd2", "sd2-v", "sdxl", "sdxl-refiner"):
        path = root / "models" / "Stable-diffusion" / f"{name}.safetensors"
        tiny.write_checkpoint(path, tensors_of(name))
    settings = default_settings(root)
    catalog = Catalog(settings)
    return House(built_in(), catalog, Store(settings, catalog))


def ids_of(text: str, padding: int = END) -> Tensor:
    """77 ids, filled up behind the end with `padding`."""
    (chunk,) = TOKENIZER.chunks(Part(text))
    ids = torch.tensor([chunk.ids])
    ids[:, len(chunk.tokens) + 2 :] = padding
    return ids


def text_config(activation: str, layers: int = tiny.LAYERS) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=tiny.WIDTH,
        intermediate_size=4 * tiny.WIDTH,
        projection_dim=tiny.WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tiny.POSITIONS,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=END,
    )


def text_model(kind: type, config: CLIPTextConfig, seed: int) -> Any:
    """transformers' class with the weights that the tiny checkpoints hold under other names."""
    model = kind(config).eval()
    weights = tiny.text_weights(seed)
    if kind is CLIPTextModelWithProjection:
        square = tiny.open_clip_weights(tiny.WIDTH, seed)["text_projection"]
        weights["text_projection.weight"] = square.T
    own = model.state_dict()
    bare = not any(name.startswith("text_model.") for name in own)
    named = {(n.removeprefix("text_model.") if bare else n): w for n, w in weights.items()}
    model.load_state_dict({name: named[name] for name in own if "position_ids" not in name})
    return model


def told(name: str, text: str) -> Told:
    """What each family's published pipeline tells its U-Net."""
    if name == "sd1":
        model = text_model(CLIPTextModel, text_config("quick_gelu"), 2)
        return Told(model(ids_of(text)).last_hidden_state)
    if name.startswith("sd2"):  # the published one was cut a layer short
        model = text_model(CLIPTextModel, text_config("gelu", tiny.LAYERS - 1), 5)
        return Told(model(ids_of(text, 0)).last_hidden_state)
    large = text_model(CLIPTextModelWithProjection, text_config("gelu"), 5)
    said = large(ids_of(text, 0), output_hidden_states=True)
    if name == "sdxl-refiner":
        return Told(said.hidden_states[-2], said.text_embeds)
    small = text_model(CLIPTextModel, text_config("quick_gelu"), 2)
    beside = small(ids_of(text), output_hidden_states=True).hidden_states[-2]
    return Told(torch.cat((beside, said.hidden_states[-2]), dim=-1), said.text_embeds)


def unet_of(name: str) -> Any:
    config = tiny.unet_config_of(name.removesuffix("-v"))
    unet = diffusers_unet(config)
    prefix = "model.diffusion_model."
    own = {n.removeprefix(prefix): t for n, t in tensors_of(name).items() if n.startswith(prefix)}
    unet.load_state_dict(diffusers_unet_keys(own, config))
    if config.vector is not None:
        unet.add_time_proj.num_channels = 256
        unet.register_to_config(addition_time_embed_dim=256)
    return unet


def scheduler_of(sampler: str, prediction: str) -> Any:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    training: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
    }
    if sampler == "euler":
        return EulerDiscreteScheduler(**training, steps_offset=1)
    if sampler == "dpmpp_2m":
        return DPMSolverMultistepScheduler(**training, final_sigmas_type="zero")
    return DDIMScheduler(**training, timestep_spacing="leading", steps_offset=1, clip_sample=False)


def pipeline_of(name: str, sampler: str) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    parts: dict[str, Any] = {
        "vae": None,
        "text_encoder": None,
        "tokenizer": None,
        "unet": unet_of(name),
        "scheduler": scheduler_of(sampler, "v_prediction" if name == "sd2-v" else "epsilon"),
        "feature_extractor": None,
    }
    if name == "sdxl":
        large = text_model(CLIPTextModelWithProjection, text_config("gelu"), 5)
        pipeline = StableDiffusionXLPipeline(
            **parts, text_encoder_2=large, tokenizer_2=None, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.inference_mode()
def theirs(name: str, sampler: str) -> list[Tensor]:
    """The pipeline's latents after every step."""
    positive, negative = (told(name, t) for t in (ASKED.prompt, ASKED.negative_prompt))
    noise = SeededNoise((ASKED.seed or 0,), (4, SIZE // 8, SIZE // 8), SIGMAS).draw(0)
    if sampler == "dpmpp_2m":  # variance preserving there, but from sigma · noise here
        noise = noise * SIGMAS[0] / (1 + SIGMAS[0] ** 2).sqrt()
    seen: list[Tensor] = []

    def keep(pipeline: Any, index: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Any]:
        seen.append(given["latents"].clone())
        return {}

    levels = {"timesteps": GRID} if sampler != "ddim" else {"num_inference_steps": STEPS}
    pooled = {}
    if name == "sdxl":
        pooled = {
            "pooled_prompt_embeds": positive.pooled,
            "negative_pooled_prompt_embeds": negative.pooled,
        }
    pipeline_of(name, sampler)(
        prompt_embeds=positive.context,
        negative_prompt_embeds=negative.context,
        **pooled,
        **levels,
        width=SIZE,
        height=SIZE,
        guidance_scale=ASKED.cfg_scale,
        latents=noise,
        output_type="latent",
        callback_on_step_end=keep,
    )
    return seen


def ours(house: House, **changes: Any) -> list[Tensor]:
    request = replace(ASKED, width=SIZE, height=SIZE, **changes)
    return [e.state.latents for e in generate(request, house) if isinstance(e, Step)]


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sd2-v", "sdxl"])
def test_a_run_ends_where_diffusers_pipeline_ends(name: str, sampler: str, house: House) -> None:
    *_, mine = ours(house, checkpoint=name, sampler=sampler, schedule="ddim_uniform")
    *_, expected = theirs(name, sampler)
    assert distance(mine, expected) < 1e-4


def test_ddim_left_to_itself_ends_a_level_above(house: House) -> None:
    """A1111 walks one update fewer, down to timestep 1."""
    *_, mine = ours(house, checkpoint="sd1", sampler="ddim")
    *_, expected, _ = theirs("sd1", "ddim")
    assert distance(mine, expected) < 1e-4


@torch.inference_mode()
def test_a_refiner_goes_on_where_the_base_left_off(house: House) -> None:
    """Euler by hand on diffusers' two U-Nets, each told the prompt by its own encoders."""
    half = STEPS // 2
    refine = Refine(checkpoint="sdxl-refiner", switch_at=0.5, by_steps=True)
    mine = ours(house, checkpoint="sdxl", sampler="euler", schedule="ddim_uniform", refine=refine)
    noise = SeededNoise((ASKED.seed or 0,), (4, SIZE // 8, SIZE // 8), SIGMAS)
    x, sigmas = noise.draw(0) * SIGMAS[0], [*SIGMAS.tolist(), 0.0]
    for name, steps in (("sdxl", range(half)), ("sdxl-refiner", range(half, STEPS))):
        unet = unet_of(name)
        prompts = [told(name, text) for text in (ASKED.negative_prompt, ASKED.prompt)]
        numbers = [[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2
        if name == "sdxl-refiner":  # the aesthetic score in place of the target
            numbers = [[SIZE, SIZE, 0, 0, score] for score in (2.5, 6.0)]
        said = {
            "encoder_hidden_states": torch.cat([prompt.context for prompt in prompts]),
            "added_cond_kwargs": {
                "text_embeds": torch.cat([p.pooled for p in prompts if p.pooled is not None]),
                "time_ids": torch.tensor(numbers, dtype=torch.float32),
            },
        }
        for i in steps:
            scaled = torch.cat([x / (1 + sigmas[i] ** 2) ** 0.5] * 2)
            uncond, cond = unet(scaled, GRID[i], **said).sample.chunk(2)
            x = x + (sigmas[i + 1] - sigmas[i]) * (uncond + ASKED.cfg_scale * (cond - uncond))
        assert distance(mine[steps.stop], x) < 1e-4
