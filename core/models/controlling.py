"""What guides a run beside its prompts: files read once, pictures made into what acts in a step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from core.errors import AdapterError, FileError, RequestError
from core.images.guiding import Scene
from core.images.hints import hint_of, mask_of
from core.models.catalog import Catalog, Kind
from core.models.checkpoint import Checkpoint
from core.models.controlnets import (
    GuideFile,
    Guiding,
    control_net,
    filled,
    ip_adapter,
    read_guide_file,
    t2i_adapter,
)
from core.models.depth import (
    DepthEstimator,
    has_estimator,
    normalised_depth,
    read_depth_estimator,
)
from core.models.estimating import Estimating
from core.models.files import SENSELESS
from core.models.image_encoders import ImageEncoder, encoder_facts, read_image_encoder
from core.models.layouts import read_file_header, read_model_header
from core.models.placing import Placing
from core.nn.controlnet import ControlNet
from core.nn.ip_adapter import IPAdapter, sites
from core.nn.residuals import Residuals
from core.nn.t2i_adapter import T2IAdapter, placed
from core.request import ControlUse, During, Hearing, StartImage
from core.sampling.controls import (
    SOFT_FEATURES,
    Control,
    FeatureControl,
    Look,
    NetControl,
    TokenLook,
    scaled_mask,
    soft_weights,
)

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT_NETWORKS = 4
"""Networks that guide which stay in memory after their last use."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Timed:
    """A guide, and the share of the steps in which it acts."""

    start: float
    end: float
    guide: NetControl | FeatureControl | TokenLook

    def acts(self, index: int, total: int) -> bool:
        """Whether it acts in interval `index` of `total`."""
        # Shares that were made from whole steps are not quite round; and an adaptive sampler may
        # take more intervals than were planned.
        begun = round(self.start * total, 3) <= index
        return begun and (self.end >= 1 or index < round(self.end * total, 3))


def acting(guides: Sequence[Timed], index: int, total: int) -> Acting:
    """What acts in one interval."""
    now = [timed.guide for timed in guides if timed.acts(index, total)]
    return Acting(
        tuple(guide for guide in now if not isinstance(guide, TokenLook)),
        tuple(guide for guide in now if isinstance(guide, TokenLook)),
    )


@dataclass(frozen=True)
class Acting:
    """As Predictor takes them."""

    controls: tuple[Control, ...]
    looks: tuple[Look, ...]


def asked(uses: Sequence[ControlUse], pass_index: int) -> tuple[tuple[int, ControlUse], ...]:
    """Those that have a say in a pass, each with its number in the request."""
    here = (During.BOTH, During.SECOND if pass_index else During.FIRST)
    return tuple(
        (number, use)
        for number, use in enumerate(uses)
        if use.weight and use.start < use.end and use.during in here
    )


class Controlling:
    """Reads what guides, and makes it act. For the engine's thread alone."""

    def __init__(self, catalog: Catalog, placing: Placing) -> None:
        self._catalog = catalog
        self._placing = placing
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self.estimating = Estimating(catalog, placing, self._remembered)

    def guides(
        self, model: Checkpoint, uses: Sequence[tuple[int, ControlUse]], scene: Scene
    ) -> tuple[Timed, ...]:
        """What each use comes to in a pass of `model`.

        The model is left without its LoRAs where a file of differences was read.

        Raises:
            RequestError, FileError, AdapterError: a file or picture is not there, or does not fit.
        """
        scene = replace(scene, estimates=self.estimating)
        return tuple(self._timed(model, use, scene, f"controls[{n}]") for n, use in uses)

    def depth(self, model: Checkpoint, start: StartImage, scene: Scene) -> Tensor:
        """What a depth U-Net is given of a picture: (1 1 h w) in [-1, 1], high is near.

        Raises:
            RequestError: there is no map, and no estimator in the checkpoint.
            FileError: the estimator is damaged, or the map can't be read.
        """
        _, rows, columns = model.latent_shape(scene.width, scene.height)
        use = ControlUse(model="", picture=start.depth, resize=start.resize)
        picture = scene.picture(use, "start")
        if start.depth is not None:
            found = hint_of(picture, 1)
        else:
            path = self._catalog.checkpoint(model.name).path
            estimator = self._remembered(
                (_version(path), "depth"), lambda: _depth_estimator(path, model.name)
            )
            self._placing.join(estimator.network)
            found = estimator.depth(picture)
            self._placing.leave(estimator.network)
        return normalised_depth(found, rows, columns).to(model.device)

    def _timed(self, model: Checkpoint, use: ControlUse, scene: Scene, where: str) -> Timed:
        file = self._catalog.file(Kind.CONTROLNET, use.model, f"{where}.model")
        network = self._network(file.path, model)
        guide: NetControl | FeatureControl | TokenLook
        if isinstance(network, ControlNet):
            guide = self._net_control(network, model, use, scene, where)
        elif isinstance(network, T2IAdapter):
            guide = self._feature_control(network, model, use, scene, where)
        else:
            assert isinstance(network, IPAdapter)
            guide = self._token_look(network, model, use, scene, where)
        return Timed(use.start, use.end, guide)

    def _net_control(
        self, network: ControlNet, model: Checkpoint, use: ControlUse, scene: Scene, where: str
    ) -> NetControl:
        skips = len(network.zero_convs)
        hard = use.hearing is Hearing.BALANCED
        hint = hint_of(scene.guide(use, where), network.hint_channels)
        placing = self._placing
        return NetControl(
            network,
            hint.to(model.device),
            (use.weight,) * (skips + 1) if hard else soft_weights(use.weight, skips),
            prompt_alone=use.hearing is Hearing.CONTROL,
            mask=_on(model.device, mask_of(scene.mask(use))),
            before=lambda: placing.join(network),
            after=(lambda: placing.leave(network)) if use.low_memory else (lambda: None),
        )

    def _feature_control(
        self, network: T2IAdapter, model: Checkpoint, use: ControlUse, scene: Scene, where: str
    ) -> FeatureControl:
        side = network.config.unshuffle
        whole = replace(
            scene, width=_divided(scene.width, side), height=_divided(scene.height, side)
        )
        hint = hint_of(whole.guide(use, where), network.config.channels).clamp(min=0)
        self._placing.join(network)
        features = network(hint.to(model.device, model.dtype))
        self._placing.leave(network)  # it is asked once
        soft = use.hearing is not Hearing.BALANCED
        factors = SOFT_FEATURES if soft else (1.0,) * len(features)
        mask = mask_of(whole.mask(use))
        weighed = tuple(
            _masked(use.weight * factor * feature, mask)
            for factor, feature in zip(factors, features, strict=True)
        )
        residuals = placed(model.network.config, weighed)
        _check_sizes(residuals, model, use.model)
        return FeatureControl(residuals, use.hearing is Hearing.CONTROL)

    def _token_look(
        self, network: IPAdapter, model: Checkpoint, use: ControlUse, scene: Scene, where: str
    ) -> TokenLook:
        encoder = self._encoder(network, use, model.dtype, where)
        for part in (encoder.network, network):
            self._placing.join(part)
        seen, nothing = _seen(network, encoder, scene.whole(use, where))
        order = [site for site, _ in sites(model.network)]
        prompt, negative = (
            network.keys_and_values(network.image_proj(one.to(model.device, model.dtype)), order)
            for one in (seen, nothing)
        )
        self._placing.leave(encoder.network, network)  # they are asked once
        mask = _on(model.device, mask_of(scene.mask(use)))
        return TokenLook(prompt, negative, use.weight, mask)

    def _network(self, path: Path, model: Checkpoint) -> nn.Module:
        """A file's network for the U-Net of `model`."""
        unet = model.network

        def read() -> nn.Module:
            try:
                with torch.device("meta"):
                    network = BUILDERS[file.kind](file, unet)
                base: Mapping[str, Tensor] | None = None
                if file.is_difference:
                    model.wear(())  # differences are from the checkpoint as it is stored
                    base = unet.state_dict()
                filled(network, file, model.dtype, base)
            except (*SENSELESS, RuntimeError) as error:
                raise FileError(
                    f"{path.name}: the shapes of its weights fit no network known here ({error})"
                ) from error
            if self._placing.device.type != "cpu":
                network.to("cpu")
            return network

        file: GuideFile = read_guide_file(path)
        base = model.version if file.is_difference else None
        return self._remembered((_version(path), unet.config, model.dtype, base), read)

    def _encoder(
        self, network: IPAdapter, use: ControlUse, dtype: torch.dtype, where: str
    ) -> ImageEncoder:
        """The encoder that is named, or the first one whose answers an IP-Adapter reads.

        Raises:
            RequestError: there is none; says what is wanted. AdapterError: it gives other answers.
        """
        wanted, field = network.config, f"{where}.encoder"
        if use.encoder is not None:
            file = self._catalog.file(Kind.IMAGE_ENCODER, use.encoder, field)
            found = self._read_encoder(file.path, dtype)
            gives = found.facts.width if wanted.inner else found.facts.projection
            if gives != wanted.seen:
                raise AdapterError(
                    f"{use.model} reads {wanted.seen} features, and the image encoder {file.name} "
                    f"gives {gives}; choose the one it was trained with"
                )
            return found
        for file in self._catalog.files(Kind.IMAGE_ENCODER):
            facts = encoder_facts(read_file_header(file.path))
            if (facts.width if wanted.inner else facts.projection) == wanted.seen:
                return self._read_encoder(file.path, dtype)
        what = ENCODERS.get(wanted.seen, f"one that gives {wanted.seen} features")
        raise RequestError(
            f"{use.model} looks through an image encoder, {what}, and there is none in "
            "models/clip_vision; put its model.safetensors there",
            field,
        )

    def _read_encoder(self, path: Path, dtype: torch.dtype) -> ImageEncoder:
        return self._remembered((_version(path), dtype), lambda: read_image_encoder(path, dtype))

    def _remembered(self, key: Hashable, read: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = read()
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_NETWORKS:
            self._kept.popitem(last=False)
        return self._kept[key]  # type: ignore[return-value]


BUILDERS: Mapping[Guiding, Callable[..., nn.Module]] = {
    Guiding.CONTROLNET: control_net,
    Guiding.T2I_ADAPTER: t2i_adapter,
    Guiding.IP_ADAPTER: ip_adapter,
}
ENCODERS = {
    1024: "CLIP ViT-H/14 of LAION (IP-Adapter's models/image_encoder)",
    1280: "CLIP ViT-H/14 of LAION for plus files, CLIP ViT-bigG/14 for SDXL's base file",
}
"""Features → which published encoder gives them."""


def _depth_estimator(path: Path, name: str) -> DepthEstimator:
    header = read_model_header(path)
    if not has_estimator(header):
        raise RequestError(
            f"{name} reads how near things are, and has no depth estimator inside; choose a depth "
            "map",
            "start.depth",
        )
    try:
        return read_depth_estimator(header)
    except (*SENSELESS, RuntimeError) as error:
        raise FileError(
            f"{name}: its depth estimator fits no network known here ({error})"
        ) from error


def _version(path: Path) -> tuple[Path, int, int]:
    stat = path.stat()
    return path, stat.st_size, stat.st_mtime_ns


def _seen(network: IPAdapter, encoder: ImageEncoder, picture: Image) -> tuple[Tensor, Tensor]:
    """What the encoder says of the picture and of nothing, as the adapter reads it."""
    if network.config.inner:
        return encoder.places(picture), encoder.places(None)
    seen = encoder.embedding(picture)
    return seen, torch.zeros_like(seen)


def _on(device: torch.device, mask: Tensor | None) -> Tensor | None:
    """Brought there once, not in every step."""
    return None if mask is None else mask.to(device)


def _masked(feature: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return feature
    return feature * scaled_mask(mask.to(feature), *feature.shape[-2:])


def _divided(length: int, side: int) -> int:
    """The next length that a square of `side` pixels divides."""
    return -(-length // side) * side


def _check_sizes(residuals: Residuals, model: Checkpoint, name: str) -> None:
    """A T2I-Adapter's features have the channels of the blocks they go to."""
    widths = model.network.widths
    wrong = [
        feature.shape[1]
        for feature, width in zip(residuals.features, widths, strict=True)
        if feature is not None and feature.shape[1] != width
    ]
    if wrong:
        raise AdapterError(f"{name} answers with {wrong[0]} channels where {model.name} has others")
