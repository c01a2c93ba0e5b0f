"""Brings an engine up: the current model, its self-test, the store, and objects that a new model has to learn anew.

It goes in steps, so that the daemon meanwhile answers, keeps the watchdog content, and recognizes with the model that
it had before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_siamese.daemon.embedding_attempts import Attempts
from edge_siamese.errors import (
    EdgeSiameseError,
    ImageError,
    ModelError,
    ModelsInUse,
    StoreError,
    SupportError,
)
from edge_siamese.models import default, described, resolve
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.models.selftest import self_test
from edge_siamese.recognition.embedding import embed_picture, mean_embedding
from edge_siamese.recognition.imaging import Floats
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that proved itself here."""

    bundle: Bundle
    encoder: GraphEncoder
    installed: bool
    """Whether it is the current one of the installed models, and not one that the settings name, or the shipped one."""


def load_current_model(
    settings: Settings, models: InstalledModels, told: Callable[[str], object]
) -> LoadedModel:
    """Load the model that the settings name, or the current one, or the shipped one, and let it prove itself.

    A current model that fails is given up for the previous one. Where there is none, the shipped one is used meanwhile,
    and the current one is tried again the next time. `told` is given the line that says so.

    Raises:
        ModelError: no model is installed and none is shipped, or none that is installed works.
        BundleError, RuntimeNotInstalled, EncoderError, SelfTestFailed: the model that the settings name, or the shipped
            one, does not work.
    """
    if settings.model.bundle:
        return _tested(resolve(settings.model.bundle), settings, installed=False)
    path, line = models.begin()
    if line:
        told(line)
    shipped = default()
    if path is None:
        if shipped is None:
            raise ModelError("no model is installed: edge-siamese model install BUNDLE")
        LOG.info("no model is installed: %s, is used", described(shipped))
        return _tested(shipped, settings, installed=False)
    try:
        return _tested(path, settings, installed=True)
    except EdgeSiameseError as error:
        if shipped is not None and models.is_last(path):
            with suppress(EdgeSiameseError):  # if that one does not work either, the first reason is told
                found = _tested(shipped, settings, installed=False)
                told(f"{path.name} does not work ({error}); {described(shipped)}, is used instead")
                return found
        told(models.reject(str(error), path))
        back, _ = models.begin()
        assert back is not None  # one is current: the former, or one that came meanwhile
        return _tested(back, settings, installed=True)


def proven_encoder(bundle: Bundle, settings: Settings) -> GraphEncoder:
    """Load a bundle's encoder as the daemon will, and let it prove itself by the golden vectors.

    Raises:
        SelfTestFailed: it does not compute what the workstation computed.
        RuntimeNotInstalled, EncoderError: it cannot be loaded.
    """
    model = settings.model
    encoder = load_encoder(bundle, model.runtime, model.precision, model.threads)
    self_test(encoder, bundle.golden, bundle.head).require()
    return encoder


def _tested(path: Path, settings: Settings, *, installed: bool) -> LoadedModel:
    bundle = load_bundle(path)
    return LoadedModel(bundle, proven_encoder(bundle, settings), installed)


def confirmed(recognizer: LoadedModel, models: InstalledModels) -> LoadedModel:
    """The model has worked, so its trial ends; unless another one has been installed meanwhile, whose trial it is."""
    try:
        if models.current() == recognizer.bundle.path:
            models.confirm()
    except ModelsInUse:
        return recognizer  # to be tried again
    except EdgeSiameseError as error:
        LOG.warning("the model cannot be confirmed: %s", error)
    return replace(recognizer, installed=False)


def reembed(store: SupportStore, recognizer: LoadedModel) -> Iterator[str]:
    """Embed with this model what was only embedded with another; yields a line between two pictures.

    Each view is kept as soon as it is embedded, so what a power cut interrupts goes on where it was. Nothing is scored
    against them before all are there: until then the store is seen with the former model.

    A view whose pictures end the process each time does not keep the others from being learned: what was being tried
    then comes last, and after a second time not at all.
    """
    encoder = recognizer.encoder
    attempts = Attempts(store.path.parent, encoder.model_id)
    failed: set[int] = set()
    started, done = time.monotonic(), 0
    while True:
        # Asked again each time: meanwhile somebody may have registered something with the former model.
        with store.with_model(encoder.model_id, encoder.dimensions):
            missing = [view for view in store.unembedded() if view not in failed]
        if not missing:
            break
        for view in sorted(missing, key=attempts.of):
            line = f"learning the objects anew for {encoder.model_id}: {done} of {done + len(missing)} views"
            if attempts.is_hopeless(view):
                LOG.warning("view %d is not learned anew: the daemon ended twice while it was", view)
                failed.add(view)
                continue
            yield line
            try:
                with attempts.at(view):
                    embedding = yield from _embedded(store, view, encoder, line)
            except (StoreError, SupportError, ImageError, ValueError) as error:
                LOG.warning("view %d cannot be learned anew: %s", view, error)
                failed.add(view)
                continue
            with store.with_model(encoder.model_id, encoder.dimensions):
                store.set_embeddings({view: embedding})
            done += 1
    attempts.close()
    if done:
        LOG.info("learned %d views anew in %.1f s", done, time.monotonic() - started)


def _embedded(
    store: SupportStore, view: int, encoder: GraphEncoder, line: str
) -> Generator[str, None, Floats]:
    """The embedding of a view, one picture at a time; yields the line between two."""
    count = store.picture_count(view)
    if not count:
        raise ValueError("it has no pictures any more")
    parts: list[Floats] = []
    for index in range(count):
        if index:
            yield line
        parts.append(embed_picture(store.crop(view, index), count, encoder))
    return mean_embedding(np.concatenate(parts))
