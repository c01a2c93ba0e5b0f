"""The model card of a bundle: what it is, how it was made, what it can and cannot do."""

from __future__ import annotations

from edge_siamese.manifest import Manifest
from export.data.images import Splits


def model_card(manifest: Manifest, splits: Splits) -> str:
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
        f"- {name.replace('_', ' ')}: {value:.4f}" for name, value in manifest.metrics.items()
    )
    return f"""# {manifest.model_id}

A Siamese encoder, `{manifest.encoder.name}`, that turns a picture into {manifest.embedding.dimensions} numbers; the
distance of two such vectors becomes the probability that both pictures show the same thing.

- Encoder: {manifest.encoder.citation}. {manifest.encoder.parameters:,} parameters, {manifest.encoder.macs / 1e6:.1f} MMAC.
- Method: Koch, Zemel, Salakhutdinov, Siamese Neural Networks for One-shot Image Recognition, 2015.
- Trained on: {splits.train.name}, {len(splits.train):,} images of {splits.train.classes} classes;
  seed {settings.get("seed")}, objective `{settings.get("objective")}`. The data keep their own licence.
- Input: {manifest.input.height} x {manifest.input.width}, {manifest.input.colour}, uint8.

## Files

| file | bytes | quantization |
|---|---|---|
{files}

## Figures on held-out classes ({splits.validation.name})

{metrics}

| false-accept rate | threshold p | false-reject rate | impostor pairs |
|---|---|---|---|
{thresholds}

## Use and limits

Meant for recognising things like those it was trained on, from one picture each. It says what a picture shows, not where.
Do not use it to recognise faces or to guard anything. Its probabilities hold for pictures like the training data:
measure on your own before you rely on them.
"""
