"""Looks for what keeps a device from recognizing, and says what to do about it."""

from edge_siamese.doctor.findings import Finding, Level
from edge_siamese.doctor.run import examine

__all__ = ["Finding", "Level", "examine"]
