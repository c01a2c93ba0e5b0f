"""The trained network, as what comes after training sees it: load a run, embed with it, count its work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Frames, Preprocessing, prepare_batch
from export.encoders import EncoderNetwork, KochHead, build_encoder
from export.training import checkpoint

BEST, DATA = "best.pt", "data.json"
PIXELS_AT_ONCE = 1 << 19
"""Of a batch that is embedded: bounds the memory of its first feature maps."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The weights that a training run kept."""

    module: EncoderNetwork
    """In evaluation mode, on the CPU."""
    name: str
    preprocessing: Preprocessing
    model_id: str
    """`NAME-HASH`, the hash being of the weights: equal ids are equal networks."""
    parameters: int
    """Trained numbers, the encoder's own head included."""
    macs: int
    """Multiply-accumulates for one image."""
    head: SigmoidDistanceHead | None
    """The head that was trained along (Koch's weighted L1), if any."""
    provenance: dict[str, Any]
    """Settings, data, seed and versions of the run."""
    run: Path

    @classmethod
    def of(cls, module: EncoderNetwork, provenance: dict[str, Any], run: Path) -> TrainedNetwork:
        """What comes after training needs to know of an encoder in evaluation mode."""
        head = getattr(module, "head", None)
        return cls(
            module=module,
            name=module.name,
            preprocessing=module.preprocessing,
            model_id=model_id(module),
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            macs=count_macs(module),
            head=head.as_device_head() if isinstance(head, KochHead) else None,
            provenance=provenance,
            run=run,
        )

    @property
    def normalization(self) -> str:
        return self.module.normalization


class TorchEncoder:
    """The float network behind the device's `Encoder` interface, so that the same code evaluates both."""

    runtime = "torch"
    precision = "fp32"
    reason = "the trained network itself"

    def __init__(self, module: EncoderNetwork, model_id: str = "untrained") -> None:
        self.module, self.model_id = module, model_id
        self.preprocessing: Preprocessing = module.preprocessing
        height, width, _ = module.preprocessing.shape
        self.batch = max(1, min(256, PIXELS_AT_ONCE // (height * width)))
        self.dimensions: int = module.dimensions

    def embed(self, images: Frames) -> npt.NDArray[np.float32]:
        """Frames of any size to float32 (N, D); unit vectors if the encoder says so."""
        return self.embed_prepared(prepare_batch(images, self.preprocessing))

    @torch.inference_mode()
    def embed_prepared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D)."""
        training = self.module.training
        self.module.eval()
        device = next(self.module.parameters()).device
        result = np.empty((len(images), self.dimensions), dtype=np.float32)
        for start in range(0, len(images), self.batch):
            block = torch.from_numpy(np.ascontiguousarray(images[start : start + self.batch])).to(device)
            embeddings = self.module(block.permute(0, 3, 1, 2).float())
            if self.module.normalization == "l2":
                embeddings = nn.functional.normalize(embeddings)
            result[start : start + self.batch] = embeddings.float().cpu().numpy()
        self.module.train(training)
        return result


def load_run(path: str | Path) -> TrainedNetwork:
    """Load the weights that a run kept.

    Args:
        path: the directory of a run or of a pipeline, or the file `best.pt` itself.

    Raises:
        SettingsError: there is no such run, or it cannot be read.
    """
    file = _find_best(Path(path))
    state = checkpoint.load(file)
    try:
        module = build_encoder(state["encoder"])
        module.load_state_dict(state["weights"])
        provenance = {**_kept_beside(file), **state["provenance"]}
    except (SettingsError, KeyError, RuntimeError, TypeError) as error:
        why = str(error).splitlines()[0].rstrip(":")
        raise SettingsError(f"{file} holds no weights of an encoder of this release ({why})") from error
    return TrainedNetwork.of(module.eval(), provenance, file.parent)


def _kept_beside(file: Path) -> dict[str, Any]:
    """The fingerprint of the data, which runs of earlier releases kept beside their weights alone."""
    try:
        found = json.loads((file.parent / DATA).read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return {}
    return {"data_fingerprint": found} if isinstance(found, str) else {}


def _find_best(path: Path) -> Path:
    for candidate in (path, path / BEST, path / "train" / BEST):
        if candidate.is_file():
            return candidate
    raise SettingsError(f"{path} is not a training run: neither {BEST} nor train/{BEST} is in it")


def model_id(module: EncoderNetwork) -> str:
    """`NAME-` and twelve hexadecimal digits of the SHA-256 of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}:{values.dtype}:{values.shape}".encode())
        digest.update(values.tobytes())
    return f"{module.name}-{digest.hexdigest()[:12]}"


@torch.inference_mode()
def count_macs(module: EncoderNetwork) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image."""
    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.shape[2] * output.shape[3] * layer.weight.numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    training = module.training
    height, width, channels = module.preprocessing.shape
    try:
        device = next(module.parameters()).device
        module.eval()(torch.zeros(1, channels, height, width, device=device))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return total
