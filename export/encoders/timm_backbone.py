"""Backbones of timm: any of its convolutional networks, cut after a stage, pooled and projected to an embedding.

Wightman, "PyTorch Image Models" (2019, https://github.com/huggingface/pytorch-image-models, Apache-2.0). The weights have
licenses of their own. Branches that a network fuses for inference (RepVGG, MobileOne, FastViT) are fused from the start, and
normalizations with a built-in activation are split, so that the export folds them into the convolutions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Bytes, Preprocessing
from edge_siamese.validation import nearest
from export.encoder_names import BackboneName
from export.encoders.base import EncoderNetwork
from export.encoders.projection import fit_to_principal_components
from export.encoders.timm_import import import_timm

MAX_DIMENSIONS = 256
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
SHOWN_NAMES = 3


class TimmBackbone(EncoderNetwork):
    """Pixels (N, 3, side, side), float32 in 0..255, to embeddings (N, at most 256), not normalized.

    The network's first convolution does not pad; the picture itself provides the border. So the scaling of the pixels folds
    exactly into its weights.

    Args:
        name: `timm:NAME[@SIDE][:stageN]`.

    Raises:
        SettingsError: timm is not installed, or has no such network or stage.
    """

    normalization = "l2"
    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        parsed = BackboneName.parse(name)
        self.name, self.parsed = name, parsed
        self.citation = f"{parsed.network} of timm (Wightman, PyTorch Image Models, 2019)"
        self.preprocessing = Preprocessing(parsed.side, parsed.side, "rgb")
        # Training images are rotated crops of larger pictures.
        larger = parsed.side * 11 // 8
        self.training_preprocessing = Preprocessing(larger, larger, "rgb")
        network = _create(parsed)
        config = network.pretrained_cfg
        self.network = _inference_form(network, parsed)
        for buffer, values in (("pixel_mean", config["mean"]), ("pixel_deviation", config["std"])):
            self.register_buffer(buffer, 255.0 * torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = self._feature_count()
        self.dimensions = min(MAX_DIMENSIONS, features)
        self.projection = nn.Linear(features, self.dimensions)
        self.train()

    def _feature_count(self) -> int:
        try:
            maps = self.eval().network.forward_features(torch.zeros(1, 3, self.parsed.side, self.parsed.side))
        except Exception as error:  # of the network's own code, for a side that it does not support
            raise SettingsError(
                f"{self.parsed.network} cannot embed {self.parsed.side}x{self.parsed.side} pixels ({_first_line(error)})"
            ) from error
        if maps.ndim != 4:
            raise SettingsError(
                f"{self.parsed.network} has no feature maps: only convolutional networks of timm are supported"
            )
        return int(maps.shape[1])

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.features(pixels))
        return embedding

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels to the pooled features (N, F) that are projected."""
        pooled: Tensor = self.network.forward_features(
            (pixels - self.pixel_mean) / self.pixel_deviation
        ).mean(dim=(2, 3))
        return pooled

    def fit_projection(self, images: Bytes) -> None:
        """Project to the principal components of the features of some images."""
        self.eval()
        fit_to_principal_components(self.projection, self.features, images)
        self.train()

    def load_published_weights(self) -> None:
        """Load the pretrained weights that timm downloads.

        Raises:
            SettingsError: there are none, or they cannot be downloaded.
        """
        self._take(_create(self.parsed, pretrained=True))

    def load_weights(self, path: Path) -> None:
        """Load the weights of the network from a file in timm's naming: .pt, .pth or .safetensors, never code.

        Raises:
            SettingsError: the file cannot be read, or is of another network.
        """
        if path.suffix.lower() not in WEIGHT_SUFFIXES:
            raise SettingsError(f"{path} is not a file of weights: {', '.join(WEIGHT_SUFFIXES)} are read")
        network = _create(self.parsed)
        try:
            with _quiet():
                state = import_timm().models.load_state_dict(str(path))
        except FileNotFoundError:
            raise SettingsError(f"{path} does not exist") from None
        except Exception as error:  # a damaged file raises any error of its reader
            raise SettingsError(f"{path} cannot be read as weights ({_first_line(error)})") from error
        classifiers = network.pretrained_cfg.get("classifier") or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        state = {name: value for name, value in state.items() if name.rpartition(".")[0] not in classifiers}
        try:
            result = network.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise SettingsError(f"{path} is not of {self.parsed.network}: {_second_line(error)}") from error
        for kind, names in (("lacks", result.missing_keys), ("has unknown", result.unexpected_keys)):
            if names:
                shown = ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
                raise SettingsError(
                    f"{path} is not of {self.parsed.network}: it {kind} {len(names)} tensors ({shown})"
                )
        self._take(network)

    def _take(self, network: Any) -> None:
        self.network.load_state_dict(_inference_form(network, self.parsed).state_dict())


def _create(name: BackboneName, pretrained: bool = False) -> Any:
    """The whole network without its classifier."""
    timm = import_timm()
    if not timm.is_model(name.network):
        known = timm.list_models()
        raise SettingsError(
            f"timm {timm.__version__} has no network {name.network!r}{nearest(name.network, known)}"
        )
    try:
        with _quiet():
            return timm.create_model(name.network, pretrained=pretrained, num_classes=0)
    except Exception as error:  # of the network, of the hub, or of the file in its cache
        if not pretrained:
            raise SettingsError(f"timm cannot build {name.network}: {_first_line(error)}") from error
        raise SettingsError(
            f"the pretrained weights of {name.network} cannot be downloaded ({_first_line(error)}): name a file with "
            "--weights FILE"
        ) from error


def _inference_form(network: Any, name: BackboneName) -> Any:
    """The network cut after its stage, with fused branches, split normalizations and an unpadded first convolution."""
    timm = import_timm()
    _cut(network, name)
    try:
        network = timm.utils.reparameterize_model(network)
    except Exception as error:  # each network has code of its own for it
        raise SettingsError(
            f"timm cannot fuse the branches of {name.network}: {_first_line(error)}"
        ) from error
    _split_normalizations(network, timm.layers.BatchNormAct2d)
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3:
        raise SettingsError(f"{name.network} does not begin with a convolution of the picture")
    first.padding = (0, 0)
    return network


def _cut(network: Any, name: BackboneName) -> None:
    if name.stage is None:
        return
    stages = len(getattr(network, "feature_info", ()))
    if not stages or not hasattr(network, "prune_intermediate_layers"):
        raise SettingsError(f"{name.network} cannot be cut: leave out :stage{name.stage}")
    if not 1 <= name.stage <= stages:
        raise SettingsError(f"{name.network} has the stages 1 to {stages}, not {name.stage}")
    network.prune_intermediate_layers([name.stage - 1], prune_norm=True, prune_head=True)


def _split_normalizations(module: nn.Module, combined: type[nn.Module]) -> None:
    """Replace each normalization with a built-in activation by the two in sequence."""
    for name, child in module.named_children():
        if isinstance(child, combined) and isinstance(child, nn.BatchNorm2d):
            plain = nn.BatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            plain.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, nn.Sequential(plain.train(child.training), child.get_submodule("act")))
        else:
            _split_normalizations(child, combined)


@contextmanager
def _quiet() -> Iterator[None]:
    """timm and the hub log what the error that follows says."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


def _first_line(error: Exception) -> str:
    """The first sentence of an error of another library, in one line."""
    line = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {shorten(line.partition('. ')[0], 160, placeholder=' ...')}"


def _second_line(error: Exception) -> str:
    """The first difference that `load_state_dict` lists."""
    lines = str(error).strip().splitlines()
    return (lines[1] if len(lines) > 1 else lines[0]).strip()[:200]
