"""Headers of whole models in any layout, in the original names that our networks carry.

A renamed header reads the same bytes under other names, so nothing is converted. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.errors import FileError
from core.models.family import UNET, VAE
from core.models.files import Header, TensorInfo, read_header
from core.models.old_pickles import BEGINNING
from core.models.pickles import read_pickle_header

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}

_VAE_RULES = (
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.(?:to_q|query)\.", ".mid.attn_1.q."),
    (r"\.mid_block\.attentions\.0\.(?:to_k|key)\.", ".mid.attn_1.k."),
    (r"\.mid_block\.attentions\.0\.(?:to_v|value)\.", ".mid.attn_1.v."),
    (r"\.mid_block\.attentions\.0\.(?:to_out\.0|proj_attn)\.", ".mid.attn_1.proj_out."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"conv_norm_out\.", "norm_out."),
    (r"conv_shortcut\.", "nin_shortcut."),
)


def is_diffusers_vae(names: Iterable[str]) -> bool:
    return any(name.startswith("encoder.down_blocks.") for name in names)


def unet_names(names: Iterable[str]) -> Mapping[str, str]:
    """diffusers' name → the original one, without its prefix."""
    names = list(names)
    levels = _numbers(names, r"down_blocks\.(\d+)\.")
    per = _numbers(names, r"down_blocks\.0\.resnets\.(\d+)\.") + 1
    starts = dict(_UNET_ENDS)
    for level in range(levels):
        for i in range(per - 1):
            block = f"input_blocks.{1 + per * level + i}"
            starts[f"down_blocks.{level}.resnets.{i}"] = f"{block}.0"
            starts[f"down_blocks.{level}.attentions.{i}"] = f"{block}.1"
        down = f"input_blocks.{per * (level + 1)}.0.op"
        starts[f"down_blocks.{level}.downsamplers.0.conv"] = down
        for i in range(per):
            block = f"output_blocks.{per * level + i}"
            starts[f"up_blocks.{level}.resnets.{i}"] = f"{block}.0"
            starts[f"up_blocks.{level}.attentions.{i}"] = f"{block}.1"
        attends = any(name.startswith(f"up_blocks.{level}.attentions.") for name in names)
        up = f"output_blocks.{per * level + per - 1}.{2 if attends else 1}.conv"
        starts[f"up_blocks.{level}.upsamplers.0.conv"] = up
    return {name: _renamed(name, starts) for name in names}


def _renamed(name: str, starts: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        start = ".".join(parts[:length])
        if start in starts:
            rest = parts[length:]
            if ".resnets." in start:
                rest[0] = _RESNET.get(rest[0], rest[0])
            return ".".join((starts[start], *rest))
    return name


def vae_names(names: Iterable[str]) -> Mapping[str, str]:
    """diffusers' name → the original one, without its prefix. The decoder counts backwards."""
    names = list(names)
    last = _numbers(names, r"decoder\.up_blocks\.(\d+)\.") - 1

    def backwards(match: re.Match[str]) -> str:
        part = {"resnets": "block", "upsamplers.0": "upsample"}[match[2]]
        return f"decoder.up.{last - int(match[1])}.{part}."

    renamed = {}
    for name in names:
        ours = re.sub(r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.", backwards, name)
        for theirs, rule in _VAE_RULES:
            ours = re.sub(theirs, rule, ours)
        renamed[name] = ours
    return renamed


def _numbers(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number found."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) for match in found if match), default=-1) + 1


def read_model_header(path: Path) -> Header:
    """The header of a single file, or of a folder in diffusers' layout, in the original's names.

    Raises:
        FileError: as `read_header`; a part of the folder is missing.
    """
    if not path.is_dir():
        return _with_prefixes(read_file_header(path))
    tensors: dict[str, TensorInfo] = {}
    for part, prefix in _parts(path).items():
        header = read_header(_weights_of(path, part))
        rename = {"unet": unet_names, "vae": vae_names}.get(part, _unchanged)
        names = rename(header.tensors)
        tensors |= {prefix + new: header.tensors[old] for old, new in names.items()}
    return Header(path, tensors, {})


def _with_prefixes(header: Header) -> Header:
    """A U-Net alone, in diffusers' names or the original's, as a checkpoint would hold it."""
    names = header.tensors
    if "conv_in.weight" in names and any(name.startswith("up_blocks.") for name in names):
        return header.renamed({old: UNET + new for old, new in unet_names(names).items()})
    for alone in ("", "model.", "diffusion_model."):
        if alone + "input_blocks.0.0.weight" in names and alone + "out.2.weight" in names:
            own = {old: UNET + old.removeprefix(alone) for old in names if old.startswith(alone)}
            return header.renamed(own)
    return header


def read_file_header(path: Path) -> Header:
    """The header of a safetensors or torch file, told apart by content, not by name.

    Raises:
        FileError: as `read_header` and `read_pickle_header`.
    """
    try:
        with path.open("rb") as file:
            is_archive = file.read(4).startswith((b"PK\x03\x04", BEGINNING[:2]))
    except OSError:
        is_archive = False  # read_header says what is wrong
    return read_pickle_header(path) if is_archive else read_header(path)


def _parts(path: Path) -> dict[str, str]:
    """Subfolder → where its tensors lie in a single file of the same family."""
    parts = {"unet": UNET, "vae": VAE}
    first, second = ((path / name).is_dir() for name in ("text_encoder", "text_encoder_2"))
    if second:
        parts["text_encoder_2"] = f"conditioner.embedders.{int(first)}.model."
    if first and second:
        parts["text_encoder"] = "conditioner.embedders.0.transformer."
    elif first:
        # SD 2's only encoder is an OpenCLIP, which shows in its activation.
        config = _json_of(path / "text_encoder" / "config.json")
        sd2 = config.get("hidden_act") == "gelu"
        parts["text_encoder"] = "cond_stage_model." + ("model." if sd2 else "transformer.")
    return parts


def read_vae_header(path: Path) -> Header:
    """The header of a VAE alone, in any layout, in the original's names with their prefix.

    Raises:
        FileError: as `read_header`; the file is no VAE.
    """
    header = read_file_header(path)
    bare = {name: name.removeprefix(VAE) for name in header.tensors}
    if is_diffusers_vae(bare.values()):
        bare = {name: vae_names(bare.values())[short] for name, short in bare.items()}
    kept = {
        name: VAE + short
        for name, short in bare.items()
        if short.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }
    if not any(new.startswith(VAE + "decoder.") for new in kept.values()):
        few = ", ".join(sorted(header.tensors)[:3]) or "none"
        raise FileError(f"{path.name} is no VAE; its first tensors are: {few}")
    return header.renamed(kept)


def _weights_of(path: Path, part: str) -> Path:
    folder = path / part
    for name in ("diffusion_pytorch_model", "model"):
        for ending in (".safetensors", ".fp16.safetensors"):
            if (found := folder / (name + ending)).exists():
                return found
    raise FileError(f"{path.name} has no {part} in one .safetensors file; a whole model has one")


def said_prediction(path: Path) -> str | None:
    """`prediction_type` of a diffusers folder's scheduler."""
    if not path.is_dir():
        return None
    config = _json_of(path / "scheduler" / "scheduler_config.json")
    return {"epsilon": "eps", "v_prediction": "v"}.get(str(config.get("prediction_type")))


def _json_of(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path.parent.name}/{path.name} can't be read: {error}") from error
    return values if isinstance(values, dict) else {}


def _unchanged(names: Iterable[str]) -> Mapping[str, str]:
    return {name: name for name in names}
