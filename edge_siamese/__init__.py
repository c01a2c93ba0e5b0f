"""Recognizes objects that it has seen once: the part of edge-siamese that runs on the device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_siamese.errors import EdgeSiameseError
    from edge_siamese.models.bundle import load_bundle
    from edge_siamese.recognition.head import SigmoidDistanceHead
    from edge_siamese.recognizer import Recognizer
    from edge_siamese.runtimes.selection import load_encoder

__version__ = "0.2.0"
__all__ = [
    "EdgeSiameseError",
    "Recognizer",
    "SigmoidDistanceHead",
    "load_bundle",
    "load_encoder",
]

_PLACES = {
    "EdgeSiameseError": "edge_siamese.errors",
    "Recognizer": "edge_siamese.recognizer",
    "SigmoidDistanceHead": "edge_siamese.recognition.head",
    "load_bundle": "edge_siamese.models.bundle",
    "load_encoder": "edge_siamese.runtimes.selection",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: a command such as `status` needs no numpy."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
