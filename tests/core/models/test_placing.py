"""Where the parts of checkpoints lie under each memory policy, seen by recording every move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.adapters.lora import lora
from core.adapters.patch import Use
from core.engine.answers import exhausted
from core.models import reading
from core.models.catalog import Catalog
from core.models.checkpoint import Checkpoint
from core.models.footprint import decoding_bytes
from core.models.placing import CPU, Passing, PlacedUNet, Placing, laid_out
from core.models.precision import Precisions
from core.models.reading import read_checkpoint
from core.models.sd1 import SD1
from core.models.sd2 import SD2
from core.models.sdxl import SDXL
from core.models.store import Store
from core.nn.attention import Attention
from core.nn.unet import UNet
from core.request import GenerationRequest
from core.settings import Memory, Settings, default_settings
from core.text.prompt import Counting
from tests.core.nn.test_attention import one_weight
from tests.tiny import UNET_CONFIG, checkpoint_tensors, tiny_unet, write_checkpoint

GPU = torch.device("cuda")
"""Only its name is used: nothing is moved in these tests."""


class Moves:
    """Stands for moving: writes down what would go where, and knows where it is."""

    def __init__(self) -> None:
        self.done: list[tuple[nn.Module, str]] = []
        self.here: set[nn.Module] = set()

    def __call__(self, module: nn.Module, device: torch.device) -> None:
        self.done.append((module, device.type))
        (self.here.discard if device == CPU else self.here.add)(module)


def parts(count: int = 3) -> list[nn.Module]:
    return [nn.Linear(2, 2) for _ in range(count)]


def test_with_plenty_of_memory_a_part_comes_once_and_stays() -> None:
    moves = Moves()
    placing = Placing(GPU, "plenty", moves)
    first, second, read = parts()
    placing.took(read)
    for part in (first, second, first, read):
        placing.need(part)
    assert moves.done == [(first, "cuda"), (second, "cuda")]
    placing.leave(first, second, read)
    assert {module for module, where in moves.done if where == "cpu"} == {first, second, read}


@pytest.mark.parametrize("memory", ["plenty", "medvram", "lowvram"])
def test_what_guides_a_network_lies_beside_it_until_something_else_is_needed(
    memory: Memory,
) -> None:
    moves = Moves()
    placing = Placing(GPU, memory, moves)
    unet, guide, vae = parts()
    placing.need(unet)
    placing.join(guide)
    placing.need(unet)
    placing.join(guide)
    assert moves.done == [(unet, "cuda"), (guide, "cuda")]
    placing.need(vae)
    assert moves.here == ({unet, guide, vae} if memory == "plenty" else {vae})


@pytest.mark.parametrize("memory", ["medvram", "lowvram"])
def test_under_medvram_one_part_is_there_at_a_time(memory: Memory) -> None:
    moves = Moves()
    placing = Placing(GPU, memory, moves)
    assert placing.reads_to == CPU
    text, unet, vae = parts()
    for part in (text, unet, unet, vae, unet):
        placing.need(part)
        assert moves.here == {part}
    assert len(moves.done) == 7  # four times in, three times out


def test_under_lowvram_the_blocks_of_a_unet_come_one_by_one() -> None:
    moves = Moves()
    placing = Placing(GPU, "lowvram", moves)
    unet = PlacedUNet(UNET_CONFIG, placing)
    most = 0
    blocks = {*unet.input_blocks._modules.values(), *unet.output_blocks._modules.values()}

    def counted(module: nn.Module, device: torch.device) -> None:
        nonlocal most
        Moves.__call__(moves, module, device)
        most = max(most, len(moves.here & blocks))

    placing._move = counted
    with torch.no_grad():
        unet(torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 2, 32))
    came = [module for module, where in moves.done if where == "cuda"]
    assert blocks <= set(came)
    assert most == 1
    assert not moves.here & blocks
    assert unet.out in moves.here


def test_a_placed_unet_has_the_names_and_the_answers_of_a_plain_one() -> None:
    plain = tiny_unet()
    given = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 500.0]), torch.randn(2, 3, 32)
    for memory in ("plenty", "medvram", "lowvram"):
        unet = PlacedUNet(UNET_CONFIG, Placing(GPU, memory, lambda module, device: None))  # type: ignore[arg-type]
        unet.load_state_dict(plain.state_dict())
        assert list(unet.state_dict()) == list(plain.state_dict())
        assert isinstance(unet.input_blocks, Passing)
        with torch.no_grad():
            assert torch.equal(unet(*given), plain(*given))


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [((8, 0), None, True), ((6, 1), None, False), ((9, 0), "6", False)],
)
def test_convolutions_lie_channels_last_for_tensor_cores_alone(
    capability: tuple[int, int], hip: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    plain, unet = tiny_unet(), tiny_unet()
    laid_out(unet, GPU)
    kernel = unet.get_parameter("input_blocks.0.0.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last) == expected
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name])
    given = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 500.0]), torch.randn(2, 3, 32)
    with torch.no_grad():
        assert torch.allclose(unet(*given), plain(*given), atol=1e-5)
    laid_out(plain, CPU)
    assert plain.get_parameter("input_blocks.0.0.weight").shape == kernel.shape


def test_on_a_cpu_every_policy_is_plenty() -> None:
    moves = Moves()
    placing = Placing(CPU, "lowvram", moves)
    assert placing.memory == "plenty"
    for part in parts():
        placing.took(part)
        placing.need(part)
        placing.leave(part)
    assert not moves.done


# a whole checkpoint


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    for name in ("one", "other", "third"):
        path = tmp_path / f"models/Stable-diffusion/{name}.safetensors"
        write_checkpoint(path, checkpoint_tensors("sd1"))
    return default_settings(tmp_path)


def read(settings: Settings, placing: Placing, precisions: Precisions) -> Checkpoint:
    file = Catalog(settings).checkpoint("one")
    return exhausted(read_checkpoint(file, placing, precisions))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_where_one_product_is_quicker_weights_are_read_side_by_side(
    kind: str, tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FUSED", (kind,))
    network = read(tiny, Placing(CPU), Precisions("float32", "float32", False)).network
    layers = [layer for layer in network.modules() if isinstance(layer, Attention)]
    own = [kind == "cpu" and layer.to_q.in_features == layer.to_k.in_features for layer in layers]
    assert [one_weight(layer) is not None for layer in layers] == own
    monkeypatch.undo()
    weights = read(tiny, Placing(CPU), Precisions("float32", "float32", False)).network.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in network.state_dict().items())


def test_each_part_asks_for_its_place_when_it_is_used(tiny: Settings) -> None:
    """The device is the CPU, told to Placing as another: so everything really runs."""
    moves = Moves()
    placing = Placing(CPU, "medvram", moves)
    placing.memory = "medvram"
    placing.device = torch.device("cpu", 0)
    model = read(tiny, placing, Precisions("float32", "float32", False))
    asked = GenerationRequest(prompt="a fox", width=64, height=64, steps=1, seed=1)
    with torch.no_grad():
        model.prompts(asked, Counting(1, (0,)))
        assert moves.here == {model.text}
        model.network(torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 77, 32))
        assert moves.here == {model.network}
        model.decode(torch.zeros(1, 4, 8, 8))
        assert moves.here == {model.vae}


LAYER = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


FACTORS = {
    f"{LAYER}.lora_down.weight": torch.ones(2, 32),
    f"{LAYER}.lora_up.weight": torch.ones(64, 2),
}
USE = Use(lora("ink", FACTORS, {}))


def test_loras_go_on_and_off_where_the_weights_wait(tiny: Settings) -> None:
    """What they replace lies aside, and must find its network where it left it."""
    moves = Moves()
    placing = Placing(CPU, "plenty", moves)
    model = read(tiny, placing, Precisions("float32", "float32", False))
    placing.memory, placing.device = "medvram", torch.device("cpu", 0)
    placing._here.clear()
    stayed = []
    for uses in ([USE], [USE], []):
        placing.need(model.network)
        model.wear(uses)
        stayed.append(model.network in moves.here)
    assert stayed == [False, True, False]  # the same again moves nothing


def test_what_a_lora_leaves_is_kept_only_where_memory_is_plenty(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read(tiny, Placing(CPU, "plenty"), Precisions("float32", "float32", False))
    left = 64 * 32 * 4
    for free, kept in ((4 * left, left), (4 * left - 1, 0)):
        monkeypatch.setattr("core.models.checkpoint.free_bytes", lambda _, free=free: free)
        model.wear([USE])
        assert [worn.spare for worn in model._worn] == [0]
        model.wear(())
        assert sum(worn.spare for worn in model._worn) == kept


def _with_spare(store: Store) -> Checkpoint:
    one = exhausted(store.loaded("one"))
    one.wear([USE])
    assert not store.placing.forgo()  # what is worn stays
    assert one.wear([USE])
    one.wear(())
    assert one._worn[0].spare
    return one


def test_a_checkpoint_that_waits_keeps_no_memory_for_loras(tiny: Settings) -> None:
    store = Store(replace(tiny, checkpoints_in_ram=1), Catalog(tiny))
    store._shelf = 1
    one = exhausted(store.loaded("one"))
    exhausted(store.loaded("other"))
    assert exhausted(store.loaded("one")) is one
    assert _with_spare(store) is one
    exhausted(store.loaded("other"))
    assert not one._worn


def test_memory_for_loras_is_let_go_before_a_checkpoint_is_read(tiny: Settings) -> None:
    store = Store(replace(tiny, checkpoints_in_memory=2), Catalog(tiny))
    one = _with_spare(store)
    loading = store.loaded("other")
    next(loading)
    assert not one._worn
    loading.close()


def test_memory_for_loras_is_let_go_before_anything_is_done_with_less(tiny: Settings) -> None:
    store = Store(tiny, Catalog(tiny))
    one = _with_spare(store)
    left = one._worn[0].spare
    whole = one.decode(torch.zeros(1, 4, 40, 8))
    needed = decoding_bytes(one.vae.config, torch.float32, 320)
    for spare in (False, True):
        free = needed - (left if spare else 0)
        store.placing.free = lambda _, free=free: free + (0 if one._worn else left)
        assert torch.equal(one.decode(torch.zeros(1, 4, 40, 8)), whole)
        assert bool(one._worn) is not spare
    assert not one.taken_notes()


def test_checkpoints_beyond_the_first_wait_in_plain_memory(tiny: Settings) -> None:
    moves = Moves()
    store = Store(replace(tiny, checkpoints_in_ram=1), Catalog(tiny))
    store.placing = Placing(CPU, "plenty", moves)
    store.placing.device = torch.device("cpu", 0)  # as if it were another
    store._shelf = 1
    one = exhausted(store.loaded("one"))
    other = exhausted(store.loaded("other"))
    assert {m for m, where in moves.done if where == "cpu"} == {one.network, one.vae, one.text}
    assert exhausted(store.loaded("one")) is one
    one.decode(torch.zeros(1, 4, 8, 8))
    assert moves.here == {one.vae}
    exhausted(store.loaded("third"))
    assert exhausted(store.loaded("other")) is not other


def test_a_run_keeps_what_it_goes_back_and_forth_between(tiny: Settings) -> None:
    store = Store(tiny, Catalog(tiny))
    with store.room_for(2):
        one = exhausted(store.loaded("one"))
        other = exhausted(store.loaded("other"))
        assert exhausted(store.loaded("one")) is one
        assert exhausted(store.loaded("other")) is other
    assert exhausted(store.loaded("other")) is other
    assert exhausted(store.loaded("one")) is not one


def test_room_is_given_back_when_the_run_fails(tiny: Settings) -> None:
    store = Store(tiny, Catalog(tiny))
    with pytest.raises(ValueError, match="the run"), store.room_for(3):
        for name in ("one", "other", "third"):
            exhausted(store.loaded(name))
        raise ValueError("the run")
    assert len(store._kept) == 1


def test_a_load_that_is_given_up_leaves_nothing_behind(tiny: Settings) -> None:
    store = Store(tiny, Catalog(tiny))
    steps = store.loaded("one")
    next(steps)
    steps.close()
    assert not store._kept
    assert exhausted(store.loaded("one")).name == "one"


# precision


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "family", "stored", "network", "vae"),
    [
        (CPU, False, SD1, "F16", torch.float32, torch.float32),
        (GPU, True, SD1, "F16", torch.float16, torch.bfloat16),
        (GPU, True, SD1, "BF16", torch.bfloat16, torch.bfloat16),
        (GPU, True, SD1, "F32", torch.bfloat16, torch.bfloat16),
        (GPU, True, SD2, "F16", torch.bfloat16, torch.bfloat16),
        (GPU, False, SD1, "F32", torch.float16, torch.float16),
        (GPU, False, SDXL, "F16", torch.float16, torch.float32),
        (GPU, True, SDXL, "F16", torch.float16, torch.bfloat16),
    ],
)
def test_precision_goes_by_device_and_file(
    device: torch.device,
    has_bfloat16: bool,
    family: type,
    stored: str,
    network: torch.dtype,
    vae: torch.dtype,
) -> None:
    chosen = Precisions("automatic", "automatic", has_bfloat16)
    assert chosen.of_network(device, family, stored) is network  # type: ignore[arg-type]
    assert chosen.of_vae(device, family) is vae  # type: ignore[arg-type]


def test_what_the_settings_say_counts() -> None:
    chosen = Precisions("float32", "automatic", True)
    assert chosen.of_network(GPU, SD1, "F16") is torch.float32
    assert chosen.of_vae(GPU, SD1) is torch.float32
    assert Precisions("automatic", "float16", True).of_vae(GPU, SDXL) is torch.float16


def overflowing(model: Checkpoint, factor: float) -> None:
    """Makes the VAE's last layers outgrow float16 and come back into range in float32."""
    with torch.no_grad():
        model.vae.post_quant_conv.weight *= factor
        model.vae.quant_conv.weight *= factor


def halved(settings: Settings) -> Checkpoint:
    model = read(settings, Placing(CPU), Precisions("float32", "float16", False))
    assert model.vae_dtype is torch.float16
    return model


def test_a_vae_that_outgrows_its_precision_is_asked_once_more_in_float32(tiny: Settings) -> None:
    model = halved(tiny)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.decode(latents)
        assert model.taken_notes() == ()
        overflowing(model, 3000.0)
        before = {name: tensor.clone() for name, tensor in model.vae.state_dict().items()}
        pixels = model.decode(latents * 20)
        assert torch.isfinite(pixels).all()
        (note,) = model.taken_notes()
        assert note.kind == "precision"
        assert "float16" in note.text
        assert "float32" in note.text
        assert model.taken_notes() == ()
        for name, tensor in model.vae.state_dict().items():
            assert tensor.dtype is torch.float16
            assert torch.equal(tensor, before[name])
        assert torch.equal(model.decode(latents * 20), pixels)


def test_a_vae_that_fails_in_float32_as_well_is_named(tiny: Settings) -> None:
    from core.errors import NotFinite

    model = halved(tiny)
    broken: Tensor = model.vae.decoder.conv_out.weight
    with torch.no_grad():
        broken.fill_(float("nan"))
        with pytest.raises(NotFinite, match="the VAE of one decoded"):
            model.decode(torch.zeros(1, 4, 8, 8))
    assert isinstance(model.network, UNet)
