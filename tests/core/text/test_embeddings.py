"""Embeddings: read from every container, found by name, put in place of tokens."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor

from core.errors import AdapterError, FileError
from core.models.embeddings import EmbeddingFile, inspect_embedding, known, read_embedding
from core.request import Emphasis
from core.text.embeddings import Embedding, fitting
from core.text.encode import encode
from core.text.encoders import SideBySide, TextEncoder, clip_text_model
from core.text.prompt import Part
from core.text.tokenizer import CHUNK, Tokenizer
from tests.core.models.test_manifests import FORMATS, manifest
from tests.core.text import tiny

PLAIN = Tokenizer()
ENCODER = clip_text_model(tiny.weights(tiny.text_model()), tiny.HEADS)
WIDTHS = (tiny.WIDTH,)


def embedding(name: str, count: int = 3, widths: tuple[int, ...] = WIDTHS) -> Embedding:
    return Embedding(name, count, widths)


def drawn(count: int = 3, seed: int = 0, width: int = tiny.WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def texts(part: str, *embeddings: Embedding) -> list[list[str]]:
    """The words of each chunk; a vector as name[index]."""
    chunks = PLAIN.knowing(embeddings).chunks(Part(part))
    return [
        [f"{t.vector.name}[{t.vector.index}]" if t.vector else t.text for t in chunk.tokens]
        for chunk in chunks
    ]


# --- names in prompts ----------------------------------------------------------------------------


def test_a_name_stands_for_its_vectors() -> None:
    two = embedding("my-style", 2)
    assert texts("a My-Style, cat", two) == [["a", "my-style[0]", "my-style[1]", ",", "cat"]]
    assert texts("my-styles my style", two) == texts("my-styles my style")
    (chunk,) = PLAIN.knowing([two]).chunks(Part("a (my-style:1.3) cat"))
    assert chunk.embeddings == ((2, "my-style"),)
    assert [t.weight for t in chunk.tokens] == [1.0, 1.3, 1.3, 1.0]
    assert [t.text for t in chunk.tokens] == ["a", "my-style", "", "cat"]


def test_the_longest_name_counts() -> None:
    short, long = embedding("bad", 1), embedding("bad_prompt_v2", 1)
    assert texts("bad_prompt_v2 bad", short, long) == [["bad_prompt_v2[0]", "bad[0]"]]
    assert texts("bad_prompt_v2 bad", long, short) == [["bad_prompt_v2[0]", "bad[0]"]]
    assert texts("bad_prompt", short, long) == [["bad[0]", "_", "prompt"]]


def test_comfys_spelling_is_a_name_too() -> None:
    one = embedding("style", 1)
    assert texts("a embedding:style cat", one) == [["a", "style[0]", "cat"]]


def test_without_embeddings_nothing_is_read_otherwise() -> None:
    text = "a (red:1.2) cat, " * 60 + "BREAK [x] AND y"
    assert PLAIN.knowing([]).chunks(Part(text)) == PLAIN.chunks(Part(text))
    assert PLAIN.knowing([embedding("\u200b"), embedding(" ")]).chunks(Part(text)) == PLAIN.chunks(
        Part(text)
    )


@pytest.mark.parametrize("before", [0, 50, 71, 72, 73, 74, 75, 80])
def test_an_embedding_is_never_split(before: int) -> None:
    """Where it would cross a chunk's end a new chunk begins."""
    chunks = texts("word " * before + "thing more", embedding("thing", 4))
    holding = [chunk for chunk in chunks if "thing[0]" in chunk]
    assert len(holding) == 1
    at = holding[0].index("thing[0]")
    assert holding[0][at : at + 4] == [f"thing[{i}]" for i in range(4)]
    fits = before % CHUNK + 4 <= CHUNK
    assert at == (before % CHUNK if fits else 0)
    assert sum(map(len, chunks)) == before + 5


def test_several_of_them_cross_chunk_borders() -> None:
    big, small = embedding("big", 40), embedding("small", 10)
    assert [len(chunk) for chunk in texts("big, big small big", big, small)] == [41, 50, 40]
    assert [len(c) for c in texts("whole whole", embedding("whole", CHUNK))] == [CHUNK, CHUNK]
    assert PLAIN.knowing([big]).count("big big").tokens == 75 + 40


def test_a_phrase_moves_with_its_embedding() -> None:
    """A comma near the end of a full chunk ends it there; what follows moves whole."""
    chunks = texts("word " * 60 + ", a style " + "b " * 20, embedding("style", 4))
    assert chunks[0] == ["word"] * 60 + [","]
    assert chunks[1][:5] == ["a", *[f"style[{i}]" for i in range(4)]]


def test_words_are_kept_together_around_embeddings_in_comfys_grammar() -> None:
    known_one = PLAIN.knowing([embedding("style", CHUNK), embedding("other", 10)])
    part = Part("a style, other(other:1.5)", emphasis=Emphasis.COMFY)
    lengths = [len(chunk.tokens) for chunk in known_one.chunks(part)]
    assert lengths == [1, CHUNK, 21]


def test_ordinary_words_are_told_from_made_up_ones() -> None:
    assert [
        n for n in ("red", "red fox", "qzxv", "my-style", "sks1", "") if PLAIN.is_ordinary(n)
    ] == [
        "red",
        "red fox",
    ]


# --- encoding ------------------------------------------------------------------------------------


def contexts(prompt: str, vectors: dict[str, Tensor], steps: int = 4) -> list[Tensor]:
    names = [embedding(name, len(rows)) for name, rows in vectors.items()]
    positive, _ = encode(
        prompt,
        "",
        ENCODER,
        steps,
        tokenizer=PLAIN.knowing(names),
        vectors={name: (rows,) for name, rows in vectors.items()},
        emphasis=Emphasis.NO_NORM,
    )
    return [positive.at(index)[0][0].context for index in range(steps)]


def table() -> Tensor:
    return ENCODER.text_model.embeddings.token_embedding.weight


def test_vectors_replace_tokens_before_positions_are_added() -> None:
    """An embedding of the words' own vectors says what the words say, bit for bit."""
    ids = [token.id for token in PLAIN.chunks(Part("red blue dog"))[0].tokens]
    (said,) = contexts("a red blue dog here", {}, 1)
    (embedded,) = contexts("a qzxv here", {"qzxv": table()[ids]}, 1)
    assert torch.equal(embedded, said)


def test_vectors_are_weighed_like_words() -> None:
    ids = [token.id for token in PLAIN.chunks(Part("red dog"))[0].tokens]
    (said,) = contexts("a (red dog:1.4) here", {}, 1)
    (embedded,) = contexts("a (qzxv:1.4) here", {"qzxv": table()[ids]}, 1)
    assert torch.equal(embedded, said)


def test_embeddings_follow_prompt_editing() -> None:
    vectors = {"qzxv": drawn(2)}
    over = contexts("a [cat:qzxv:2] here", vectors)
    (cat,) = contexts("a cat here", {}, 1)
    (style,) = contexts("a qzxv here", vectors, 1)
    assert torch.equal(over[0], cat)
    assert torch.equal(over[-1], style)
    assert not torch.allclose(cat, style, atol=1e-3)


def test_two_chunks_that_differ_only_in_their_embedding_are_encoded_apart() -> None:
    one, other = contexts("qzxv BREAK vxzq", {"qzxv": drawn(2, 1), "vxzq": drawn(2, 2)}, 1)[
        0
    ].chunk(2, dim=1)
    assert not torch.allclose(one, other, atol=1e-3)


def test_what_has_no_embedding_keeps_every_bit() -> None:
    """Also beside one that has, and after it."""
    (alone,) = contexts("red cat", {}, 1)
    beside = contexts("red cat BREAK qzxv", {"qzxv": drawn(2)}, 1)[0][:, :77]
    assert torch.equal(alone, beside)
    assert torch.equal(contexts("red cat", {}, 1)[0], alone)
    assert not ENCODER.text_model.embeddings.token_embedding._forward_hooks


def test_each_encoder_of_xl_gets_its_own_vectors() -> None:
    both = SideBySide([ENCODER, clip_text_model(tiny.weights(tiny.text_model("gelu")), 2, "gelu")])
    assert both.widths == (tiny.WIDTH, tiny.WIDTH)
    pair = drawn(2, 1), drawn(2, 2)
    positive, _ = encode(
        "a qzxv",
        "",
        both,
        1,
        tokenizer=PLAIN.knowing([embedding("qzxv", 2, both.widths)]),
        vectors={"qzxv": pair},
    )
    joined = positive.at(0)[0][0].context
    for encoder, rows, half in zip(both.encoders, pair, joined.chunk(2, dim=-1), strict=True):
        assert isinstance(encoder, TextEncoder)
        alone, _ = encode(
            "a qzxv",
            "",
            encoder,
            1,
            tokenizer=PLAIN.knowing([embedding("qzxv", 2)]),
            vectors={"qzxv": (rows,)},
        )
        assert torch.equal(alone.at(0)[0][0].context, half)


def test_half_precision_encoders_take_float32_vectors() -> None:
    half = clip_text_model(
        {name: w.bfloat16() for name, w in tiny.weights(tiny.text_model()).items()}, tiny.HEADS
    )
    positive, _ = encode(
        "qzxv",
        "",
        half,
        1,
        tokenizer=PLAIN.knowing([embedding("qzxv")]),
        vectors={"qzxv": (drawn(),)},
    )
    assert torch.isfinite(positive.at(0)[0][0].context).all()


# --- files ---------------------------------------------------------------------------------------


def a1111_table(rows: Tensor) -> dict[str, object]:
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": "another name",
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


def as_json(rows: Tensor) -> bytes:
    told = a1111_table(rows) | {"string_to_param": {"*": {"TORCHTENSOR": rows.tolist()}}}
    return json.dumps(told).encode()


def png(path: Path, rows: Tensor) -> None:
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(as_json(rows)).decode())
    Image.new("RGB", (32, 32), "red").save(path, pnginfo=info)


def hidden(rows: Tensor, height: int = 40) -> Image.Image:
    """Deflated bytes in halves, each under the generator's low bits, left and right of a picture
    that is set apart by black columns."""
    packed = zlib.compress(as_json(rows), 9)
    size = -len(packed) // (3 * height) * -3 * height
    packed = (packed * (size // len(packed) + 1))[:size]
    state, sequence = 0, []
    for _ in range(size):
        state = (1664525 * state + 1013904223) % 2**32
        sequence.append(state % 255 & 0x0F)
    blocks = []
    for shift in (0, 4):
        values = [(b >> shift & 0x0F) ^ s | 0x40 for b, s in zip(packed, sequence, strict=True)]
        blocks.append(Image.frombytes("RGB", (size // 3 // height, height), bytes(values)))
    middle = Image.new("RGB", (64, height), (200, 37, 41))
    width = blocks[0].width * 2 + middle.width + 2
    whole = Image.new("RGB", (width, height))
    whole.paste(blocks[0], (0, 0))
    whole.paste(middle, (blocks[0].width + 1, 0))
    whole.paste(blocks[1], (blocks[0].width + middle.width + 2, 0))
    return whole


CONTAINERS = {
    "a1111.pt": lambda path, rows: torch.save(a1111_table(rows), path),
    "parameters.pt": lambda path, rows: torch.save(
        a1111_table(rows)
        | {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})},
        path,
    ),
    "diffusers.bin": lambda path, rows: torch.save({"<my-concept>": rows}, path),
    "emb.safetensors": lambda path, rows: save_file({"emb_params": rows}, path),
    "diffusers.safetensors": lambda path, rows: save_file({"<my-concept>": rows}, path),
    "text.png": png,
    "hidden.png": lambda path, rows: hidden(rows).save(path),
    "hidden.webp": lambda path, rows: hidden(rows).save(path, lossless=True),
    "really a torch file.safetensors": lambda path, rows: torch.save(a1111_table(rows), path),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_read_under_the_files_name(name: str, tmp_path: Path) -> None:
    path, rows = tmp_path / name, drawn(4, width=24)
    CONTAINERS[name](path, rows)
    assert inspect_embedding(path) == Embedding(path.stem, 4, (24,))
    (read,) = read_embedding(path)
    assert read.dtype == torch.float32
    assert torch.equal(read, rows)


def test_one_vector_may_be_flat_and_xl_has_a_pair(tmp_path: Path) -> None:
    torch.save({"<x>": drawn(1)[0].half()}, tmp_path / "flat.bin")
    assert inspect_embedding(tmp_path / "flat.bin") == embedding("flat", 1)
    assert torch.equal(read_embedding(tmp_path / "flat.bin")[0], drawn(1).half().float())
    pair = {"clip_g": drawn(2, 1, 24), "clip_l": drawn(2, 2, 16)}
    for name in ("xl.safetensors", "xl.pt"):
        (save_file if name.endswith("s") else torch.save)(pair, tmp_path / name)
        assert inspect_embedding(tmp_path / name) == Embedding("xl", 2, (16, 24))
        first, second = read_embedding(tmp_path / name)
        assert torch.equal(first, pair["clip_l"]) and torch.equal(second, pair["clip_g"])


MANIFESTS = sorted(path.name.removesuffix(".json.gz") for path in FORMATS.glob("ti-*.json.gz"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_real_embeddings_fit_their_family(name: str, tmp_path: Path) -> None:
    halves = {"F16": torch.float16, "F32": torch.float32}
    tensors = {k: torch.ones(shape, dtype=halves[d]) for k, (shape, d) in manifest(name).items()}
    path = tmp_path / "real.pt"
    if "string_to_param.*" in tensors:
        torch.save(a1111_table(tensors["string_to_param.*"]), path)
    else:
        torch.save(tensors, path)
    found = inspect_embedding(path)
    assert found is not None
    families = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280), "refiner": (1280,)}
    fits = {n for n, widths in families.items() if fitting(found.widths, widths) is not None}
    own = {"ti-sd2-emb_params": {"sd2"}, "ti-sdxl": {"sd1", "sdxl", "refiner"}}
    assert fits - {"sd1"} == own.get(name, {"sd1"}) - {"sd1"}
    assert ("sd1" in fits) == ("sd1" in own.get(name, {"sd1"}))


def test_pictures_without_an_embedding_are_only_pictures(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (40, 90, 3), generator=generator, dtype=torch.uint8).numpy()
    noisy = Image.fromarray(noise)
    noisy.paste((0, 0, 0), (30, 0, 60, 40))
    for i, picture in enumerate([noisy, Image.new("RGB", (9, 9)), Image.new("L", (9, 9), 255)]):
        picture.save(tmp_path / f"{i}.png")
        assert inspect_embedding(tmp_path / f"{i}.png") is None
        with pytest.raises(AdapterError, match="is a picture without an embedding inside"):
            read_embedding(tmp_path / f"{i}.png")


def test_damaged_and_hostile_ones_are_named(tmp_path: Path) -> None:
    def told(name: str, sentence: str, error: type[Exception] = AdapterError) -> None:
        with pytest.raises(error, match=sentence):
            read_embedding(tmp_path / name)

    save_file({"emb_params": torch.full((2, 16), torch.nan)}, tmp_path / "nan.safetensors")
    told("nan.safetensors", r"nan\.safetensors is damaged: it holds NaN")
    save_file({"emb_params": torch.ones(76, 16)}, tmp_path / "long.safetensors")
    told("long.safetensors", "has 76 vectors; a chunk of the prompt has room for 75")
    save_file({"emb_params": torch.ones(2, 3, 4)}, tmp_path / "cube.safetensors")
    told("cube.safetensors", "is no embedding: its tensors are 2 × 3 × 4")
    save_file(
        {"clip_l": torch.ones(2, 8), "clip_g": torch.ones(3, 8)}, tmp_path / "odd.safetensors"
    )
    told("odd.safetensors", "is no embedding: its tensors are 2 × 8, 3 × 8")
    save_file({"<a>": torch.ones(2, 8), "<b>": torch.ones(3, 8)}, tmp_path / "two.safetensors")
    told("two.safetensors", "must hold one embedding and holds 2 tensors: <a>, <b>")
    save_file({"lora_unet_x.lora_up.weight": torch.ones(2, 8)}, tmp_path / "lora.safetensors")
    told("lora.safetensors", "is a LoRA, not an embedding: put it into models/Lora", FileError)
    (tmp_path / "none.pt").write_bytes(b"PK\x03\x04rubbish")
    told("none.pt", r"none\.pt is cut off or damaged", FileError)
    told("missing.pt", "there is no such file", FileError)

    class RunsCode:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code ran",)

    torch.save({"string_to_param": RunsCode()}, tmp_path / "evil.pt")
    told("evil.pt", "asks for code to be run", FileError)


@pytest.mark.parametrize(
    "text",
    [
        "%%%",
        base64.b64encode(b"{").decode(),
        base64.b64encode(b"[" * 100_000).decode(),
        base64.b64encode(b'{"string_to_param": {}}').decode(),
        base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [[1], [1, 2]]}}}').decode(),
        base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [["x"]]}}}').decode(),
        base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [[NaN, 1]]}}}').decode(),
    ],
)
def test_rubbish_in_a_pictures_text_is_damage(text: str, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("sd-ti-embedding", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(AdapterError, match=r"x\.png.*damaged"):
        read_embedding(tmp_path / "x.png")


def test_a_picture_that_would_unfold_into_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is unfolded by Pillow, which has a bound; pixels by us."""
    hidden(drawn(4, width=24)).save(tmp_path / "x.png")
    monkeypatch.setattr("core.models.embeddings.MAX_PICTURED", 1000)
    assert inspect_embedding(tmp_path / "x.png") is None


# --- what a request needs ------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[EmbeddingFile]:
    rows = {"qzxv": drawn(2, 1), "red": drawn(1, 2), "never": drawn(1, 3)}
    for name, tensor in rows.items():
        save_file({"emb_params": tensor}, tmp_path / f"{name}.safetensors")
    save_file({"emb_params": torch.ones(2, 1024)}, tmp_path / "wide.safetensors")
    found = []
    for path in sorted(tmp_path.iterdir()):
        one = inspect_embedding(path)
        assert one is not None
        found.append(EmbeddingFile(one, path))
    (tmp_path / "never.safetensors").unlink()  # only what is used is read
    return found


def test_a_request_gets_the_embeddings_it_names(files: list[EmbeddingFile]) -> None:
    asked = [("a [qzxv:cat:2] AND (red:1.2)", False), ("ugly, wide", True)]
    found = known(PLAIN, WIDTHS, files, asked, 4)
    assert [file.embedding.name for file in found.used] == ["qzxv", "red"]
    assert torch.equal(found.vectors["qzxv"][0], drawn(2, 1))
    assert found.tokenizer.count("qzxv qzxv").tokens == 4
    misfit, shadow = found.notes
    assert (
        "'wide' was not used: its vectors are 1024 wide (SD 2.x), and this model reads 16" in misfit
    )
    assert shadow == "the embedding 'red' stands in for the ordinary word 'red'"


def test_a_wording_that_even_steps_never_come_to_has_its_vectors_too(
    files: list[EmbeddingFile],
) -> None:
    """Some samplers count more steps than others."""
    found = known(PLAIN, WIDTHS, files, [("[a:qzxv:4]", False)], 4)
    assert found.used == ()
    assert torch.equal(found.vectors["qzxv"][0], drawn(2, 1))


def test_names_are_found_by_the_grammar_asked_for_and_not_in_tags(
    files: list[EmbeddingFile],
) -> None:
    asked = [("[a:qzxv:500] <lora:red:1>", False)]
    assert known(PLAIN, WIDTHS, files, asked, 4).used == ()
    comfy = known(PLAIN, WIDTHS, files, asked, 4, Emphasis.COMFY)
    assert [file.embedding.name for file in comfy.used] == ["qzxv"]


def test_a_file_that_changed_since_it_was_looked_at_is_noticed(files: list[EmbeddingFile]) -> None:
    (file,) = [file for file in files if file.embedding.name == "qzxv"]
    save_file({"emb_params": torch.ones(5, tiny.WIDTH)}, file.path)
    with pytest.raises(AdapterError, match="has changed since it was looked at"):
        known(PLAIN, WIDTHS, files, [("qzxv", False)], 4)
