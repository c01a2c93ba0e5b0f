"""Inference runtimes: chooses one that works here and gives its encoder."""

from __future__ import annotations

import time
from pathlib import Path

from edge_siamese.errors import BundleNotFound, RuntimeNotInstalled, SettingsError
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.runtimes.availability import Runtime, RuntimeStatus, status
from edge_siamese.runtimes.encoder import GraphEncoder, default_threads
from edge_siamese.runtimes.names import AUTO, PRECISIONS, RUNTIMES
from edge_siamese.runtimes.onnx import ONNXRUNTIME
from edge_siamese.runtimes.tflite import AI_EDGE_LITERT, TFLITE_RUNTIME
from edge_siamese.validation import nearest

__all__ = [
    "AUTO",
    "PRECISIONS",
    "RUNTIMES",
    "Encoder",
    "GraphEncoder",
    "RuntimeStatus",
    "available_runtimes",
    "load_encoder",
    "runtime_format",
    "runtime_statuses",
]

_KNOWN = {runtime.name: runtime for runtime in (AI_EDGE_LITERT, TFLITE_RUNTIME, ONNXRUNTIME)}
_ORDER = tuple(_KNOWN[name] for name in RUNTIMES)


def load_encoder(
    bundle: Bundle | str | Path, runtime: str = AUTO, precision: str = "int8", threads: int | None = None
) -> GraphEncoder:
    """Load the encoder of a bundle.

    Args:
        bundle: a bundle, or the directory of one.
        runtime: one of `RUNTIMES`, or "auto" for the first that works here and has a file in the bundle; the
            encoder's `runtime` and `reason` tell which one it is.
        precision: int8 or fp32.
        threads: None for the processor's cores, at most four.

    Returns:
        An encoder that may be used from several threads.

    Raises:
        RuntimeNotInstalled: the runtime does not work here, or none does; the message says what to install.
        BundleNotFound: the bundle has no file of this format and precision.
        BundleError: the directory holds no proper bundle; see `load_bundle`.
        EncoderError: the runtime cannot load the file.
        SettingsError: no such runtime or precision, or fewer threads than one.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f'the precision is int8 or fp32, not "{precision}"')
    if threads is not None and threads < 1:
        raise SettingsError(f"at least one thread is needed, not {threads}")
    if runtime != AUTO:
        _require_known(runtime)
    if not isinstance(bundle, Bundle):
        bundle = load_bundle(bundle)
    chosen, found, reason = _choose(bundle, precision) if runtime == AUTO else _named(runtime)
    path = bundle.model_path(chosen.format, precision)
    assert found.module is not None  # it is usable
    threads = threads or default_threads()
    start = time.perf_counter()
    graph = chosen.open(found.module, path, threads)
    return GraphEncoder(
        graph,
        bundle.manifest,
        path,
        runtime=chosen.name,
        version=found.version,
        precision=precision,
        threads=threads,
        reason=f"{found}: {reason}",
        import_seconds=found.import_seconds,
        load_seconds=time.perf_counter() - start,
    )


def available_runtimes() -> tuple[str, ...]:
    """The names of the runtimes that work here, in the order in which "auto" tries them."""
    return tuple(found.name for found in runtime_statuses() if found.usable)


def runtime_statuses() -> tuple[RuntimeStatus, ...]:
    """Every known runtime with its version, or with what keeps it from working here. Imports all of them."""
    return tuple(status(runtime) for runtime in _ORDER)


def runtime_format(runtime: str) -> str:
    """The format of the files that a runtime reads: onnx or tflite.

    Raises:
        SettingsError: no such runtime.
    """
    return _require_known(runtime).format


def _require_known(name: str) -> Runtime:
    for runtime in _ORDER:
        if runtime.name == name:
            return runtime
    names = (AUTO, *RUNTIMES)
    raise SettingsError(
        f'there is no runtime "{name}"{nearest(name, names)}; choose one of {", ".join(names)}'
    )


def _named(name: str) -> tuple[Runtime, RuntimeStatus, str]:
    runtime = _require_known(name)
    found = status(runtime)
    if not found.usable:
        raise RuntimeNotInstalled(f"{name} is {found.problem}; to get it: {runtime.install}")
    return runtime, found, "asked for"


def _choose(bundle: Bundle, precision: str) -> tuple[Runtime, RuntimeStatus, str]:
    """The first runtime that works and has a file, and the story of those before it."""
    formats = {model.format for model in bundle.manifest.models if model.precision == precision}
    if not formats:
        raise BundleNotFound(f"{bundle.manifest.model_id} has no {precision} encoder in any format")
    story: list[str] = []
    for runtime in _ORDER:
        if runtime.format not in formats:
            story.append(f"{runtime.name} (no {precision} {runtime.format} in the bundle)")
            continue
        found = status(runtime)
        if found.usable:
            names = [*story, *RUNTIMES[len(story) :]]
            return runtime, found, f"first that works of {', '.join(names)}"
        story.append(str(found))
    hint = next(runtime.install for runtime in _ORDER if runtime.format in formats)
    raise RuntimeNotInstalled(f"no inference runtime works here: {', '.join(story)}; to get one: {hint}")
