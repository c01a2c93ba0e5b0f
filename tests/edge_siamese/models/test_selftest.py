"""The self-test: passes if the machine computes what the workstation computed, and else says what differs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_siamese.errors import SelfTestFailed, SettingsError
from edge_siamese.models.bundle import Bundle, GoldenVectors
from edge_siamese.models.selftest import MAX_SCORE_DIFFERENCE, MIN_COSINE, self_test
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats, prepare
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from edge_siamese.runtimes.selection import load_encoder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_runtime_passes(bundle: Bundle, runtime: str, precision: str) -> None:
    encoder = load_encoder(bundle, runtime, precision, threads=1)
    report = self_test(encoder, bundle.golden, bundle.head)
    assert report.passed
    assert report.imaging_exact
    assert report.head_exact
    assert report.reference == ("onnx" if runtime == "onnxruntime" else "tflite") + f"-{precision}"
    assert MIN_COSINE[precision] <= report.worst_cosine <= report.mean_cosine <= 1.0001
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


@pytest.mark.parametrize("weighted", [False, True])
def test_what_quantization_changed_is_granted_to_a_runtime(
    bundle: Bundle, weighted_bundle: Bundle, runtime: str, weighted: bool
) -> None:
    chosen = weighted_bundle if weighted else bundle
    head, golden = chosen.head, chosen.golden
    report = self_test(load_encoder(chosen, runtime, "int8", threads=1), golden, head)
    own, network = golden.embeddings[report.reference], golden.embeddings["network"]
    lost = float(np.abs(head.score(own, own) - head.score(network, network)).max())
    assert report.max_score_difference == pytest.approx(MAX_SCORE_DIFFERENCE["int8"] + lost)
    assert report.passed


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
    assert report.lines[0] == "imaging: DIFFERENT BYTES from the workstation"
    with pytest.raises(
        SelfTestFailed, match=r"^fp32 on fake: imaging: DIFFERENT BYTES from the workstation; head: "
    ):
        report.require()


def test_another_head_fails(fake: tuple[FakeEncoder, GoldenVectors]) -> None:
    encoder, golden = fake
    report = self_test(encoder, golden, SigmoidDistanceHead(FAKE_HEAD.scale, FAKE_HEAD.bias - 0.5))
    assert not report.passed
    assert not report.head_exact
    assert report.lines[1] == "head: DIFFERENT SCORES from the workstation"


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
    assert report.lines[3].endswith(", ABOVE 0.0100")
    lenient = self_test(encoder, wrong, FAKE_HEAD, min_cosine=-1.0)
    assert lenient.embeddings_agree and not lenient.scores_agree and not lenient.passed


class PositiveEncoder(FakeEncoder):
    """Units near 0.5, as sigmoids have: their cosine says nothing about the picture."""

    def embed_prepared(self, images: Bytes) -> Floats:
        return np.asarray(0.5 + 0.02 * super().embed_prepared(images), dtype=np.float32)


@pytest.mark.parametrize("mistake", ["all alike", "of other pictures"])
def test_embeddings_of_positive_units_are_told_by_their_scores(
    fake: tuple[FakeEncoder, GoldenVectors], mistake: str
) -> None:
    encoder, golden = PositiveEncoder(), fake[1]
    head = SigmoidDistanceHead(1.0, 4.0, "weighted_l1", np.full(encoder.dimensions, 40.0, np.float32))
    right = encoder.embed_prepared(golden.images)
    whole = dataclasses.replace(golden, embeddings={"network": right}, scores=head.score(right, right))
    assert self_test(encoder, whole, head).passed
    other = np.repeat(right[:1], len(right), axis=0) if mistake == "all alike" else right[::-1].copy()
    wrong = dataclasses.replace(golden, embeddings={"network": other}, scores=head.score(other, other))
    report = self_test(encoder, wrong, head)
    assert report.worst_cosine >= report.min_cosine
    assert report.imaging_exact and report.head_exact and not report.passed
    assert report.largest_score_difference > 0.5
    with pytest.raises(SelfTestFailed, match=r"largest difference of a score: 0\.\d+, ABOVE 0\.0100$"):
        report.require()


def test_golden_vectors_of_another_encoder(bundle: Bundle) -> None:
    with pytest.raises(
        SettingsError, match=r"^these golden vectors do not belong to the encoder fake-32x32x1-64-0$"
    ):
        self_test(FakeEncoder(), bundle.golden, bundle.head)
