"""Recognises objects that it has seen once: the part of edge-siamese that runs on the device."""

from edge_siamese.bundle import load_bundle
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.head import SigmoidDistanceHead
from edge_siamese.recognizer import Recognizer
from edge_siamese.runtimes import load_encoder

__version__ = "0.1.0"
__all__ = ["EdgeSiameseError", "Recognizer", "SigmoidDistanceHead", "load_bundle", "load_encoder"]
