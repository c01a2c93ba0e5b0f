"""The self-test: an encoder must reproduce the golden vectors of its bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_siamese.errors import SelfTestFailed, SettingsError
from edge_siamese.models.bundle import NETWORK, GoldenVectors
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats, prepare
from edge_siamese.registry import RUNTIMES

# Two correct runtimes differ on one file by the order of float sums and by int8 rounding.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.98}
# The same for p(same), because embeddings with only positive numbers have a cosine near 1 whatever they show. Float
# runtimes agree to 2e-6, less well where a steep head meets distances near zero, whose squares cancel. Int8 runtimes
# round differently between the layers, and some processors saturate sums: x86 kernels with and without vector
# instructions differ by up to 0.04 over 17,000 pairs of characters, and by 0.03 over the pairs of eight pictures. The
# difference grows with the steepness of the head and the coarseness of the quantization, as does the change that
# quantization made to the golden vectors; that change is added to the bound.
MAX_SCORE_DIFFERENCE = {"fp32": 0.01, "int8": 0.05}
MAX_HEAD_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class SelfTestReport:
    """Differences between an encoder and the golden vectors."""

    runtime: str
    precision: str
    reference: str
    """The embeddings compared with: of a file, such as "onnx-int8", or "network" for the float network."""
    worst_cosine: float
    mean_cosine: float
    min_cosine: float
    """Lower bound of `worst_cosine`."""
    largest_score_difference: float
    """Largest difference of p(same), over all pairs of golden images: both embedded here, or one on the workstation."""
    max_score_difference: float
    """Upper bound of `largest_score_difference`: `MAX_SCORE_DIFFERENCE` plus the change by quantization."""
    imaging_exact: bool
    """Whether preprocessing gives the same bytes."""
    head_exact: bool
    """Whether the head gives the stored scores for the stored embeddings, to 1e-4."""

    @property
    def passed(self) -> bool:
        return self.imaging_exact and self.head_exact and self.embeddings_agree and self.scores_agree

    @property
    def embeddings_agree(self) -> bool:
        return self.worst_cosine >= self.min_cosine

    @property
    def scores_agree(self) -> bool:
        return self.largest_score_difference <= self.max_score_difference

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each check."""
        return (
            f"imaging: {'the same bytes' if self.imaging_exact else 'DIFFERENT BYTES from the workstation'}",
            f"head: {'the same scores' if self.head_exact else 'DIFFERENT SCORES from the workstation'}",
            f"embeddings against {self.reference}: worst cosine {self.worst_cosine:.5f}, "
            f"mean {self.mean_cosine:.5f}"
            f"{'' if self.embeddings_agree else f', BELOW {self.min_cosine}'}",
            f"largest difference of a score: {self.largest_score_difference:.4f}"
            f"{'' if self.scores_agree else f', ABOVE {self.max_score_difference:.4f}'}",
        )

    def require(self) -> None:
        """Raise `SelfTestFailed` unless the test passed."""
        if not self.passed:
            raise SelfTestFailed(f"{self.precision} on {self.runtime}: {'; '.join(self.lines)}")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "passed": self.passed}


def self_test(
    encoder: Encoder, golden: GoldenVectors, head: SigmoidDistanceHead, min_cosine: float | None = None
) -> SelfTestReport:
    """Run the golden inputs through preprocessing, encoder and head.

    Args:
        encoder: the encoder to test.
        golden: golden vectors of the encoder's bundle.
        head: head of the encoder's bundle.
        min_cosine: lower bound of the worst cosine; None for `MIN_COSINE` of the precision.

    Embeddings are compared with the workstation's embeddings by the same file, so that quantization loss does not count;
    without a file, with those of the float network.

    Raises:
        SettingsError: the golden vectors belong to an encoder with another input or output.
    """
    key = (
        f"{RUNTIMES[encoder.runtime].format}-{encoder.precision}" if encoder.runtime in RUNTIMES else NETWORK
    )
    reference = key if key in golden.embeddings else NETWORK
    expected = golden.embeddings[reference]
    if golden.images.shape[1:] != encoder.preprocessing.shape or expected.shape[1] != encoder.dimensions:
        raise SettingsError(f"these golden vectors do not belong to the encoder {encoder.model_id}")
    embeddings = encoder.embed_prepared(golden.images)
    cosines = _cosines(embeddings, expected)
    stored = golden.embeddings[NETWORK]
    scores, exact_scores = head.score(expected, expected), head.score(stored, stored)
    return SelfTestReport(
        runtime=encoder.runtime,
        precision=encoder.precision,
        reference=reference,
        worst_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        min_cosine=MIN_COSINE[encoder.precision] if min_cosine is None else min_cosine,
        largest_score_difference=max(
            _largest_difference(head.score(embeddings, embeddings), scores),
            _largest_difference(head.score(embeddings, expected), scores),
        ),
        max_score_difference=MAX_SCORE_DIFFERENCE[encoder.precision]
        + _largest_difference(scores, exact_scores),
        imaging_exact=bool(
            np.array_equal(prepare(golden.frame, encoder.preprocessing), golden.prepared_frame)
        ),
        head_exact=_largest_difference(exact_scores, golden.scores) <= MAX_HEAD_DIFFERENCE,
    )


def _cosines(a: Floats, b: Floats) -> Floats:
    """(K, D) and (K, D) to (K,)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("kd,kd->k", a, b) / np.where(norms == 0, 1, norms), dtype=np.float32)


def _largest_difference(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max(initial=0.0))
