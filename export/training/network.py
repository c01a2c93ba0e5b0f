"""Trained networks: loading of a run, embedding, model id and arithmetic cost."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Frames, Preprocessing, prepare_batch
from export.encoders import EncoderNetwork, KochHead, build_encoder
from export.encoders.onnx_extractor import OnnxExtractor
from export.training import checkpoint
from export.training.checkpoint import BEST

MAX_BATCH, MAX_BATCH_PIXELS = 256, 1 << 19
"""Limits of an embedded batch: they bound the memory of its first feature maps."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The weights that a training run kept, with their origin."""

    module: EncoderNetwork
    """In evaluation mode, on the CPU."""
    name: str
    preprocessing: Preprocessing
    model_id: str
    """`NAME-HASH` with a hash of the weights: networks with equal ids are equal."""
    parameters: int
    """Number of trained parameters, including the encoder's own head."""
    macs: int
    """Multiply-accumulate operations per image."""
    head: SigmoidDistanceHead | None
    """The head that was trained with the encoder (Koch's weighted L1), if any."""
    provenance: dict[str, Any]
    """Settings, data, seed and versions of the run."""
    run: Path

    @classmethod
    def of(cls, module: EncoderNetwork, provenance: dict[str, Any], run: Path) -> TrainedNetwork:
        """Describe an encoder in evaluation mode."""
        head = getattr(module, "head", None)
        return cls(
            module=module,
            name=module.name,
            preprocessing=module.preprocessing,
            model_id=model_id(module),
            parameters=count_parameters(module),
            macs=count_macs(module),
            head=head.as_device_head() if isinstance(head, KochHead) else None,
            provenance=provenance,
            run=run,
        )

    @property
    def normalization(self) -> str:
        return self.module.normalization


class TorchEncoder:
    """The float network with the `Encoder` interface of the device, so that the same code evaluates both."""

    runtime = "torch"
    precision = "fp32"
    reason = "the trained network itself"

    def __init__(self, module: EncoderNetwork, model_id: str = "untrained") -> None:
        self.module, self.model_id = module, model_id
        self.preprocessing: Preprocessing = module.preprocessing
        height, width, _ = module.preprocessing.shape
        self.batch = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))
        self.dimensions: int = module.dimensions
        self.unit_length = module.normalization == "l2"

    def embed(self, images: Frames) -> npt.NDArray[np.float32]:
        """Frames of any size to float32 (N, D); unit vectors if the encoder normalizes them."""
        return self.embed_prepared(prepare_batch(images, self.preprocessing))

    @torch.inference_mode()
    def embed_prepared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D)."""
        training = self.module.training
        self.module.eval()
        device = self.module.device
        result = np.empty((len(images), self.dimensions), dtype=np.float32)
        for start in range(0, len(images), self.batch):
            block = torch.from_numpy(np.ascontiguousarray(images[start : start + self.batch])).to(device)
            embeddings = self.module(block.permute(0, 3, 1, 2).float())
            if self.unit_length:
                embeddings = nn.functional.normalize(embeddings)
            result[start : start + self.batch] = embeddings.float().cpu().numpy()
        self.module.train(training)
        return result


def load_run(path: str | Path) -> TrainedNetwork:
    """Load the weights that a run kept.

    Args:
        path: directory of a run or of a pipeline, or the file `best.pt` itself.

    Raises:
        SettingsError: there is no such run, or it cannot be read.
    """
    file = _find_best(Path(path))
    state = checkpoint.load(file)
    try:
        module = build_encoder(state["encoder"], state["weights"])
        module.load_state_dict(state["weights"])
        provenance = dict(state["provenance"])
    except (SettingsError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise SettingsError(f"{file} holds no weights of an encoder of this release ({reason})") from error
    return TrainedNetwork.of(module.eval(), provenance, file.parent)


def _find_best(path: Path) -> Path:
    for candidate in (path, path / BEST, path / "train" / BEST):
        if candidate.is_file():
            return candidate
    raise SettingsError(f"{path} is not a training run: it contains neither {BEST} nor train/{BEST}")


def model_id(module: EncoderNetwork) -> str:
    """`NAME-` and twelve hexadecimal digits of the SHA-256 of the weights, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}:{values.dtype}:{values.shape}".encode())
        digest.update(values.tobytes())
    return f"{_id_name(module)}-{digest.hexdigest()[:12]}"


def _id_name(module: EncoderNetwork) -> str:
    """The name of an encoder without the folder and the punctuation that names of timm and ONNX files have."""
    if isinstance(module, OnnxExtractor):
        return f"onnx-{re.sub(r'[^A-Za-z0-9._-]+', '-', module.parsed.path.stem)}"
    return re.sub(r"[:@]", "-", module.name)


def count_parameters(module: EncoderNetwork) -> int:
    """Number of weights."""
    if isinstance(module, OnnxExtractor):
        return module.weights
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: EncoderNetwork) -> int:
    """Multiply-accumulate operations of convolutions and matrix products per image."""
    if isinstance(module, OnnxExtractor):
        return module.macs
    height, width, channels = module.preprocessing.shape
    training = module.training
    image = torch.zeros(1, channels, height, width, device=module.device)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module.eval()(image)
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2
