"""Looks for what keeps a device from recognising, and says what to do about it."""

from edge_siamese.doctor.examine import examine
from edge_siamese.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
