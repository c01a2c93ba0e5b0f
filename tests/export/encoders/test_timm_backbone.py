"""Networks of timm as encoders: their names, weights from files, and EfficientNet-Lite0, which this project has itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edge_siamese.errors import SettingsError
from export.conversion.graph import exported_encoder
from export.encoder_names import BackboneName
from export.encoders import EncoderNetwork, build_encoder
from export.encoders.efficientnet_lite import NORM_EPSILON, PIXEL_MEAN, PIXEL_SCALE, EfficientNetLite0Full
from export.encoders.timm_backbone import TimmBackbone
from export.training.network import count_macs, model_id

SMALL = "timm:mobilenetv4_conv_small@33:stage2"
STEM = "network.conv_stem.weight"


def images(side: int, count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1)).float()


def timm_name(own: str) -> str:
    """`blocks.4.filter.1.bias` of this project's EfficientNet-Lite0 in timm's."""
    parts = own.split(".")
    if parts[0] == "stem":
        return f"conv_stem.{parts[2]}" if parts[1] == "0" else f"bn1.{parts[2]}"
    if parts[0] == "head":
        return f"conv_head.{parts[2]}" if parts[1] == "0" else f"bn2.{parts[2]}"
    number, stage = int(parts[1]), 0
    for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)):  # noqa: B007
        if number < blocks:
            break
        number -= blocks
    order = ["filter", "project"] if stage == 0 else ["expand", "filter", "project"]
    convolutions = ["conv_dw", "conv_pw"] if stage == 0 else ["conv_pw", "conv_dw", "conv_pwl"]
    place = order.index(parts[2])
    layer = convolutions[place] if parts[3] == "0" else f"bn{place + 1}"
    return f"blocks.{stage}.{number}.{layer}.{parts[4]}"


def weights_for_timm(own: EncoderNetwork) -> dict[str, Tensor]:
    """The published weights under timm's names, for its normalization of pixels and its epsilon."""
    state = {
        timm_name(name): value.clone()
        for name, value in own.state_dict().items()
        if not name.startswith("projection.")
    }
    for name in [name for name in state if name.endswith("running_var")]:
        state[name] += NORM_EPSILON - 1e-5
    mean = 255 * torch.tensor([0.485, 0.456, 0.406])
    deviation = 255 * torch.tensor([0.229, 0.224, 0.225])
    weight = state["conv_stem.weight"] / PIXEL_SCALE
    state["bn1.running_mean"] -= (weight * (mean - PIXEL_MEAN).reshape(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    state["conv_stem.weight"] = weight * deviation.reshape(1, 3, 1, 1)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_efficientnet_lite0_of_timm_with_our_weights_makes_our_embeddings(
    tmp_path: Path, suffix: str
) -> None:
    own = EfficientNetLite0Full()
    own.load_published_weights()
    own.eval()
    state, file = weights_for_timm(own), tmp_path / f"lite0{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, file)
    else:
        save_file(state, file)
    other = build_encoder("timm:efficientnet_lite0@163")
    other.load_weights(file)
    other.projection.load_state_dict(own.projection.state_dict())
    other.eval()
    with torch.no_grad():
        expected, embeddings = own(images(163)), other(images(163))
        folded = exported_encoder(other)(images(163).byte().permute(0, 2, 3, 1))
    assert (other.dimensions, other.preprocessing) == (own.dimensions, own.preprocessing)
    scale = float(expected.abs().max())
    assert float((embeddings - expected).abs().max()) < 1e-4 * scale
    assert float((folded - expected).abs().max()) < 1e-4 * scale
    assert count_macs(other) == count_macs(own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timm:resnet18", BackboneName("resnet18", 161, None)),
        ("timm:resnet18.a1_in1k@96:stage3", BackboneName("resnet18.a1_in1k", 96, 3)),
        ("timm:fastvit_t8:stage2", BackboneName("fastvit_t8", 161, 2)),
    ],
)
def test_a_name_says_network_side_and_stage(text: str, expected: BackboneName) -> None:
    assert BackboneName.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timm:", "'timm:' is not timm:NAME[@SIDE][:stageN], such as timm:mobilenetv4_conv_small@161:stage4"),
        ("timm:a b", "'timm:a b' is not timm:NAME[@SIDE][:stageN], such as timm:mobilenetv4_conv_small@161:stage4"),
        ("timm:resnet18@20", "timm:resnet18@20: the side must be 32 to 512 pixels, not 20"),
        ("timm:resnet18@64:stage9", "resnet18 has the stages 1 to 5, not 9"),
        (
            "timm:vit_tiny_patch16_224@224",
            "vit_tiny_patch16_224 has no feature maps: only convolutional networks of timm are supported",
        ),
    ],
)  # fmt: skip
def test_a_name_that_is_no_encoder_is_explained(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        build_encoder(text)


def test_a_misspelled_network_is_told_the_nearest_one() -> None:
    with pytest.raises(
        SettingsError, match=r"^timm 1\S+ has no network 'fastvit_t88'; did you mean \"fastvit_t8\"\?$"
    ):
        build_encoder("timm:fastvit_t88")


def test_a_stage_decides_the_features_and_the_cost() -> None:
    torch.manual_seed(0)
    whole, cut = build_encoder("timm:resnet18@64"), build_encoder("timm:resnet18@64:stage3")
    assert (whole.dimensions, cut.dimensions) == (256, 128)
    assert tuple(cut.eval()(images(64)).shape) == (3, 128)
    assert 0.3 < count_macs(cut) / count_macs(whole) < 0.7
    assert model_id(cut).startswith("timm-resnet18-64-stage3-")


def test_the_projection_starts_as_the_principal_components() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(SMALL)
    pictures = np.random.default_rng(0).integers(0, 256, (40, 33, 33, 3), dtype=np.uint8)
    encoder.fit_projection(pictures)
    assert encoder.training
    with torch.no_grad():
        embeddings = encoder.eval()(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).double()
    covariance = embeddings.T @ embeddings
    assert float(embeddings.mean(dim=0).abs().max()) < 1e-3 * float(embeddings.abs().max())
    off = covariance - torch.diag(torch.diag(covariance))
    assert float(off.abs().max()) < 1e-3 * float(covariance.max())
    assert bool((torch.diag(covariance).diff() <= 1e-6).all())


def test_files_that_are_no_weights_of_the_network_are_explained(tmp_path: Path) -> None:
    encoder = build_encoder(SMALL)
    before = model_id(encoder)
    state = {name.removeprefix("network."): value for name, value in encoder.state_dict().items()}
    del state["projection.weight"], state["projection.bias"]
    cases = {
        "missing.pth": (None, "does not exist"),
        "weights.bin": (b"x", "is not a file of weights: .pt, .pth, .safetensors are read"),
        "damaged.safetensors": (b"damaged", "cannot be read as weights ("),
        "resnet.pth": ({"conv1.weight": torch.zeros(1)}, "is not of mobilenetv4_conv_small: it lacks "),
    }
    for name, (content, message) in cases.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / name)
        with pytest.raises(SettingsError, match=re.escape(f"{tmp_path / name} {message}")):
            encoder.load_weights(tmp_path / name)
    assert model_id(encoder) == before


def test_without_a_network_the_pretrained_weights_are_asked_for_as_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        SettingsError,
        match=r"^the pretrained weights of mobilenetv4_conv_small cannot be downloaded \(\w+: [^.]+\): "
        r"name a file with --weights FILE$",
    ):
        build_encoder(SMALL).load_published_weights()


def test_timm_is_imported_without_torchvision_and_leaves_no_placeholder() -> None:
    program = """
import builtins, importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
sys.meta_path.insert(0, Refuse())
from export.encoders.timm_import import import_timm
timm = import_timm()
network = timm.create_model("resnet10t", pretrained=False)
print(sorted(name for name in sys.modules if name.startswith("torchvision")), len(sys.meta_path))
from timm.data.transforms import InterpolationMode
from timm.layers.norm_act import FrozenBatchNorm2d
print(InterpolationMode.NEAREST)
try:
    FrozenBatchNorm2d(8)
except ImportError as error:
    print(error)
"""
    # With torchvision absent, or failing like its wheel beside torch's build for CPUs.
    for changed in (program, program.replace("            raise RuntimeError", "            return None  #")):
        done = subprocess.run(
            [sys.executable, "-c", changed], capture_output=True, text=True, check=True, cwd=os.getcwd()
        )
        first, *others = done.stdout.splitlines()
        assert first.startswith("[] ")
        assert others == [
            "InterpolationMode.NEAREST",
            "torchvision.ops.misc.FrozenBatchNorm2d needs torchvision, which does not work here",
        ]


def test_random_weights_do_not_change_other_random_draws() -> None:
    torch.manual_seed(3)
    first = build_encoder(SMALL)
    torch.manual_seed(3)
    second = build_encoder(SMALL)
    assert isinstance(first, TimmBackbone)
    assert model_id(first) == model_id(second)
