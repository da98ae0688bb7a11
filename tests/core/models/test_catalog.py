"""What lies in the models folders: found under any program's names, read once, called any way."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import Cancelled, FileError, RequestError
from core.models import catalog as catalog_module
from core.models.catalog import Catalog, Kind, ModelFile
from core.models.describe import fitting
from core.models.files import Header, TensorInfo
from core.models.kinds import kind_of
from core.settings import Settings
from tests.core.models.test_layouts import write_folder
from tests.tiny import checkpoint_tensors, write_checkpoint

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def bare(settings: Settings) -> Catalog:
    """A catalog of a person's own files alone."""
    return Catalog(settings, settings.data_dir / "nothing ships.safetensors")


def write_lora(path: Path, width: int = 768, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{ATTENTION}.lora_down.weight": torch.ones(4, width),
        f"{ATTENTION}.lora_up.weight": torch.ones(320, 4),
    }
    save_file(tensors, path, metadata=metadata or None)
    return path


def only(settings: Settings, kind: Kind) -> ModelFile:
    (file,) = bare(settings).files(kind)
    return file


# where files lie


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("models/Lora", Kind.LORA),
        ("models/loras", Kind.LORA),
        ("models/Lora/by/hand", Kind.LORA),
        ("models/ControlNet", Kind.CONTROLNET),
        ("models/controlnet", Kind.CONTROLNET),
        ("models/hypernetworks", Kind.HYPERNETWORK),
        ("models/ESRGAN", Kind.UPSCALER),
        ("models/RealESRGAN", Kind.UPSCALER),
        ("models/upscale_models", Kind.UPSCALER),
        ("embeddings", Kind.EMBEDDING),
        ("models/embeddings", Kind.EMBEDDING),
        ("models/VAE-approx", Kind.TINY_VAE),
        ("further", Kind.LORA),
    ],
)
def test_each_kind_is_found_under_either_programs_names(
    folder: str, kind: Kind, settings: Settings, tmp_path: Path
) -> None:
    content = {
        Kind.LORA: {"x.lora_down.weight": torch.ones(2, 2)},
        Kind.CONTROLNET: {"control_model.input_blocks.0.0.weight": torch.ones(2)},
        Kind.HYPERNETWORK: {"768.0.linear.0.weight": torch.ones(2, 2)},
        Kind.UPSCALER: {"conv_first.weight": torch.ones(2, 2)},
        Kind.EMBEDDING: {"emb_params": torch.ones(2, 768)},
        Kind.TINY_VAE: {"3.conv.0.weight": torch.ones(2, 2)},
    }[kind]
    path = tmp_path / folder / "it.safetensors"
    path.parent.mkdir(parents=True)
    save_file(content, path)
    file = only(replace(settings, loras_dir=tmp_path / "further"), kind)
    assert file.path == path
    assert file.name == path.relative_to(tmp_path / folder).as_posix().removesuffix(
        ".safetensors"
    ) or file.name.endswith("/it")
    assert file.size == path.stat().st_size


EXTRA = """
a111:
    base_path: {base}
    checkpoints: models/Stable-diffusion
    loras: |
        models/Lora
        models/LyCORIS
    embeddings: embeddings
    configs: models/Stable-diffusion
first:
    is_default: true
    base_path: other
    checkpoints: best
plain:
    vae: {base}/vaes
    upscale_models: [up1, up2]
empty:
"""


def test_comfyuis_list_of_further_folders_is_read(settings: Settings, tmp_path: Path) -> None:
    base = tmp_path / "a1111"
    (tmp_path / "extra_model_paths.yaml").write_text(EXTRA.format(base=base))
    write_checkpoint(base / "models/Stable-diffusion/z.safetensors", checkpoint_tensors("sd1"))
    write_checkpoint(settings.models_dir / "checkpoints/z.safetensors", checkpoint_tensors("sd2"))
    write_checkpoint(tmp_path / "other/best/z.safetensors", checkpoint_tensors("sdxl"))
    for folder in ("Lora", "LyCORIS"):
        write_lora(base / f"models/{folder}/{folder}.safetensors")
    for folder in ("up1", "up2"):
        (tmp_path / folder).mkdir()
        save_file({"conv_first.weight": torch.ones(2)}, tmp_path / folder / f"{folder}.pth")
    catalog = bare(settings)
    bases = {file.name: file.facts.base for file in catalog.files(Kind.CHECKPOINT)}
    assert bases["z"] == "sdxl"  # the default's come first
    assert bases["z (checkpoints)"] == "sd2"
    assert bases["z (Stable-diffusion)"] == "sd1"
    assert [file.name for file in catalog.files(Kind.LORA)] == ["Lora", "LyCORIS"]
    assert [file.name for file in catalog.files(Kind.UPSCALER)] == ["up1", "up2"]


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "a: text", "\x00"])
def test_a_broken_list_of_folders_is_named_and_blocks_nothing(
    text: str, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "extra_model_paths.yaml").write_text(text)
    write_lora(settings.models_dir / "Lora/ink.safetensors")
    catalog = bare(settings)
    assert [file.name for file in catalog.files(Kind.LORA)] == ["ink"]
    assert "extra_model_paths.yaml" in catalog.unreadable()["extra_model_paths.yaml"]


def test_links_are_followed_and_circles_end(settings: Settings, tmp_path: Path) -> None:
    write_lora(tmp_path / "disk/deep/ink.safetensors")
    loras = settings.models_dir / "Lora"
    loras.mkdir(parents=True)
    (loras / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(loras)
    (loras / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert "linked/deep/ink" in {file.name for file in bare(settings).files(Kind.LORA)}


def test_hidden_files_are_no_models(settings: Settings) -> None:
    write_lora(settings.models_dir / "Lora/.ink.safetensors")
    write_lora(settings.models_dir / "Lora/.trash/ink.safetensors")
    assert not bare(settings).files(Kind.LORA)


def test_two_endings_of_one_stem_are_told_apart(settings: Settings) -> None:
    folder = settings.models_dir / "Lora"
    write_lora(folder / "ink.safetensors")
    torch.save({"x.lora_down.weight": torch.ones(2, 2)}, folder / "ink.pt")
    assert [file.name for file in bare(settings).files(Kind.LORA)] == ["ink", "ink.pt"]


# what they say of themselves


def test_kohyas_metadata_tells_base_alias_and_words(settings: Settings) -> None:
    tags = {"10_ink": {"ink drawing": 30, "fox": 3}, "5_more": {"fox": 40, "": 50}}
    write_lora(
        settings.models_dir / "Lora/file.safetensors",
        ss_base_model_version="sd_v1",
        ss_output_name="InkStyle",
        ss_tag_frequency=json.dumps(tags),
        sshs_model_hash="ab" * 32,
    )
    facts = only(settings, Kind.LORA).facts
    assert (facts.base, facts.alias) == ("sd1", "InkStyle")
    assert facts.triggers == ("fox", "ink drawing")
    assert facts.tensors_hash == "ab" * 32


def test_what_a_person_wrote_counts_more_than_what_the_file_says(settings: Settings) -> None:
    path = write_lora(
        settings.models_dir / "Lora/ink.safetensors",
        **{"modelspec.trigger_phrase": "in ink", "modelspec.description": "from the file"},
    )
    facts = only(settings, Kind.LORA).facts
    assert facts.triggers == ("in ink",)
    assert facts.description == "from the file"
    info = {
        "trainedWords": ["inkstyle", " a  fox "],
        "description": "<p>Ink &amp; <b>water</b></p>",
    }
    path.with_suffix(".civitai.info").write_text(json.dumps(info))
    facts = only(settings, Kind.LORA).facts
    assert facts.triggers == ("inkstyle", "a fox")
    assert facts.description == "Ink & water"
    mine = {
        "activation text": "my ink",
        "preferred weight": 0.7,
        "negative text": "blurry",
        "sd version": "SDXL",
        "description": "mine",
    }
    path.with_suffix(".json").write_text(json.dumps(mine))
    facts = only(settings, Kind.LORA).facts
    assert (facts.triggers, facts.weight) == (("my ink",), 0.7)
    assert (facts.negative, facts.base, facts.description) == ("blurry", "sdxl", "mine")


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"preferred weight": "x"}', "\ufeff{}"])
def test_an_odd_sidecar_says_nothing(text: str, settings: Settings) -> None:
    path = write_lora(settings.models_dir / "Lora/ink.safetensors")
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    facts = only(settings, Kind.LORA).facts
    assert (facts.problem, facts.weight, facts.base) == ("", None, "sd1")


@pytest.mark.parametrize("ending", [".preview.png", ".png", ".jpg", ".webp", ".preview.jpeg"])
def test_a_picture_beside_a_model_is_its_preview(ending: str, settings: Settings) -> None:
    path = write_lora(settings.models_dir / "Lora/ink.safetensors")
    picture = path.with_name("ink" + ending)
    picture.write_bytes(b"picture")
    assert only(settings, Kind.LORA).picture == picture


@pytest.mark.parametrize(("width", "base"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (7, "")])
def test_a_lora_fits_what_its_width_of_text_says(width: int, base: str, settings: Settings) -> None:
    write_lora(settings.models_dir / "Lora/ink.safetensors", width)
    assert only(settings, Kind.LORA).facts.base == base


@pytest.mark.parametrize(
    ("shapes", "kind", "base"),
    [
        ({"emb_params": (4, 768)}, Kind.EMBEDDING, "sd1"),
        ({"clip_l": (4, 768), "clip_g": (4, 1280)}, Kind.EMBEDDING, "sdxl"),
        ({"<my-concept>": (1024,)}, Kind.EMBEDDING, "sd2"),
        ({"string_to_param.*": (4, 768)}, Kind.EMBEDDING, "sd1"),
        ({"320.0.linear.0.weight": (1, 1), "768.1.linear.0.weight": (1, 1)}, "hypernetwork", "sd1"),
        ({"body.0.block1.weight": (1, 1), "conv_in.weight": (1, 64)}, Kind.CONTROLNET, "sd1"),
        ({"lora_te2_x.lora_down.weight": (1, 1)}, Kind.LORA, "sdxl"),
        ({"lora_te1_x.lokr_w1": (8, 8)}, Kind.LORA, "sdxl"),
        ({"down_blocks.0.attentions.0.attn2.to_k.weight": (9, 2048)}, None, "sdxl"),
        ({"down_blocks.0.resnets.0.conv1.weight": (9, 9)}, Kind.CHECKPOINT, ""),
        ({"encoder.conv_in.weight": (1, 1, 1, 1)}, Kind.VAE, ""),
        ({"1.conv.0.weight": (1, 1, 1, 1)}, Kind.TINY_VAE, ""),
        ({"model.1.sub.0.RDB1.conv1.0.weight": (1, 1, 1, 1)}, Kind.UPSCALER, ""),
    ],
)
def test_kind_and_base_are_told_by_names_and_shapes(
    shapes: dict[str, tuple[int, ...]], kind: Kind | None, base: str
) -> None:
    infos = {n: TensorInfo("F16", shape, 0, 0, Path()) for n, shape in shapes.items()}
    header = Header(Path("x"), infos, {})
    if kind is not None:
        assert kind_of(header) == kind
    assert fitting(header) == base


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = [*chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in whole
    )


def test_a_picture_is_an_embedding_if_one_is_inside(settings: Settings) -> None:
    folder = settings.models_dir / "embeddings"
    folder.mkdir(parents=True)
    (folder / "inside.png").write_bytes(
        png((b"IHDR", b"\0" * 13), (b"tEXt", b"sd-ti-embedding\0x"))
    )
    (folder / "photo.png").write_bytes(png((b"IHDR", b"\0" * 13), (b"tEXt", b"Comment\0x")))
    save_file({"emb_params": torch.ones(1, 768)}, folder / "plain.safetensors")
    (folder / "plain.preview.png").write_bytes(png())
    catalog = bare(settings)
    assert [file.name for file in catalog.files(Kind.EMBEDDING)] == ["inside", "plain"]
    assert not catalog.unreadable(Kind.EMBEDDING)


def test_damaged_and_misplaced_files_have_their_sentence(settings: Settings) -> None:
    folder = settings.models_dir / "Lora"
    write_checkpoint(folder / "whole.safetensors", checkpoint_tensors("sd1"))
    (folder / "page.safetensors").write_text("<html>")
    content = write_lora(folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:-10])
    catalog = bare(settings)
    said = catalog.unreadable(Kind.LORA)
    assert "is a checkpoint, not a LoRA: put it into models/Stable-diffusion" in said["whole"]
    assert "HTML page" in said["page"]
    assert "cut off" in said["cut"]
    assert not catalog.files(Kind.LORA)
    with pytest.raises(FileError, match="HTML page"):
        catalog.file(Kind.LORA, "page")


# what they are called


@pytest.fixture
def named(settings: Settings) -> Catalog:
    folder = settings.models_dir / "Lora"
    write_lora(folder / "ink.safetensors", ss_output_name="Alias One")
    write_lora(folder / "styles/oil.safetensors", ss_output_name="Alias Two")
    write_lora(folder / "styles/pen.v1.0.safetensors")
    write_lora(folder / "more/pen.v1.0.safetensors")
    return bare(settings)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("ink", "ink"),
        ("ink.safetensors", "ink"),
        ("INK", "ink"),
        ("oil", "styles/oil"),
        ("styles/oil", "styles/oil"),
        ("styles\\oil.safetensors", "styles/oil"),
        ("oil.safetensors [0123456789]", "styles/oil"),
        ("Alias Two", "styles/oil"),
        ("more/pen.v1.0", "more/pen.v1.0"),
    ],
)
def test_a_model_answers_to_all_that_a1111_would_call_it(
    asked: str, meant: str, named: Catalog
) -> None:
    assert named.file(Kind.LORA, asked).name == meant


def test_a_name_that_may_mean_two_names_both(named: Catalog) -> None:
    with pytest.raises(RequestError, match=r"'more/pen\.v1\.0' or 'styles/pen\.v1\.0'"):
        named.file(Kind.LORA, "pen.v1.0")


def test_a_name_that_means_none_lists_what_there_is(named: Catalog) -> None:
    with pytest.raises(RequestError, match="no LoRA named 'water'; there are: ink, more/pen"):
        named.file(Kind.LORA, "water")


def test_a_known_hash_is_a_name_and_settles_which_is_meant(
    named: Catalog, settings: Settings
) -> None:
    path = settings.models_dir / "Lora/styles/pen.v1.0.safetensors"
    write_lora(path, 1024)
    digest = named.hashed(path)
    assert named.file(Kind.LORA, digest[:10]).path == path
    assert named.file(Kind.LORA, f"pen.v1.0 [{digest[:10]}]").path == path
    assert named.file(Kind.LORA, "styles/pen.v1.0").title == f"styles/pen.v1.0 [{digest[:10]}]"


# hashes, and what is remembered


def test_hashes_are_those_that_a1111_writes(settings: Settings) -> None:
    path = write_lora(settings.models_dir / "Lora/ink.safetensors")
    catalog = bare(settings)
    assert catalog.hash_of(path) is None
    content = path.read_bytes()
    assert catalog.hashed(path) == hashlib.sha256(content).hexdigest() == catalog.hash_of(path)
    (length,) = struct.unpack("<Q", content[:8])
    tensors = hashlib.sha256(content[8 + length :]).hexdigest()
    assert catalog.hashed(path, "tensors") == tensors
    assert catalog.lora_hash(catalog.file(Kind.LORA, "ink")) == tensors[:12]
    write_lora(path, ss_output_name="other", sshs_model_hash="cd" * 32)
    assert catalog.hash_of(path) is None
    assert catalog.lora_hash(catalog.file(Kind.LORA, "ink")) == "cd" * 6


def test_a_hash_can_be_interrupted(settings: Settings) -> None:
    path = write_lora(settings.models_dir / "Lora/ink.safetensors")
    with pytest.raises(Cancelled):
        bare(settings).hashed(path, "file", lambda done: False)
    assert bare(settings).hash_of(path) is None


def test_headers_are_not_read_again_after_a_restart(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lora(settings.models_dir / "Lora/ink.safetensors", ss_output_name="Alias")
    first = only(settings, Kind.LORA)
    read: list[str] = []
    real = catalog_module.read_facts
    monkeypatch.setattr(
        catalog_module,
        "read_facts",
        lambda found, *more: read.append(found.name) or real(found, *more),
    )
    assert only(settings, Kind.LORA) == first
    assert not read
    path.with_suffix(".txt").write_text("about it")
    assert only(settings, Kind.LORA).facts.description == "about it"
    assert read == ["ink"]


@pytest.mark.parametrize("content", [b"", b"rubbish" * 1000])
def test_a_damaged_memory_is_begun_anew(content: bytes, settings: Settings) -> None:
    path = write_lora(settings.models_dir / "Lora/ink.safetensors")
    settings.data_dir.mkdir()
    (settings.data_dir / "catalog.sqlite3").write_bytes(content)
    assert only(settings, Kind.LORA).name == "ink"
    catalog = bare(settings)
    catalog.hashed(path)
    assert bare(settings).hash_of(path) is not None


def test_a_memory_that_can_not_be_written_is_done_without(settings: Settings) -> None:
    write_lora(settings.models_dir / "Lora/ink.safetensors")
    settings.data_dir.write_text("a file where the folder should be")
    assert only(settings, Kind.LORA).name == "ink"


def waited(condition: object) -> bool:
    assert callable(condition)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_the_background_reads_and_hashes_without_being_asked(settings: Settings) -> None:
    paths = [write_lora(settings.models_dir / f"Lora/ink{n}.safetensors") for n in range(5)]
    catalog = Catalog(settings, shipped=settings.models_dir / "none")
    assert not any(file.is_read for file in catalog.files(Kind.LORA, wait=False))
    catalog.begin()
    try:
        assert waited(lambda: all(f.is_read for f in catalog.files(Kind.LORA, wait=False)))
        assert waited(lambda: all(catalog.hash_of(path, "tensors") for path in paths))
        assert catalog.version > 0
    finally:
        catalog.end()


def test_the_background_ends_in_the_middle_of_a_large_hash(settings: Settings) -> None:
    path = settings.models_dir / "VAE/large.safetensors"
    path.parent.mkdir(parents=True)
    size = 2**32
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    text = json.dumps({"decoder.conv_in.weight": entry}).encode()
    with path.open("wb") as file:  # a hole: no byte of it is on the disk
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    catalog = Catalog(settings, shipped=settings.models_dir / "none")
    catalog.begin()
    assert waited(lambda: catalog.version > 0)
    began = time.monotonic()
    catalog.end()
    assert time.monotonic() - began < 2
    assert catalog.hash_of(path) is None


def test_a_thousand_models_are_looked_through_in_no_time(settings: Settings) -> None:
    content = write_lora(settings.models_dir / "Lora/0.safetensors").read_bytes()
    for n in range(1, 1000):
        (settings.models_dir / f"Lora/{n}.safetensors").write_bytes(content)
    catalog = bare(settings)
    catalog.files(Kind.LORA)
    began = time.process_time()
    assert catalog.file(Kind.LORA, "777").name == "777"
    assert time.process_time() - began < 1


def test_a_folder_is_read_again_when_a_part_of_it_changes(tmp_path: Path) -> None:
    from core.settings import default_settings

    write_folder(tmp_path)
    catalog = Catalog(default_settings(tmp_path))
    before = catalog.file(Kind.CHECKPOINT, "tiny").modified
    part = tmp_path / "models/Stable-diffusion/tiny/unet/diffusion_pytorch_model.safetensors"
    os.utime(part, (before + 100, before + 100))
    assert catalog.file(Kind.CHECKPOINT, "tiny").modified > before
