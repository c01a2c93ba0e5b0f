"""The recognizer: registers objects from one picture each and names them in other pictures."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import SettingsError, SupportError
from edge_siamese.models.bundle import Bundle, choose_acceptance, load_bundle
from edge_siamese.pictures import Picture, to_pixels
from edge_siamese.recognition.decision import Acceptance, Recognition, blank_recognition, decide
from edge_siamese.recognition.embedding import Encoder, embed_view, make_crop
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats, prepare
from edge_siamese.recognition.quality import is_blank
from edge_siamese.recognition.registration import NewView
from edge_siamese.recognition.support import SupportSet
from edge_siamese.registry import AUTO
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.store import ImportResult, OnConflict, SupportStore

__all__ = ["Picture", "Recognition", "Recognizer"]

CROP_SIDE = 192
"""Pixels of the longer side of pictures kept for `Recognizer.save`."""


class Recognizer:
    """Registers objects from one picture each and names them in other pictures.

    It decides as the daemon does: the same support set, the same limits of objects, the same rule for negatives. Objects
    live in memory; `save` and `load` exchange them with files and with devices. Several threads may share a recognizer.

    A picture is one of:

    - a path of a file in any format that Pillow reads;
    - a numpy array, uint8 or bool, of shape (height, width), (height, width, 1), (height, width, 3) RGB or
      (height, width, 4) with an ignored fourth channel;
    - a PIL image of any mode.

    Examples:
        >>> recognizer = Recognizer("objects")
        >>> recognizer.register("mug", "mug.jpg")
        >>> print(recognizer.recognize("kitchen.jpg"))
        mug (p = 0.97)
    """

    encoder: Encoder
    """Computes the embeddings."""
    head: SigmoidDistanceHead
    """Turns distances of embeddings into probabilities."""

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
        keep_crops: bool = True,
    ) -> None:
        """Create a recognizer without objects.

        Args:
            source: the name of a shipped bundle (`objects` for photographs, `glyphs` for handwriting), the directory of
                a bundle, a loaded bundle, or an encoder, which needs `head` and `threshold` too.
            threshold: a fixed general threshold, a probability from 0 to 1. None: the one for `false_accept_rate`.
            false_accept_rate: the share of pictures of other things that may be recognized as a registered object. The
                threshold follows from the registered objects and the bundle's impostors. None: 0.01.
            head: replaces the bundle's head.
            runtime: `onnxruntime`, `tflite-runtime`, `ai-edge-litert`, or `auto` for the first that is installed.
            precision: `int8` or `fp32`, the bundle's file to run.
            threads: threads of the runtime; None for the number of cores, at most 4.
            keep_crops: keep a picture of each view, at most 192 pixels wide and high, in memory. `save` writes them, so
                that a device with another model can learn the objects too.

        Raises:
            BundleNotFound, BundleError: the bundle does not exist or is damaged.
            RuntimeNotInstalled, EncoderError: no runtime can run the encoder.
            SettingsError: the bundle has neither a threshold nor enough impostors for the rate, the threshold is not a
                probability, or an encoder was passed without head or threshold.
        """
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise SettingsError(f"a threshold is a probability from 0 to 1, not {threshold}")
        if isinstance(source, (str, os.PathLike)):
            source = load_bundle(source)
        if isinstance(source, Bundle):
            self.encoder = load_encoder(source, runtime, precision, threads)
            self.head = head or source.head
            self._acceptance = choose_acceptance(source, threshold, false_accept_rate)
        elif head is None or threshold is None:
            raise SettingsError("an encoder has neither head nor threshold: pass both, or pass a bundle")
        else:
            self.encoder, self.head = source, head
            self._acceptance = Acceptance(threshold)
        self._store = SupportStore(
            None,
            self.encoder.model_id,
            self.encoder.dimensions,
            unit_length=self.encoder.unit_length,
            keep_crops=keep_crops,
        )
        self._support: tuple[SupportSet, float] | None = None
        """The support set and the general threshold; None after a change."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Recognizer: {len(self.support)} objects, {self.encoder.model_id}, threshold {self.threshold:.4f}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the registered objects, in the order of registration."""
        with self._lock:
            return tuple(item.name for item in self._store.objects())

    @property
    def support(self) -> SupportSet:
        """The support set: the embeddings of all views and negatives, and the limits of the objects."""
        return self._support_and_threshold()[0]

    @property
    def threshold(self) -> float:
        """The general threshold: p(same) that an object needs to be recognized. It follows from the registered objects."""
        return self._support_and_threshold()[1]

    @property
    def threshold_source(self) -> str:
        """Origin of the threshold, such as `0.01 of 2000 pictures of other things pass`."""
        return self._acceptance.description

    def _support_and_threshold(self) -> tuple[SupportSet, float]:
        with self._lock:
            if self._support is None:
                self._support = self._acceptance.build_support(
                    self._store.entries(), self.encoder.dimensions, self.head
                )
            return self._support

    def register(self, name: str, *pictures: Picture) -> None:
        """Register an object, or add views to a registered one.

        Each picture becomes a view: the mean of the embeddings of the picture and of four small variations of it, as the
        daemon registers one frame. Two to five views from different sides make recognition more reliable.

        Args:
            name: 1 to 80 characters; case does not matter.
            pictures: one or more, each of one view of the object that fills most of the picture.

        Raises:
            SupportError: the name is not valid, or there is no picture.
            ImageError: something is not a picture. Nothing is registered then.
            EncoderError: the runtime failed.
        """
        if not pictures:
            raise SupportError(f'"{name}" needs at least one picture')
        views = [
            NewView(embed_view([pixels], self.encoder), self._crops(pixels), "picture")
            for pixels in map(to_pixels, pictures)
        ]
        with self._lock:
            self._support = None
            first, *others = views
            if self._is_registered(name):
                self._store.add_view(name, first)
            else:
                self._store.register(name, first)
            for view in others:
                self._store.add_view(name, view)

    def add_negative(self, name: str, *pictures: Picture) -> None:
        """Add negatives: pictures that were recognized as an object and show something else.

        A picture that is nearer to a negative of an object than to its views is not recognized as that object.

        Args:
            name: name of a registered object.
            pictures: one or more.

        Raises:
            NoSuchObject: there is no such object.
            SupportError: there is no picture.
            ImageError: something is not a picture. Nothing is added then.
            EncoderError: the runtime failed.
        """
        if not pictures:
            raise SupportError(f'a negative of "{name}" needs at least one picture')
        negatives = [
            NewView(self._embed(pixels), self._crops(pixels), "picture")
            for pixels in map(to_pixels, pictures)
        ]
        with self._lock:
            self._support = None
            for negative in negatives:
                self._store.add_negative(name, negative)

    def forget(self, name: str) -> None:
        """Forget an object, its views and its negatives; raises `NoSuchObject` if it is not registered."""
        with self._lock:
            self._support = None
            self._store.forget(name)

    def recognize(self, picture: Picture) -> Recognition:
        """Name what a picture shows.

        Args:
            picture: any size; the encoder reads its largest centered part of the encoder's aspect ratio.

        Returns:
            The object and its probability, or None as its name, with the rule that decided; see `Recognition`.

        Raises:
            ImageError: it is not a picture.
            EncoderError: the runtime failed.
        """
        image = prepare(to_pixels(picture), self.encoder.preprocessing)
        if is_blank(image):
            return blank_recognition(self.threshold)
        embedding = self.encoder.embed_prepared(image[np.newaxis])[0]
        support, threshold = self._support_and_threshold()
        return decide(support, self.head, embedding, threshold)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all objects to an archive, the file that `edge-siamese objects import` reads.

        Args:
            path: the .zip file, which is replaced atomically.

        Raises:
            StoreError: the file cannot be written.
        """
        with self._lock:
            self._store.export_archive(path)

    def load(self, path: str | os.PathLike[str], on_conflict: OnConflict = "rename") -> ImportResult:
        """Add the objects of an archive, which `save` or `edge-siamese objects export` wrote.

        An object that is already here, by its uid, gets the views that it lacks. Views embedded by another model are
        embedded again from their pictures; without pictures, they are skipped.

        Args:
            path: the .zip file. It is not trusted: sizes, names and pictures are checked.
            on_conflict: what to do with a new object whose name is taken: `rename` it, `skip` it, or `merge` its views
                into the object of that name.

        Returns:
            What was added.

        Raises:
            StoreError: the file cannot be read, is damaged, or is not an archive. Nothing is added then.
            EncoderError: the runtime failed.
        """
        with self._lock:
            self._support = None
            result = self._store.import_archive(path, on_conflict)
            for view_id in self._store.unembedded():
                crops = [
                    self._store.crop(view_id, index) for index in range(self._store.picture_count(view_id))
                ]
                self._store.set_embeddings({view_id: embed_view(crops, self.encoder)})
        return result

    def _embed(self, pixels: npt.NDArray[Any]) -> Floats:
        return self.encoder.embed([pixels])[0]

    def _crops(self, pixels: npt.NDArray[Any]) -> tuple[Bytes, ...]:
        if not self._store.keep_crops:
            return ()
        return (make_crop(pixels, self.encoder.preprocessing, CROP_SIDE),)

    def _is_registered(self, name: str) -> bool:
        try:
            self._store.object(name)
        except SupportError:
            return False
        return True
