"""Loads the daemon's model: selection, self-test, and re-embedding of the objects.

`reembed` is a generator: between two steps, each at most one run of the encoder, the daemon answers requests, notifies the
watchdog, and recognizes with the previous model. Another thread decodes and prepares the pictures.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_siamese import __version__
from edge_siamese.errors import (
    EdgeSiameseError,
    ImageError,
    ModelCrashed,
    ModelError,
    ModelsInUse,
    SandboxError,
    SignatureToolError,
    StoreError,
    SupportError,
    describe_error,
)
from edge_siamese.models import default, describe_shipped, resolve
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.models.selftest import self_test
from edge_siamese.pictures import decode_png
from edge_siamese.recognition.embedding import mean_embedding, prepare_variations, variations_for
from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing
from edge_siamese.runtimes.confined_self_test import (
    SelfTestResult,
    finish,
    is_untrusted,
    self_test_key,
    self_test_steps,
)
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore
from edge_siamese.system.files import write_text_atomically
from edge_siamese.system.threads import DaemonThreadPool
from edge_siamese.validation import parse_json

LOG = logging.getLogger(__name__)

ATTEMPTS_FILE = "reembedding.json"
MAX_ATTEMPTS = 2
"""Attempts that may end the process: the first may have ended with a power cut."""
MAX_ATTEMPTS_BYTES = 1_000_000
# One thread for all pictures: the allocator keeps memory for each thread that has decoded one.
_PREPARING = DaemonThreadPool(1, "pictures")
POLL_SECONDS = 0.01
"""Longest time that a step waits for the thread that prepares pictures."""


@dataclass(frozen=True)
class LoadedModel:
    """A bundle and its encoder, which has passed the self-test on this machine."""

    bundle: Bundle
    encoder: GraphEncoder
    installed: bool
    """Whether it is the current installed model, rather than one that the settings name or the shipped one."""
    problem: str = ""
    """If this model replaces one that does not work: that model, and the reason; otherwise empty."""


def loading_current_model(
    settings: Settings,
    models: InstalledModels,
    report: Callable[[str], object],
    quarantined: Callable[[Path], bool] = lambda _: False,
) -> Generator[str, None, LoadedModel]:
    """Load and test the model that the settings name, else the current installed one, else the shipped one.

    A model that has not been tested here runs its self-test in a confined child first; meanwhile this yields status lines. A
    current model that fails is rejected in favor of the previous one. If there is none, or it is unknown which model is
    current, the shipped model is used, and the next start tries again.

    Args:
        settings: the daemon's settings.
        models: the installed models.
        report: receives a line when an unexpected model is used.
        quarantined: whether the model in a directory is in quarantine; then the shipped one is used.

    Raises:
        ModelError: no model is installed and none is shipped, or no installed one works.
        BundleError, RuntimeNotInstalled, EncoderError, SelfTestFailed: the model that the settings name, or the shipped
            one, does not work.
    """
    shipped = default()
    if settings.model.bundle:
        configured = resolve(settings.model.bundle)
        chosen = shipped if shipped is not None and quarantined(configured) else configured
        return (yield from _load_tested(chosen, settings, models, installed=False))
    try:
        path, line = models.begin()
    except ModelsInUse:
        raise  # tried again soon
    except ModelError as error:
        if shipped is None:
            raise
        path, line = None, f"{error}; using {describe_shipped(shipped)} instead"
    if line:
        report(line)
    if shipped is not None and path is not None and quarantined(path):
        return (yield from _load_tested(shipped, settings, models, installed=False))
    model = yield from _loading_installed(path, shipped, settings, models, report)
    return replace(model, problem=model.problem or line)


def _loading_installed(
    path: Path | None,
    shipped: Path | None,
    settings: Settings,
    models: InstalledModels,
    report: Callable[[str], object],
) -> Generator[str, None, LoadedModel]:
    """Load the current installed model, else the previous one, else the shipped one."""
    if path is None:
        if shipped is None:
            raise ModelError("no model is installed: edge-siamese model install BUNDLE")
        LOG.info("no model is installed; using %s", describe_shipped(shipped))
        return (yield from _load_tested(shipped, settings, models, installed=False))
    try:
        return (yield from _load_tested(path, settings, models, installed=True))
    except (SandboxError, SignatureToolError):
        raise  # it says nothing about the model
    except EdgeSiameseError as error:
        if shipped is not None and models.is_last(path):
            with suppress(EdgeSiameseError):  # if that one fails too, the first error is reported
                loaded = yield from _load_tested(shipped, settings, models, installed=False)
                line = f"{path.name} does not work ({error}); using {describe_shipped(shipped)} instead"
                report(line)
                return replace(loaded, problem=line)
        line = models.reject(str(error), path)
        report(line)
        previous, _ = models.begin()
        assert previous is not None  # there is one: the previous model, or one installed meanwhile
        return replace((yield from _load_tested(previous, settings, models, installed=True)), problem=line)


def loading_shipped_model(settings: Settings, models: InstalledModels) -> Generator[str, None, LoadedModel]:
    """Load and test the shipped model; yields and raises like `loading_current_model`."""
    shipped = default()
    if shipped is None:
        raise ModelError("no model is shipped with this release: edge-siamese model install BUNDLE")
    return (yield from _load_tested(shipped, settings, models, installed=False))


def load_tested_encoder(bundle: Bundle, settings: Settings) -> GraphEncoder:
    """Load a bundle's encoder as the daemon does, and compare its output with the golden vectors.

    Raises:
        SelfTestFailed: it does not compute what the workstation computed.
        RuntimeNotInstalled, EncoderError: it cannot be loaded.
    """
    model = settings.model
    encoder = load_encoder(bundle, model.runtime, model.precision, model.threads)
    self_test(encoder, bundle.golden, bundle.head).require()
    return encoder


def testing_model(
    bundle: Bundle, settings: Settings, models: InstalledModels
) -> Generator[str, None, SelfTestResult | None]:
    """Run the self-test of a bundle in a confined child, unless an earlier result is known; yields status lines.

    Returns:
        The result of the self-test; None if it was known.

    Raises:
        SelfTestFailed: the model crashes its runtime, exceeds a limit, or computes something else.
        SandboxError: the child could not be started.
    """
    model = settings.model
    key = self_test_key(bundle, model.runtime, model.precision)
    known = models.outcome(key)
    if known:
        raise ModelCrashed(known)
    return None if known == "" else (yield from _run_self_test(bundle, settings, models, key))


def repeat_self_test(bundle: Bundle, settings: Settings, models: InstalledModels) -> SelfTestResult:
    """Run the self-test in a confined child, even if its result is known; raises the errors of `testing_model`."""
    return finish(
        _run_self_test(
            bundle, settings, models, self_test_key(bundle, settings.model.runtime, settings.model.precision)
        )
    )


def _run_self_test(
    bundle: Bundle, settings: Settings, models: InstalledModels, key: str
) -> Generator[str, None, SelfTestResult]:
    model = settings.model
    steps = self_test_steps(bundle, model.runtime, model.precision, model.threads)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: SelfTestResult = done.value
            break
        except ModelCrashed as error:
            models.remember(key, str(error))
            raise
        yield f"testing the model {bundle.manifest.model_id}"
    result.report.require()
    models.remember(key)
    return result


def _load_tested(
    path: Path, settings: Settings, models: InstalledModels, *, installed: bool
) -> Generator[str, None, LoadedModel]:
    try:
        bundle = load_bundle(path, trusted_keys=settings.model.trusted_keys)
        if is_untrusted(bundle):
            yield from testing_model(bundle, settings, models)
        return LoadedModel(bundle, load_tested_encoder(bundle, settings), installed)
    except EdgeSiameseError:
        raise
    except Exception as error:
        LOG.exception("%s cannot be loaded", path)
        raise ModelError(f"{path.name} cannot be loaded: {describe_error(error)}") from error


def confirm_model(model: LoadedModel, models: InstalledModels) -> LoadedModel:
    """End the trial of a model that has worked, unless another one was installed meanwhile."""
    try:
        if models.current() == model.bundle.path:
            models.confirm()
    except ModelsInUse:
        return model  # tried again later
    except EdgeSiameseError as error:
        LOG.warning("the model cannot be confirmed: %s", error)
    return replace(model, installed=False)


def reembed(
    store: SupportStore, model: LoadedModel, report: Callable[[int, str], object] = lambda *_: None
) -> Iterator[str]:
    """Embed the views that have no embedding of this model; yields a status line after each run of the encoder.

    `report` receives the number of each view that cannot be embedded, and the reason.

    Each view is saved as soon as it is embedded, so an interrupted run continues where it stopped. The store serves
    the previous model until all views are done, so nothing is scored against a partial set.

    A view that was being embedded when the process ended comes last, and is skipped after the second time.
    """
    encoder = model.encoder
    attempts = EmbeddingAttempts(store.path.parent, encoder.model_id)
    failed: set[int] = set()
    started, done = time.monotonic(), 0
    while True:
        # Queried again each time: something may have been registered with the previous model meanwhile.
        with store.with_model(encoder.model_id, encoder.dimensions, encoder.unit_length):
            missing = [view for view in store.unembedded() if view not in failed]
        if not missing:
            break
        for view in sorted(missing, key=attempts.count):
            line = f"re-embedding the objects for {encoder.model_id}: {done} of {done + len(missing)} views"
            if attempts.exhausted(view):
                LOG.warning("view %d is not re-embedded: the daemon crashed on it twice", view)
                failed.add(view)
                report(view, "the daemon crashed twice while embedding it")
                continue
            yield line
            try:
                with attempts.attempt(view):
                    embedding = yield from _embed_view(store, view, encoder, line)
            except (StoreError, SupportError, ImageError, ValueError) as error:
                LOG.warning("view %d cannot be re-embedded: %s", view, error)
                failed.add(view)
                report(view, str(error))
                continue
            while store.busy:  # an import
                yield line
            with store.with_model(encoder.model_id, encoder.dimensions, encoder.unit_length):
                store.set_embeddings({view: embedding})
            done += 1
    attempts.close()
    if done:
        LOG.info("re-embedded %d views in %.1f s", done, time.monotonic() - started)


def _embed_view(
    store: SupportStore, view: int, encoder: GraphEncoder, line: str
) -> Generator[str, None, Floats]:
    """Return the embedding of a view from its stored pictures; yields `line` after each run of the encoder."""
    count = store.picture_count(view)
    if not count:
        raise ValueError("its pictures are no longer stored")
    parts: list[Floats] = []
    for index in range(count):
        picture = store.crop_png(view, index)
        prepared = _PREPARING.submit(prepare_picture, picture, count, encoder.preprocessing)
        while not wait([prepared], POLL_SECONDS).done:
            yield line
        for image in prepared.result():
            parts.append(encoder.embed_prepared(image[np.newaxis]))
            yield line
    return mean_embedding(np.concatenate(parts))


def prepare_picture(picture: bytes, count: int, to: Preprocessing) -> Bytes:
    """Decode one of `count` pictures of a view and prepare it with its variations: uint8 (N, H, W, C)."""
    return prepare_variations(decode_png(picture), to, variations_for(count))


class EmbeddingAttempts:
    """A file with the views that were being embedded when the process ended.

    A view whose pictures crash the process, or use up its memory, would otherwise be tried at each start forever. The file
    is valid for one model of one release: another one may succeed.
    """

    def __init__(self, directory: Path, model_id: str) -> None:
        """Read the file in a directory; an unreadable one counts as empty."""
        self._path = directory / ATTEMPTS_FILE
        self._header = {"version": __version__, "model_id": model_id}
        self._counts = self._read()

    def count(self, view: int) -> int:
        """Return how often the process ended while this view was embedded."""
        return self._counts.get(view, 0)

    def exhausted(self, view: int) -> bool:
        """Return whether the view is not to be tried again."""
        return self.count(view) >= MAX_ATTEMPTS

    @contextmanager
    def attempt(self, view: int) -> Iterator[None]:
        """Count an attempt to embed a view in the body of the `with` statement.

        An expected error or a regular stop does not count. Anything else, such as exhausted memory, does.
        """
        before = self.count(view)
        self._counts[view] = before + 1
        self._write()
        try:
            yield
        except (GeneratorExit, OSError, ValueError):
            self._counts[view] = before
            self._write()
            raise
        del self._counts[view]  # written with the next attempt, or by `close`

    def close(self) -> None:
        """Write the file, or remove it if no attempts remain."""
        if any(self._counts.values()):
            self._write()
        else:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> dict[int, int]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            with self._path.open("rb") as file:
                value = parse_json(file.read(MAX_ATTEMPTS_BYTES))
            if {key: value[key] for key in self._header} == self._header:
                return {int(view): int(count) for view, count in value["views"].items()}
        return {}

    def _write(self) -> None:
        try:
            views = {str(view): count for view, count in self._counts.items() if count}
            write_text_atomically(self._path, json.dumps({**self._header, "views": views}) + "\n")
        except OSError as error:  # such as a full disk; the view is embedded all the same
            LOG.debug("%s cannot be written: %s", self._path, error)
