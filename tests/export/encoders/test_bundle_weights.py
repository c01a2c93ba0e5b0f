"""A bundle's int8 weights are a start for training: in its float network they give the embeddings of the bundle."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

from edge_siamese.errors import BundleNotFound, SettingsError
from edge_siamese.models.bundle import NETWORK, Bundle, load_bundle
from export.encoders import build_encoder
from export.encoders.bundle_weights import dequantized_weights, load_bundle_weights


@pytest.mark.parametrize("name", ["glyphs", "objects"])
def test_the_shipped_bundles_give_back_their_networks(name: str) -> None:
    bundle = load_bundle(name)
    encoder = build_encoder(bundle.manifest.encoder.name)
    if encoder.published_weights:
        encoder.load_published_weights()
    load_bundle_weights(encoder, bundle)
    images = torch.from_numpy(bundle.golden.images).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        cosines = F.cosine_similarity(
            encoder.eval()(images), torch.from_numpy(bundle.golden.embeddings[NETWORK])
        )
    assert float(cosines.min()) > 0.99, cosines


def test_the_norms_of_the_published_weights_stay() -> None:
    """Weights keep their usual size, and so do the steps of the optimizer relative to it."""
    published, loaded = (build_encoder("efficientnet-lite0-full") for _ in range(2))
    for encoder in (published, loaded):
        encoder.load_published_weights()
    load_bundle_weights(loaded, load_bundle("objects"))
    for before, after in zip(published.modules(), loaded.modules(), strict=True):
        if isinstance(before, nn.BatchNorm2d):
            assert torch.equal(before.running_var, after.running_var)
        if isinstance(before, nn.Conv2d):
            assert 0.5 < float(after.weight.detach().norm() / before.weight.detach().norm()) < 2.0


def test_int8_weights_are_whole_numbers_times_the_scale_of_their_channel() -> None:
    values = np.array([[-127, 5], [0, 100]], dtype=np.int8)
    constants = {
        "encoder.out.weight_quantized": values,
        "encoder.out.weight_scale": np.array([0.5, 2.0], dtype=np.float32),
        "encoder.out.weight_zero_point": np.zeros(2, dtype=np.int8),
    }
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", list(constants), ["w"], axis=0)],
        "one layer",
        [],
        [],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    weights = dequantized_weights(helper.make_model(graph))
    assert list(weights) == ["out.weight"]
    assert weights["out.weight"].tolist() == [[-63.5, 2.5], [0.0, 200.0]]


def test_a_bundle_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    glyphs = load_bundle("glyphs")
    with pytest.raises(SettingsError, match="glyphs is a bundle of glyphnet, not of efficientnet-lite0-full"):
        load_bundle_weights(build_encoder("efficientnet-lite0-full"), glyphs)
    larger = build_encoder("glyphnet")
    larger.add_module("another", nn.Linear(2, 2))
    with pytest.raises(SettingsError, match="glyphs has other layers than glyphnet: another"):
        load_bundle_weights(larger, glyphs)
    no_int8 = SimpleNamespace(manifest=glyphs.manifest, path=tmp_path, model_path=_no_model)
    with pytest.raises(BundleNotFound, match="no int8"):
        load_bundle_weights(build_encoder("glyphnet"), cast(Bundle, no_int8))


def _no_model(*_: Any) -> Path:
    raise BundleNotFound("no int8 ONNX file")


def test_weights_that_give_other_embeddings_are_refused() -> None:
    glyphs = load_bundle("glyphs")
    golden = SimpleNamespace(
        images=glyphs.golden.images, embeddings={NETWORK: -glyphs.golden.embeddings[NETWORK]}
    )
    damaged = SimpleNamespace(
        manifest=glyphs.manifest, path=glyphs.path, model_path=glyphs.model_path, golden=golden
    )
    with pytest.raises(SettingsError, match=r"do not fit glyphnet: a cosine of -1\.00 to its golden vectors"):
        load_bundle_weights(build_encoder("glyphnet"), cast(Bundle, damaged))
