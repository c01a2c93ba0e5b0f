"""Recognizes objects that were shown once: encode, score against the support set, reject the unknown."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import SettingsError, SupportError
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.manifest import choose_threshold
from edge_siamese.pictures import read_picture
from edge_siamese.recognition.decision import Recognition, decide
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.support import SupportSet
from edge_siamese.registry import AUTO
from edge_siamese.runtimes.selection import load_encoder

__all__ = ["Picture", "Recognition", "Recognizer"]

Picture = npt.NDArray[Any] | str | os.PathLike[str]
"""A frame, uint8 (h, w) or (h, w, 1, 3 or 4), or the path of a picture file."""


class Recognizer:
    """Learns objects from one picture each and names them in others; may be used from several threads.

    recognizer = Recognizer(load_bundle("bundle"))
    recognizer.register("mug", "mug.jpg")
    print(recognizer.recognize("kitchen.jpg"))
    """

    def __init__(
        self,
        source: Bundle | Encoder | str | os.PathLike[str],
        threshold: float | None = None,
        *,
        false_accept_rate: float | None = None,
        head: SigmoidDistanceHead | None = None,
        runtime: str = AUTO,
        precision: str = "int8",
        threads: int | None = None,
    ) -> None:
        """Start with nothing registered.

        Args:
            source: a bundle, the directory of one, or an encoder, which needs `head` and `threshold` too.
            threshold: the probability from which on an object is recognized.
            false_accept_rate: without a threshold, the bundle's own for this rate. With neither, the one for 1e-2, or
                else the strictest that the bundle states, or else 0.5, which is logged; `threshold_source` says which.
            head: instead of the bundle's.
            runtime, precision, threads: for the bundle's encoder; see `runtimes.load_encoder`.

        Raises:
            BundleError, RuntimeNotInstalled, EncoderError: the bundle or its encoder cannot be loaded.
            SettingsError: the bundle states no threshold for this rate, the threshold is no probability, or
                an encoder came without head or threshold.
        """
        self.threshold_source = "given"
        """Where the threshold came from, such as `stated for a false-accept rate of 0.01`."""
        if isinstance(source, (str, os.PathLike)):
            source = load_bundle(Path(source))
        if isinstance(source, Bundle):
            self.encoder: Encoder = load_encoder(source, runtime, precision, threads)
            head = head or source.head
            threshold, self.threshold_source = choose_threshold(source.manifest, threshold, false_accept_rate)
        else:
            self.encoder = source
        if head is None or threshold is None:
            raise SettingsError("an encoder has neither head nor threshold: give both, or a bundle")
        if not 0.0 <= threshold <= 1.0:
            raise SettingsError(f"a threshold is a probability from 0 to 1, not {threshold}")
        self.head = head
        self.threshold = threshold
        self._support = SupportSet.empty(self.encoder.dimensions)
        self._changing = threading.Lock()

    @property
    def support(self) -> SupportSet:
        """What is registered now."""
        return self._support

    def register(self, name: str, *pictures: Picture) -> None:
        """Learn an object from one or more views, or add views to a known one.

        Raises:
            SupportError: the name is empty, or there is no picture.
            ImageError: something is not an image; then nothing is learned.
        """
        if not pictures:
            raise SupportError(f'"{name}" needs at least one picture')
        embeddings = self.encoder.embed([_pixels(picture) for picture in pictures])
        with self._changing:
            support = self._support
            for embedding in embeddings:
                support = support.with_view(name, embedding)
            self._support = support

    def forget(self, name: str) -> None:
        """Unlearn an object; raises `SupportError` if it is not registered."""
        with self._changing:
            self._support = self._support.without(name)

    def recognize(self, picture: Picture) -> Recognition:
        """Name what a frame or a picture file shows.

        Raises:
            ImageError: it is not an image.
            EncoderError: the runtime failed.
        """
        return decide(self._support, self.head, self.encoder.embed([_pixels(picture)])[0], self.threshold)


def _pixels(picture: Picture) -> npt.NDArray[Any]:
    return read_picture(picture) if isinstance(picture, (str, os.PathLike)) else np.asarray(picture)
