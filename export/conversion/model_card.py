"""The model card of a bundle: what it is, how it was made, what it can and cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_siamese.models.manifest import Manifest
from export.data.images import Splits
from export.encoders import ENCODERS
from export.evaluation.head_calibration import HeadCalibration

# What the figures of the manifest are, in words.
FIGURES = {
    "validation_one_shot": "one-shot accuracy of the float network, the figure by which its training step was chosen",
    "validation_ece": "calibration error (ECE) of p(same) on the very pairs that the head was fitted on",
    "validation_left_out_ece": (
        "calibration error (ECE) with each group (alphabet) predicted by a head that was fitted on the others: "
        "what to expect of new classes"
    ),
    "validation_eer": "equal error rate on the pairs of the fit; it does not depend on the fit",
}


def _start(provenance: dict[str, Any], encoder: str) -> str:
    """The weights that training began with, in words."""
    start = str(provenance.get("settings", {}).get("start", "random"))
    published = (ENCODERS[encoder].published if encoder in ENCODERS else "") or "published weights"
    if start in ("random", "published"):
        return published if start == "published" else "random weights"
    former = "weights that an earlier run of this program kept"
    return f"{former}, from {published}" if provenance.get("origin") == "published" else former


def _remembered(settings: dict[str, Any]) -> str:
    """A sentence on the pictures that were shown besides, if any were."""
    if not settings.get("remember"):
        return ""
    others = f"other pictures (`{Path(settings['remember']).name}`, weight {settings['remembering']:g})"
    return f"\n  Meanwhile it was to go on seeing what it saw at the start, in {others}."


def model_card(manifest: Manifest, splits: Splits, calibration: HeadCalibration) -> str:
    """Markdown for people."""
    settings = manifest.provenance.get("settings", {})
    thresholds = "\n".join(
        f"| {t.false_accept_rate:g} | {t.probability:.4f} | {t.false_reject_rate:.1%} | {t.impostor_pairs:,} |"
        for t in manifest.thresholds
    )
    files = "\n".join(
        f"| {m.format} {m.precision} | {m.bytes:,} | {m.quantization or 'float'} |" for m in manifest.models
    )
    metrics = "\n".join(
        f"- {name.replace('_', ' ')}: {value:.4f}, {FIGURES[name]}"
        for name, value in manifest.metrics.items()
    )
    missing = ", ".join(f"{rate:g}" for rate in calibration.not_stated)
    not_stated = f"\nThe pairs do not suffice for a threshold at: {missing}.\n" if missing else ""
    return f"""# {manifest.model_id}

A Siamese encoder, `{manifest.encoder.name}`, that turns a picture into {manifest.embedding.dimensions} numbers; the
distance of two such vectors becomes the probability that both pictures show the same thing.

- Encoder: {manifest.encoder.citation}. {manifest.encoder.parameters:,} parameters, {manifest.encoder.macs / 1e6:.1f} MMAC.
- Method: Koch, Zemel, Salakhutdinov, Siamese Neural Networks for One-shot Image Recognition, 2015.
- Trained on: {splits.train.name}, {len(splits.train):,} images of {splits.train.classes} classes;
  seed {settings.get("seed")}, objective `{settings.get("objective")}`. The data keep their own license.
- Started from: {_start(manifest.provenance, manifest.encoder.name)}.{_remembered(settings)}
- Input: {manifest.input.height} x {manifest.input.width}, {manifest.input.color}, uint8.

## Files

| file | bytes | quantization |
|---|---|---|
{files}

## Figures on held-out classes ({splits.validation.name})

No picture of these classes was trained on, but they chose the weights that were kept and the numbers of the head, so new
classes may do a little worse: `python -m export evaluate` measures those. These figures are of the float network.

{metrics}

| false-accept rate | threshold p | false-reject rate | impostor pairs |
|---|---|---|---|
{thresholds}
{not_stated}
## Use and limits

Meant for recognizing things like those it was trained on, from one picture each. It says what a picture shows, not where.
Do not use it to recognize faces or to guard anything. Its probabilities hold for pictures like the training data:
measure on your own before you rely on them.
"""
