"""Records of a bundle's verification; importing them does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerifiedFile:
    """Comparison of one exported file, in one runtime, with the trained network."""

    format: str
    precision: str
    runtime: str
    worst_cosine: float
    mean_cosine: float
    largest_score_difference: float
    accuracy: float | None
    """One-shot accuracy."""
    loss_points: float | None
    """Accuracy of the network less that of the file, in points."""
    loss_low: float | None = None
    """95 % interval of the loss, over the classes."""
    loss_high: float | None = None


@dataclass(frozen=True)
class Verification:
    """Result of a verification."""

    passed: bool
    model_id: str
    network_accuracy: float
    """One-shot accuracy of the trained network."""
    int8_budget: float
    files: tuple[VerifiedFile, ...]
    missing: tuple[str, ...]
    """Runtimes that are not installed on this machine."""
    worst_layers: tuple[str, ...]
    """For each int8 format that lost too much, the layer that adds most noise."""
    command: str
    machine: str
    failures: tuple[str, ...] = ()
    """One line for each file that fails, or that no installed runtime can run."""
    ways: int = 0
    """Ways of the one-shot trials; the chance level is 1 / `ways`; 0 in records of an earlier release."""
    classes: int = 0
    """Number of classes of the trials."""
