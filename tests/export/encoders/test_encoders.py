"""The encoders are what their citations say: layer shapes, parameter counts, budgets, initialization."""

import numpy as np
import pytest
import torch
from torch import nn

from edge_siamese.errors import SettingsError
from export.encoders import GlyphNet, Koch2015, build_encoder
from export.training.network import TorchEncoder, count_macs, model_id


def test_koch2015_has_the_papers_layers_and_parameter_count():
    encoder = Koch2015()
    shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "convolutions.0.weight": (64, 1, 10, 10),
        "convolutions.3.weight": (128, 64, 7, 7),
        "convolutions.6.weight": (128, 128, 4, 4),
        "convolutions.9.weight": (256, 128, 4, 4),
        "units.weight": (4096, 9216),
        "head.alpha.weight": (1, 4096),
    }
    assert sum(p.numel() for p in encoder.parameters()) == 38_951_745
    assert encoder.preprocessing.shape == (105, 105, 1)


def test_koch2015_feature_maps_have_the_sizes_of_figure_4():
    sizes, x = [], torch.zeros(1, 1, 105, 105)
    for layer in Koch2015().convolutions:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [
        (64, 96, 96),
        (64, 48, 48),
        (128, 42, 42),
        (128, 21, 21),
        (128, 18, 18),
        (128, 9, 9),
        (256, 6, 6),
    ]


def test_koch2015_is_initialized_as_in_section_3_2():
    torch.manual_seed(0)
    encoder = Koch2015()
    for layer, spread in [(encoder.convolutions[3], 0.01), (encoder.units, 0.2), (encoder.head.alpha, 0.2)]:
        assert float(layer.weight.detach().std()) == pytest.approx(spread, rel=0.05)
        assert float(layer.weight.detach().mean()) == pytest.approx(0.0, abs=0.05 * spread + 0.01)
        assert float(layer.bias.detach().mean()) == pytest.approx(0.5, abs=0.03)


def test_units_of_koch2015_hardly_depend_on_the_picture_unless_initialized_by_he():
    torch.manual_seed(0)
    encoder, pixels = Koch2015(), torch.where(torch.rand(2, 1, 105, 105) < 0.1, 0.0, 255.0)
    with torch.no_grad():
        assert float((encoder(pixels[:1]) - encoder(pixels[1:])).abs().mean()) < 0.005
        encoder.initialize("he")
        assert float((encoder(pixels[:1]) - encoder(pixels[1:])).abs().mean()) > 0.03
    assert float(encoder.head.alpha.weight.detach().mean()) == pytest.approx(-0.02)
    for other in (encoder, GlyphNet()):
        with pytest.raises(SettingsError, match="has no initialization 'orthogonal'"):
            other.initialize("orthogonal")


def test_dropout_of_koch2015_is_drawn_in_training_only():
    torch.manual_seed(0)
    encoder, pixels = Koch2015(), torch.rand(1, 1, 105, 105) * 255
    encoder.initialize("he")
    with torch.no_grad():
        plain = encoder.train()(pixels)
        torch.testing.assert_close(encoder.eval()(pixels), plain)
        encoder.set_dropout(0.5)
        assert torch.equal(encoder(pixels), encoder(pixels))
        torch.testing.assert_close(encoder(pixels), plain)
        dropped = encoder.train()(pixels)
        assert not torch.allclose(dropped, encoder(pixels), atol=1e-3)
    with pytest.raises(SettingsError, match="glyphnet has no dropout; leave out --dropout"):
        GlyphNet().set_dropout(0.5)


def test_pooling_before_relu_changes_nothing_but_the_cost():
    torch.manual_seed(0)
    encoder, pixels = Koch2015(), torch.rand(2, 1, 105, 105) * 255
    encoder.initialize("he")
    results = []
    for training in (True, False):
        encoder.train(training).zero_grad()
        units = encoder(pixels)
        units[:, :8].sum().backward()
        results.append((units.detach(), encoder.convolutions[0].weight.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_koch_head_on_the_device_is_the_head_that_was_trained():
    torch.manual_seed(1)
    head = Koch2015().head
    a, b = torch.rand(6, 4096), torch.rand(6, 4096)
    device = head.as_device_head()
    scores = device.probability(device.paired_distances(a.numpy(), b.numpy()))
    assert np.allclose(scores, torch.sigmoid(head(a, b)).detach().numpy(), atol=1e-4)


def test_glyphnet_keeps_its_budget_and_uses_only_relu6():
    encoder = GlyphNet()
    assert sum(p.numel() for p in encoder.parameters()) == 366_504
    assert count_macs(encoder) == 24_437_784
    assert sum(p.numel() for p in encoder.parameters()) <= 500_000 and count_macs(encoder) <= 30_000_000
    kinds = {type(m) for m in encoder.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU6, nn.Linear}


def test_scaling_is_inside_the_network_and_white_paper_is_zero():
    encoder, seen = GlyphNet().eval(), []
    encoder.stem.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    encoder(torch.tensor([255.0, 0.0]).reshape(2, 1, 1, 1).expand(2, 1, 56, 56))
    assert float(seen[0][0].abs().max()) == 0.0 and float(seen[0][1].min()) == 1.0


def test_torch_encoder_gives_unit_vectors_for_glyphnet_and_raw_units_for_koch(monkeypatch):
    monkeypatch.setattr("export.training.network.MAX_BATCH_PIXELS", 2 * 56 * 56)
    images = np.random.default_rng(0).integers(0, 256, (5, 80, 60, 3), dtype=np.uint8)
    encoder = TorchEncoder(GlyphNet())
    assert encoder.batch == 2
    unit = encoder.embed(images)
    assert unit.shape == (5, 128) and unit.dtype == np.float32
    assert np.allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-6)
    raw = TorchEncoder(Koch2015()).embed(images[:1])
    assert raw.shape == (1, 4096) and 0.0 <= raw.min() and raw.max() <= 1.0


def test_torch_encoder_does_not_change_the_network():
    encoder = GlyphNet().train()
    before = model_id(encoder)
    TorchEncoder(encoder).embed(np.zeros((3, 56, 56), np.uint8))
    assert encoder.training and model_id(encoder) == before


def test_the_model_id_changes_with_one_weight():
    encoder = GlyphNet()
    before = model_id(encoder)
    assert before.startswith("glyphnet-") and len(before) == len("glyphnet-") + 12
    with torch.no_grad():
        encoder.embedding.bias[0] += 1e-3
    assert model_id(encoder) != before


def test_an_unknown_encoder_is_named_with_the_known_ones():
    with pytest.raises(
        SettingsError,
        match=r"there is no encoder 'resnet'; known: efficientnet-lite0, .*koch2015, timm:NAME.*, onnx:FILE.*",
    ):
        build_encoder("resnet")
