"""Whatever is wrong with a file, it gets a sentence, runs nothing, and what was loaded goes on."""

from __future__ import annotations

import io
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as within
from hypothesis import strategies as st
from safetensors.torch import save

from core.engine.answers import exhausted
from core.errors import FileError, NotFinite, VitrineError
from core.generate import House, generate
from core.models.catalog import Catalog, Kind
from core.models.checkpoint import Checkpoint
from core.models.store import Store
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import Settings, default_settings
from tests.tiny import CARD, checkpoint_tensors, write_checkpoint

NAME = "model.diffusion_model.out.2.weight"
EMBEDDINGS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@dataclass(repr=False)
class Workshop:
    """A checkpoint in memory, and a place for damaged ones."""

    settings: Settings
    store: Store
    sound: Checkpoint
    content: bytes
    answer: torch.Tensor

    @property
    def path(self) -> Path:
        return self.settings.models_dir / "Stable-diffusion/hurt.safetensors"

    def told(self, content: bytes) -> str | None:
        """What is said of a file with that content; None if it loads."""
        self.path.write_bytes(content)
        try:
            exhausted(self.store.loaded("hurt"))
        except VitrineError as error:
            return str(error)
        finally:
            self.check_sound()
        return None

    def check_sound(self) -> None:
        """The model of before is still there, and paints what it painted."""
        if len(self.store._kept) > 1:
            return  # the damaged file could be read after all
        assert exhausted(self.store.loaded("sound")) is self.sound
        with torch.no_grad():
            assert torch.equal(self.sound.decode(torch.ones(1, 4, 2, 2)), self.answer)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("workshop")
    settings = default_settings(root)
    tensors = checkpoint_tensors("sd1")
    write_checkpoint(settings.models_dir / "Stable-diffusion/sound.safetensors", tensors)
    store = Store(settings, Catalog(settings, shipped=root / "none"))
    store._room = 2
    sound = exhausted(store.loaded("sound"))
    small = tensors | {EMBEDDINGS: tensors[EMBEDDINGS][:64]}  # no word is read here
    content = save(
        {name: tensor.contiguous() for name, tensor in small.items()},
        {"vitrine.config": json.dumps(CARD)},
    )
    with torch.no_grad():
        answer = sound.decode(torch.ones(1, 4, 2, 2))
    return Workshop(settings, store, sound, content, answer)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict[str, Any] | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


EXAMPLES = within(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@EXAMPLES
@given(share=st.floats(0, 0.9999))
def test_cut_off_anywhere_it_says_so(share: float, workshop: Workshop) -> None:
    said = workshop.told(workshop.content[: int(len(workshop.content) * share)])
    assert said is not None
    assert "hurt" in said
    assert "cut off" in said or "empty" in said or "too short" in said


@EXAMPLES
@given(data=st.data())
def test_any_entry_of_the_header_may_be_wrong(data: st.DataObject, workshop: Workshop) -> None:
    header, tensors = header_of(workshop.content)
    names = sorted(name for name in header if name != "__metadata__")
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        entry = dict(header[name])
        change = data.draw(st.sampled_from(["shape", "dtype", "offsets", "gone", "renamed"]))
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        if change == "shape":
            shapes = [[], [0], [-1], [size // 4], [1, size // 4], [size // 4, 1, 1, 1], [2**62, 4]]
            entry["shape"] = data.draw(st.sampled_from(shapes))
        elif change == "dtype":
            entry["dtype"] = data.draw(st.sampled_from(["I32", "F16", "Q4", 7, None, "BOOL"]))
        elif change == "offsets":
            moved = data.draw(st.integers(-8, 8))
            entry["data_offsets"] = [offset + moved for offset in entry["data_offsets"]]
        if change == "gone":
            header.pop(name, None)
        elif change == "renamed":
            header[data.draw(st.sampled_from(["odd", name + ".9", name[:-3]]))] = header.pop(
                name, entry
            )
        elif name in header:
            header[name] = entry
    said = workshop.told(joined(header, tensors))
    assert said is None or "hurt" in said


@EXAMPLES
@given(data=st.data())
def test_any_bytes_may_be_wrong(data: st.DataObject, workshop: Workshop) -> None:
    content = bytearray(workshop.content)
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, 8 + length))] = data.draw(st.integers(0, 255))
    said = workshop.told(bytes(content))
    assert said is None or "hurt" in said


def attack(mark: Path) -> bytes:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {mark}",)

    stream = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2)}, "payload": Runs()}, stream)
    return stream.getvalue()


def repeated(content: bytes) -> bytes:
    header, tensors = header_of(content)
    text = json.dumps(header)
    return joined(text[:-1] + f', "{NAME}": ' + json.dumps(header[NAME]) + "}", tensors)


def overlapping(content: bytes) -> bytes:
    header, tensors = header_of(content)
    name = "model.diffusion_model.out.2.bias"
    begin, end = header[NAME]["data_offsets"]
    assert end - begin > 16
    header[name]["data_offsets"] = [begin, begin + 16]
    return joined(header, tensors)


def deeply_named(content: bytes) -> bytes:
    header, tensors = header_of(content)
    place = "model.diffusion_model.input_blocks.1.1.transformer_blocks.99999999.norm1.weight"
    header[place] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return joined(header, tensors)


@pytest.mark.parametrize(
    ("damaged", "hint"),
    [
        (lambda content: b"", "empty"),
        (lambda content: b"<html>sign in</html>", "an HTML page"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        (lambda content: b"\x80\x02}q\x00.", "none of torch's"),
        (lambda content: b"GGUF\x03" + b"\0" * 99, "GGUF"),
        (lambda content: struct.pack("<Q", 2**63) + b"{}", "header can't be"),
        (lambda content: b"PK\x03\x04" + b"\0" * 99, "cut off or damaged"),
        (repeated, "twice"),
        (overlapping, "same bytes"),
        (deeply_named, "count up to 100,000,000"),
        (lambda content: joined("[" * 100_000, b""), "can't be read"),
        (
            lambda content: save({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}),
            "is a LoRA, not a checkpoint: put it into models/Lora",
        ),
        (
            lambda content: save({"emb_params": torch.ones(2, 768)}),
            "an embedding, not a checkpoint",
        ),
        (lambda content: save({"encoder.conv_in.weight": torch.ones(2)}), "models/VAE"),
        (
            lambda content: save({"control_model.time_embed.0.weight": torch.ones(2)}),
            "is a ControlNet, not a checkpoint",
        ),
        (lambda content: save({"x": torch.ones(2, 2, 2)}), "its first tensors are: x"),
    ],
)
def test_each_kind_of_damage_has_its_sentence(damaged: Any, hint: str, workshop: Workshop) -> None:
    said = workshop.told(damaged(workshop.content))
    assert said is not None
    assert hint in said
    assert "hurt.safetensors" in said


def test_a_file_that_would_run_code_is_not_opened(workshop: Workshop, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    said = workshop.told(attack(mark))
    assert said is not None
    assert "asks for code to be run" in said
    assert not mark.exists()


def test_numbers_that_are_none_are_named_where_they_show(tmp_path: Path) -> None:
    """A NaN among the weights is no damage of the file: it shows when the network answers."""
    settings = default_settings(tmp_path)
    tensors = checkpoint_tensors("sd1")
    tensors[NAME][0, 0, 0, 0] = float("nan")
    write_checkpoint(settings.models_dir / "Stable-diffusion/hurt.safetensors", tensors)
    catalog = Catalog(settings)
    house = House(built_in(), catalog, Store(settings, catalog))
    asked = GenerationRequest(prompt="", checkpoint="hurt", steps=2, width=64, height=64, seed=1)
    with pytest.raises(NotFinite, match="step 1 of 2"):
        list(generate(asked, house))


@EXAMPLES
@given(data=st.data())
def test_no_header_troubles_the_catalog(data: st.DataObject, workshop: Workshop) -> None:
    """Every kind of file, with the names that each kind looks for and shapes that none has."""
    names = st.sampled_from(
        [
            NAME,
            "model.diffusion_model.input_blocks.0.0.weight",
            "model.diffusion_model.input_blocks.1.1.proj_in.weight",
            "lora_unet_down_blocks_0_attn2_to_k.lora_down.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            "emb_params",
            "clip_l",
            "body.0.block1.weight",
            "conv_in.weight",
            "up_blocks.0.resnets.0.norm1.weight",
            "768.0.linear.0.weight",
            "encoder.conv_in.weight",
            "decoder.up_blocks.0.resnets.0.norm1.weight",
            "first_stage_model.decoder.conv_in.weight",
            EMBEDDINGS,
        ]
    )
    shapes = st.lists(st.integers(0, 3), max_size=5)
    tensors = data.draw(st.dictionaries(names, shapes, min_size=1, max_size=5))
    metadata = data.draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
    words = ["ss_tag_frequency", "modelspec.architecture", "vitrine.config", "sshs_model_hash"]
    texts = st.sampled_from(["{", "[1]", '{"a": {"b": "c"}}', '{"a": 1}', "null", "x" * 70, ""])
    metadata |= data.draw(st.dictionaries(st.sampled_from(words), texts, max_size=3))
    content = save({name: torch.ones(shape) for name, shape in tensors.items()}, metadata)
    for kind, folder in [
        (Kind.CHECKPOINT, "Stable-diffusion"),
        (Kind.VAE, "VAE"),
        (Kind.LORA, "Lora"),
        (Kind.EMBEDDING, "embeddings"),
        (Kind.UPSCALER, "ESRGAN"),
        (Kind.CONTROLNET, "ControlNet"),
    ]:
        path = workshop.settings.models_dir / folder / "any.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        catalog = workshop.store._catalog
        try:
            catalog.file(kind, "any")
        except FileError as error:
            assert "any.safetensors" in str(error)
        catalog.unreadable(kind)
        path.unlink()
