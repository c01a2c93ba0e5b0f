"""Selection of an inference runtime that works on this machine, and loading of its encoder."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import sys
import time
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np

from edge_siamese.errors import BundleNotFound, RuntimeNotInstalled, SettingsError, first_line
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.registry import AUTO, PRECISIONS, RUNTIMES, RuntimeDriver
from edge_siamese.runtimes.encoder import GraphEncoder, default_threads
from edge_siamese.validation import nearest

# On 64-bit Arm tflite-runtime starts fastest and takes the least memory; elsewhere its int8 kernels are slow.
_FIRST = "tflite-runtime" if platform.machine().lower() in ("aarch64", "arm64") else "ai-edge-litert"
AUTO_ORDER: tuple[str, ...] = (_FIRST, *(name for name in RUNTIMES if name != _FIRST))
"""Names of runtimes, in the order in which `auto` tries them on this machine."""


@dataclass(frozen=True)
class RuntimeStatus:
    """Whether a runtime works in this process."""

    name: str
    version: str
    """Empty if it is not installed."""
    problem: str
    """Empty if it works; else "not installed" or "not usable: ..."."""
    module: ModuleType | None
    """The imported package; None if it does not work."""
    import_seconds: float | None
    """None if it was imported before."""

    @property
    def usable(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.usable else f"{self.name} ({self.problem})"


def load_encoder(
    bundle: Bundle | str | os.PathLike[str],
    runtime: str = AUTO,
    precision: str = "int8",
    threads: int | None = None,
) -> GraphEncoder:
    """Load the encoder of a bundle.

    Args:
        bundle: a loaded bundle, the name of a shipped one, such as `objects`, or the directory of one.
        runtime: the name of a runtime, or "auto" for the first that works here and has a file in the bundle. The
            encoder's `runtime` and `reason` say which one was selected and why.
        precision: int8 or fp32.
        threads: threads of the runtime; None for the processor's cores, at most four.

    Returns:
        An encoder that may be used from several threads.

    Raises:
        RuntimeNotInstalled: the runtime does not work here, or none does; the message says what to install.
        BundleNotFound: the bundle has no file of this format and precision.
        BundleError: the directory holds no valid bundle; see `load_bundle`.
        EncoderError: the runtime cannot load the file.
        SettingsError: there is no such runtime or precision, or `threads` is less than one.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f'the precision is int8 or fp32, not "{precision}"')
    if threads is not None and threads < 1:
        raise SettingsError(f"at least one thread is needed, not {threads}")
    if runtime != AUTO:
        runtime_format(runtime)
    if not isinstance(bundle, Bundle):
        bundle = load_bundle(bundle)
    status, reason = select_runtime(bundle, runtime, precision)
    driver = RUNTIMES[status.name]
    path = bundle.model_path(driver.format, precision)
    threads = threads or default_threads()
    start = time.perf_counter()
    content = bundle.read(bundle.manifest.model(driver.format, precision).path) if bundle.signer else None
    graph = driver.load()(status.module, path, threads, content)
    return GraphEncoder(
        graph,
        bundle.manifest,
        path,
        runtime=status.name,
        version=status.version,
        precision=precision,
        threads=threads,
        reason=f"{status}: {reason}",
        import_seconds=status.import_seconds,
        load_seconds=time.perf_counter() - start,
    )


def select_runtime(bundle: Bundle, runtime: str, precision: str) -> tuple[RuntimeStatus, str]:
    """Return the runtime that `load_encoder` would use, and why; raises the same errors."""
    return _select(bundle, precision) if runtime == AUTO else _require(runtime)


def available_runtimes() -> tuple[str, ...]:
    """Return the names of the runtimes that work here, in the order in which "auto" tries them."""
    return tuple(status.name for status in runtime_statuses() if status.usable)


def runtime_statuses() -> tuple[RuntimeStatus, ...]:
    """Import every known runtime and return its version, or the reason why it does not work here."""
    return tuple(runtime_status(name, RUNTIMES[name]) for name in AUTO_ORDER)


def runtime_format(runtime: str) -> str:
    """Return the format of the files that a runtime reads: onnx or tflite.

    Raises:
        SettingsError: there is no such runtime.
    """
    if runtime not in RUNTIMES:
        names = (AUTO, *AUTO_ORDER)
        raise SettingsError(
            f'there is no runtime "{runtime}"{nearest(runtime, names)}; choose one of {", ".join(names)}'
        )
    return RUNTIMES[runtime].format


@cache
def runtime_status(name: str, driver: RuntimeDriver) -> RuntimeStatus:
    """Import a runtime and try it.

    The result is cached until the process ends: a compiled module must not be imported twice.
    """
    (library,) = driver.libraries
    package = library.split(".")[0]
    imported_before = library in sys.modules
    stderr = io.StringIO()  # numpy 2 prints a long warning when it loads a module built for numpy 1
    start = time.perf_counter()
    try:
        with contextlib.redirect_stderr(stderr):
            module = importlib.import_module(library)
            seconds = None if imported_before else time.perf_counter() - start
            driver.load().check_package(module)
    except ModuleNotFoundError as error:
        missing = error.name in (package, library)
        problem = "not installed" if missing else f"not usable: it needs the module {error.name}"
        return RuntimeStatus(name, "", problem, None, None)
    except Exception as error:  # a broken compiled module may raise any exception
        return RuntimeStatus(name, _version(package), f"not usable: {_cause(error)}", None, None)
    print(stderr.getvalue(), end="", file=sys.stderr)
    return RuntimeStatus(name, _version(package), "", module, seconds)


def _require(name: str) -> tuple[RuntimeStatus, str]:
    status = runtime_status(name, RUNTIMES[name])
    if not status.usable:
        raise RuntimeNotInstalled(f"{name} is {status.problem}; to get it: {RUNTIMES[name].install}")
    return status, "requested"


def _select(bundle: Bundle, precision: str) -> tuple[RuntimeStatus, str]:
    """Return the first runtime that works and has a file, and why: the runtimes that were tried, in order."""
    formats = {model.format for model in bundle.manifest.models if model.precision == precision}
    if not formats:
        raise BundleNotFound(f"{bundle.manifest.model_id} has no {precision} encoder in any format")
    tried: list[str] = []
    for name in AUTO_ORDER:
        driver = RUNTIMES[name]
        if driver.format not in formats:
            tried.append(f"{name} (no {precision} {driver.format} in the bundle)")
            continue
        status = runtime_status(name, driver)
        if status.usable:
            names = [*tried, *AUTO_ORDER[len(tried) :]]
            return status, f"first usable one of {', '.join(names)}"
        tried.append(str(status))
    hint = next(RUNTIMES[name].install for name in AUTO_ORDER if RUNTIMES[name].format in formats)
    raise RuntimeNotInstalled(f"no inference runtime works here: {', '.join(tried)}; to get one: {hint}")


def _version(package: str) -> str:
    return str(getattr(sys.modules.get(package), "__version__", "of unknown version"))


def _cause(error: BaseException) -> str:
    """Describe the first error of a chain, which explains the others."""
    line = first_line(error)
    if "numpy" in line and int(np.__version__.split(".")[0]) >= 2:
        return f"it was built for numpy 1 and numpy {np.__version__} is installed"
    return line
