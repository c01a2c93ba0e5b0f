"""The self-test of a model in a confined child process.

A damaged model file can crash its runtime, compute forever or exhaust the memory. So an untrusted bundle is tested in a
child process before this process opens its encoder. Shipped bundles are trusted.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edge_siamese import __version__
from edge_siamese.errors import EdgeSiameseError, ModelCrashed, SandboxError, SelfTestFailed
from edge_siamese.models import describe_shipped
from edge_siamese.models.bundle import MANIFEST, Bundle, load_bundle
from edge_siamese.models.selftest import SelfTestReport, self_test
from edge_siamese.runtimes.selection import load_encoder, select_runtime
from edge_siamese.system.sandbox import ConfinedChild, Limits, Steps
from edge_siamese.validation import SchemaError, convert

T = TypeVar("T")

LOG = logging.getLogger(__name__)

POLL_SECONDS = 0.02
_PUBLIC_TEMPORARY = Path("/var/tmp")  # readable by every account and located on disk


@dataclass(frozen=True)
class SelfTestResult:
    """The result of a self-test in a child."""

    report: SelfTestReport
    version: str
    """Version of the runtime."""
    reason: str
    """Why the runtime was selected."""


def run_self_test(
    bundle: Bundle, runtime: str, precision: str, threads: int | None = None, limits: Limits | None = None
) -> SelfTestResult:
    """Run a bundle's self-test in a confined child. A result that differs from the golden vectors is returned.

    Raises:
        ModelCrashed: the model crashes the runtime, takes too long or needs too much memory.
        SandboxError: the child could not be started.
        BundleError: the bundle lacks something that the engine needs.
        RuntimeNotInstalled, EncoderError: the encoder cannot be loaded.
    """
    return finish(self_test_steps(bundle, runtime, precision, threads, limits))


def try_encoder(bundle: Bundle, runtime: str, precision: str, threads: int | None = None) -> None:
    """Load the encoder of an untrusted bundle and embed an image, in a confined child.

    For commands that do not need golden vectors. Raises the errors of `run_self_test`.
    """
    if is_untrusted(bundle):
        finish(_confined(bundle, runtime, precision, threads, Limits(), with_golden=False))


def self_test_steps(
    bundle: Bundle, runtime: str, precision: str, threads: int | None = None, limits: Limits | None = None
) -> Generator[None, None, SelfTestResult]:
    """Run the self-test like `run_self_test`; yields at least every `POLL_SECONDS` while the child works."""
    steps = _confined(bundle, runtime, precision, threads, limits or Limits(), with_golden=True)
    result = yield from steps
    try:
        return convert(result, SelfTestResult)
    except SchemaError as error:  # the model's code may have written it
        raise ModelCrashed(
            f"the reply of {bundle.manifest.model_id} is not a result of a self-test"
        ) from error


def _confined(
    bundle: Bundle, runtime: str, precision: str, threads: int | None, limits: Limits, *, with_golden: bool
) -> Generator[None, None, dict[str, Any]]:
    status, _ = select_runtime(bundle, runtime, precision)
    with _readable_by_others(bundle) as directory:
        arguments: dict[str, Any] = {
            "directory": str(directory),
            "imported": status.name,
            "runtime": runtime,
            "precision": precision,
            "threads": threads,
            "with_golden": with_golden,
        }
        try:
            child = ConfinedChild(f"{__name__}:examine_model", limits, **arguments)
        except SandboxError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOEXEC):
                raise
            # An emulator runs this interpreter, and the kernel cannot start it.
            LOG.warning("%s; the model is tested in this process", error)
            return finish(examine_model(**arguments))
        try:
            while not child.poll(POLL_SECONDS):
                yield
            result: dict[str, Any] = child.result()
        except SandboxError as error:
            if not child.stage:
                raise  # it was not the model
            verb = "crashes" if error.reason.startswith("SIG") else "does not work on"
            text = f"the {precision} file of {bundle.manifest.model_id} {verb} {status}: {error.reason}"
            # The kernel may have killed it because other processes used up the memory.
            kind = SelfTestFailed if error.reason.startswith("SIGKILL") else ModelCrashed
            raise kind(text) from error
        except EdgeSiameseError as error:
            raise type(error)(str(error).replace(str(directory), str(bundle.path))) from None
        finally:
            child.close()
    return result


def finish(steps: Generator[Any, None, T]) -> T:
    """Run a generator to its end, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def is_untrusted(bundle: Bundle) -> bool:
    """Return whether a bundle is not one of those that are shipped with the program."""
    return not describe_shipped(bundle.path)


def self_test_key(bundle: Bundle, runtime: str, precision: str) -> str:
    """Return a hash of everything that the result of a self-test depends on, except for the processor's model.

    Raises `RuntimeNotInstalled` if no runtime can run the bundle here.
    """
    status, _ = select_runtime(bundle, runtime, precision)
    parts = (
        hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest(),
        *(status.name, status.version, precision, np.__version__, __version__, platform.machine()),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def examine_model(
    directory: str, imported: str, runtime: str, precision: str, threads: int | None, with_golden: bool
) -> Steps:
    """Load and test a bundle in the child; without `with_golden`, only load its encoder and embed an image."""
    from edge_siamese.registry import RUNTIMES
    from edge_siamese.runtimes.selection import runtime_status

    codecs.lookup(
        "cp437"
    )  # used for names in archives; the confined part may not be able to read Python's library
    yield str(runtime_status(imported, RUNTIMES[imported]))
    bundle = load_bundle(directory)
    if not with_golden:
        encoder = load_encoder(bundle, runtime, precision, threads)
        encoder.embed_prepared(np.zeros((1, *bundle.manifest.input.shape), np.uint8))
        return {}
    bundle.check()
    encoder = load_encoder(bundle, runtime, precision, threads)
    report = self_test(encoder, bundle.golden, bundle.head)
    return {"report": report.to_dict(), "version": encoder.version, "reason": encoder.reason}


@contextmanager
def _readable_by_others(bundle: Bundle) -> Iterator[Path]:
    """Yield the bundle's directory, or for root a copy that the child's account can read."""
    if os.geteuid() != 0:
        yield bundle.path
        return
    place = _PUBLIC_TEMPORARY if _PUBLIC_TEMPORARY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix="edge-siamese-") as directory:
        copy = Path(directory)
        for name in (MANIFEST, *(item.path for _, item in bundle.manifest.files())):
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, target)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield copy
