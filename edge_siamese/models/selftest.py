"""Proves that this machine computes what the workstation computed, by the golden vectors of a bundle."""

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

# What two correct runtimes may differ by on one file: the order of sums in float, rounding in int8.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.98}
# The same for p(same), because embeddings of positive numbers alone have a cosine near 1 whatever they are of. Float
# runtimes agree to 2e-6, less well where a steep head meets distances near zero, whose squares cancel. Int8 runtimes
# round between the layers each in its own way, and some processors saturate sums: x86 kernels with and without vector
# instructions differ by up to 0.04 over 17,000 pairs of characters, by 0.03 over those of eight pictures. That
# grows with the steepness of the head and the coarseness of the quantization, and so does what quantization itself has
# changed in the golden vectors: that much is granted on top.
MAX_SCORE_DIFFERENCE = {"fp32": 0.01, "int8": 0.05}
MAX_HEAD_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class SelfTestReport:
    """How near an encoder comes to the golden vectors."""

    runtime: str
    precision: str
    reference: str
    """Whose embeddings were compared with: "onnx-int8" and so on, or "network" for the float network."""
    worst_cosine: float
    mean_cosine: float
    least_cosine: float
    """What `worst_cosine` has to reach."""
    largest_score_difference: float
    """Of p(same), over all pairs of the golden images: both embedded here, and one here and one on the workstation."""
    granted_score_difference: float
    """What `largest_score_difference` may be: `MAX_SCORE_DIFFERENCE`, and what quantization itself changed."""
    imaging_exact: bool
    """Whether the preprocessing gives the same bytes."""
    head_exact: bool
    """Whether the head gives the stored scores for the stored embeddings, to 1e-4."""

    @property
    def passed(self) -> bool:
        return self.imaging_exact and self.head_exact and self.embeddings_agree and self.scores_agree

    @property
    def embeddings_agree(self) -> bool:
        return self.worst_cosine >= self.least_cosine

    @property
    def scores_agree(self) -> bool:
        return self.largest_score_difference <= self.granted_score_difference

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each check."""
        return (
            f"imaging: {'the same bytes' if self.imaging_exact else 'OTHER BYTES than on the workstation'}",
            f"head: {'the same scores' if self.head_exact else 'OTHER SCORES than on the workstation'}",
            f"embeddings against {self.reference}: worst cosine {self.worst_cosine:.5f}, "
            f"mean {self.mean_cosine:.5f}"
            f"{'' if self.embeddings_agree else f', BELOW {self.least_cosine}'}",
            f"largest difference of a score: {self.largest_score_difference:.4f}"
            f"{'' if self.scores_agree else f', ABOVE {self.granted_score_difference:.4f}'}",
        )

    def require(self) -> None:
        """Raise `SelfTestFailed` unless the test passed."""
        if not self.passed:
            raise SelfTestFailed(f"{self.precision} on {self.runtime}: {'; '.join(self.lines)}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def self_test(
    encoder: Encoder, golden: GoldenVectors, head: SigmoidDistanceHead, least_cosine: float | None = None
) -> SelfTestReport:
    """Run the golden inputs through the whole path: imaging, encoder, head.

    Args:
        encoder: what is tested.
        golden: of the encoder's bundle.
        head: of the encoder's bundle.
        least_cosine: what the worst embedding has to reach; None for `MIN_COSINE` of the precision.

    The embeddings are compared with those that the workstation got from the same file, so the loss of
    quantization does not count; those of an encoder without a file, with the float network's.

    Raises:
        SettingsError: the golden vectors are of an encoder with another input or output.
    """
    key = (
        f"{RUNTIMES[encoder.runtime].format}-{encoder.precision}" if encoder.runtime in RUNTIMES else NETWORK
    )
    reference = key if key in golden.embeddings else NETWORK
    wanted = golden.embeddings[reference]
    if golden.images.shape[1:] != encoder.preprocessing.shape or wanted.shape[1] != encoder.dimensions:
        raise SettingsError(f"these golden vectors are not of the encoder {encoder.model_id}")
    found = encoder.embed_prepared(golden.images)
    cosines = _cosines(found, wanted)
    stored = golden.embeddings[NETWORK]
    scores, exact_scores = head.score(wanted, wanted), head.score(stored, stored)
    return SelfTestReport(
        runtime=encoder.runtime,
        precision=encoder.precision,
        reference=reference,
        worst_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        least_cosine=MIN_COSINE[encoder.precision] if least_cosine is None else least_cosine,
        largest_score_difference=max(
            _largest_difference(head.score(found, found), scores),
            _largest_difference(head.score(found, wanted), scores),
        ),
        granted_score_difference=MAX_SCORE_DIFFERENCE[encoder.precision]
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
