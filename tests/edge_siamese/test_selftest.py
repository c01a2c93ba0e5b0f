"""The self-test: passes where the machine computes what the workstation did, and says what differs where not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_siamese.bundle import Bundle, GoldenVectors
from edge_siamese.errors import SelfTestFailed, SettingsError
from edge_siamese.head import SigmoidDistanceHead
from edge_siamese.imaging import prepare
from edge_siamese.runtimes import load_encoder
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from edge_siamese.selftest import LEAST_COSINE, self_test


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_runtime_passes(bundle: Bundle, runtime: str, precision: str) -> None:
    encoder = load_encoder(bundle, runtime, precision, threads=1)
    report = self_test(encoder, bundle.golden, bundle.head)
    assert report.passed
    assert report.imaging_exact
    assert report.head_exact
    assert report.reference == ("onnx" if runtime == "onnxruntime" else "tflite") + f"-{precision}"
    assert LEAST_COSINE[precision] <= report.worst_cosine <= report.mean_cosine <= 1.0001
    report.require()


def test_the_loss_of_quantization_does_not_count(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    encoder = load_encoder(bundle, "onnxruntime", "int8", threads=1)
    own = self_test(encoder, bundle.golden, bundle.head)
    only_network = dataclasses.replace(
        bundle.golden, embeddings={"network": bundle.golden.embeddings["network"]}
    )
    network = self_test(encoder, only_network, bundle.head)
    assert network.reference == "network"
    assert network.worst_cosine < own.worst_cosine
    assert network.largest_score_difference > own.largest_score_difference


def test_a_weighted_head_and_embeddings_of_any_length(weighted_bundle: Bundle, runtime: str) -> None:
    encoder = load_encoder(weighted_bundle, runtime, "fp32", threads=1)
    report = self_test(encoder, weighted_bundle.golden, weighted_bundle.head)
    assert report.passed
    assert report.largest_score_difference < 1e-4


@pytest.fixture
def fake() -> tuple[FakeEncoder, GoldenVectors]:
    encoder = FakeEncoder()
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (50, 40, 3), dtype=np.uint8)
    images = generator.integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    embeddings = encoder.embed(images)
    scores = FAKE_HEAD.score(embeddings, embeddings)
    prepared = prepare(frame, encoder.preprocessing)
    return encoder, GoldenVectors(frame, prepared, images, {"network": embeddings}, scores)


def test_one_wrong_byte_of_imaging_fails(fake: tuple[FakeEncoder, GoldenVectors]) -> None:
    encoder, golden = fake
    assert self_test(encoder, golden, FAKE_HEAD).passed
    prepared = golden.prepared_frame.copy()
    prepared[3, 3] ^= 1
    report = self_test(encoder, dataclasses.replace(golden, prepared_frame=prepared), FAKE_HEAD)
    assert not report.passed
    assert report.lines[0] == "imaging: OTHER BYTES than on the workstation"
    with pytest.raises(
        SelfTestFailed, match=r"^fp32 on fake: imaging: OTHER BYTES than on the workstation; head: "
    ):
        report.require()


def test_another_head_fails(fake: tuple[FakeEncoder, GoldenVectors]) -> None:
    encoder, golden = fake
    report = self_test(encoder, golden, SigmoidDistanceHead(FAKE_HEAD.scale, FAKE_HEAD.bias - 0.5))
    assert not report.passed
    assert not report.head_exact
    assert report.lines[1] == "head: OTHER SCORES than on the workstation"


def test_a_wrong_embedding_fails(fake: tuple[FakeEncoder, GoldenVectors]) -> None:
    encoder, golden = fake
    embeddings = golden.embeddings["network"].copy()
    embeddings[2] = np.roll(embeddings[2], 1)
    wrong = dataclasses.replace(
        golden, embeddings={"network": embeddings}, scores=FAKE_HEAD.score(embeddings, embeddings)
    )
    report = self_test(encoder, wrong, FAKE_HEAD)
    assert report.imaging_exact
    assert report.head_exact
    assert not report.passed
    assert report.worst_cosine == pytest.approx(
        float(embeddings[2] @ golden.embeddings["network"][2]), abs=1e-5
    )
    assert report.lines[2].endswith(", BELOW 0.9999")
    assert self_test(encoder, wrong, FAKE_HEAD, least_cosine=-1.0).passed


def test_golden_vectors_of_another_encoder(bundle: Bundle) -> None:
    with pytest.raises(
        SettingsError, match=r"^these golden vectors are not of the encoder fake-32x32x1-64-0$"
    ):
        self_test(FakeEncoder(), bundle.golden, bundle.head)
