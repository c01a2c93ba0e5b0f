"""One-shot recognition on small devices: the public API of edge-siamese.

from edge_siamese import Recognizer

recognizer = Recognizer("objects")
recognizer.register("mug", "mug.jpg")
print(recognizer.recognize("kitchen.jpg"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_siamese.errors import EdgeSiameseError
    from edge_siamese.models.bundle import load_bundle
    from edge_siamese.recognition.decision import Recognition
    from edge_siamese.recognition.head import SigmoidDistanceHead
    from edge_siamese.recognizer import Recognizer
    from edge_siamese.runtimes.selection import load_encoder

__version__ = "0.3.0"
__all__ = [
    "EdgeSiameseError",
    "Recognition",
    "Recognizer",
    "SigmoidDistanceHead",
    "load_bundle",
    "load_encoder",
]

_MODULES = {
    "EdgeSiameseError": "edge_siamese.errors",
    "Recognition": "edge_siamese.recognition.decision",
    "Recognizer": "edge_siamese.recognizer",
    "SigmoidDistanceHead": "edge_siamese.recognition.head",
    "load_bundle": "edge_siamese.models.bundle",
    "load_encoder": "edge_siamese.runtimes.selection",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a command such as `edge-siamese status` needs no numpy."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
